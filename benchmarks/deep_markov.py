"""JSB chorales: a deep Markov model against frames that know nothing of each other.

`PYROVAE_DATA=folder python -m benchmarks.deep_markov`
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import data, report
from pyrovae.guides import AmortizedGuide, DiagonalNormal, MarkovPosterior
from pyrovae.models import Bernoulli, DeepMarkovModel, LearnedNormal, Normal
from pyrovae.models.sequences import PaddedSequence
from pyrovae.nn import GRU, MLP, GatedTransition

K, HIDDEN, STATE = 32, 100, 100
WIDE = 300  # hidden layers of the frames' own networks, so that both pairs have about as many parameters
PIECE = 25  # frames of a training row: short ones give many steps of the optimizer for the time
BATCH, RATE = 32, 3e-3
EPOCHS, ROUND, WARM_UP = 150, 10, 30
SEED, SAMPLES = 0, 50


class IndependentFrames(nn.Module):
    """prod_t p(z_t) p(x_t|z_t): each frame has a latent of its own."""

    def __init__(self, prior: nn.Module, emission: nn.Module) -> None:
        super().__init__()
        self.prior, self.emission = prior, emission

    def forward(self, x: Tensor, lengths: Tensor) -> None:
        """The generative story for rows x, [B,T,88]."""
        with pyro.plate("rows", len(x)):
            prior: dist.TorchDistribution = self.prior()
            z = pyro.sample("z", PaddedSequence(prior.expand([x.shape[1]]), lengths))
            pyro.sample("x", PaddedSequence(self.emission(z), lengths), obs=x)


class EachFrame(nn.Module):
    """q(z|x) = prod_t q(z_t|x_t)."""

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor, lengths: Tensor) -> PaddedSequence:
        """The distribution of z [T,K] given x [..., T, 88]."""
        return PaddedSequence(self.posterior(x), lengths)


def deep_markov() -> pv.VAE:
    """The chain, and a posterior whose states know past and future."""
    transition = Normal(GatedTransition(K, hidden_size=HIDDEN))
    model = DeepMarkovModel(LearnedNormal(K), transition, Bernoulli(MLP(K, 88, [HIDDEN])))
    network = GRU(88, STATE, past=True, future=True)
    step = DiagonalNormal(MLP(K + network.out_features, (K, K), [HIDDEN]))
    return pv.VAE(model, AmortizedGuide(MarkovPosterior(network, step, K)))


def independent_frames() -> pv.VAE:
    """The same latent size, a learned normal prior of z_t, wider networks."""
    model = IndependentFrames(LearnedNormal(K), Bernoulli(MLP(K, 88, [WIDE, WIDE])))
    guide = AmortizedGuide(EachFrame(DiagonalNormal(MLP(88, (K, K), [WIDE]))))
    return pv.VAE(model, guide)


MODELS = {"deep Markov model": deep_markov, "independent frames": independent_frames}


def pieces(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences cut into rows of `PIECE` frames, the last of each shorter."""
    cut = [p for row, n in zip(x, lengths.tolist(), strict=True) for p in row[:n].split(PIECE)]
    return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True), torch.tensor([len(p) for p in cut])


class BestOfSome(pv.callbacks.Callback):
    """Keeps the parameters of the best validation ELBO, looked at every `ROUND` epochs."""

    def __init__(self) -> None:
        self.valid = data.jsb_chorales("valid")
        self.bound, self.epoch = -float("inf"), 0
        self.parameters: dict[str, Any] = {}

    def on_epoch(self, training: Any, row: Mapping[str, float]) -> None:
        """Look at the validation rows."""
        if training.epoch % ROUND:
            return
        bound = float(bounds(training.vae, self.valid, num_samples=5).elbo.sum() / self.valid[1].sum())
        print(f"epoch {training.epoch}: validation NLL bound {-bound:.3f} a step", flush=True)
        if bound > self.bound:
            self.bound, self.epoch = bound, training.epoch
            self.parameters = copy.deepcopy(training.vae.state_dict())


def train(vae: pv.VAE, epochs: int) -> tuple[int, float]:
    """Train, and take the parameters of the best validation ELBO; returns their epoch and the seconds."""
    best, started = BestOfSome(), time.perf_counter()
    pv.fit(
        vae,
        pieces(*data.jsb_chorales("train")),
        epochs=epochs,
        batch_size=BATCH,
        objective=pv.objectives.ELBO(beta=pv.objectives.LinearWarmUp(epochs=WARM_UP)),
        optimizer=lambda p: torch.optim.Adam(p, lr=RATE),
        seed=SEED,
        callbacks=[best],
        progress=False,
    )
    vae.load_state_dict(best.parameters)
    return best.epoch, time.perf_counter() - started


def bounds(vae: pv.VAE, rows: tuple[Tensor, Tensor], num_samples: int) -> pv.Elbo:
    """The ELBO of whole sequences, longer than the pieces that were trained on."""
    return pv.elbo(vae, *rows, num_samples=num_samples, seed=SEED)


def main() -> None:
    """Train and evaluate both."""
    x, lengths = data.jsb_chorales("test")
    table: list[dict[str, Any]] = []
    for name, build in MODELS.items():
        torch.manual_seed(SEED)
        vae = build()
        epoch, seconds = train(vae, EPOCHS)
        bound = bounds(vae, (x, lengths), num_samples=SAMPLES)
        steps = float(lengths.sum())
        table.append(
            {
                "model": name,
                "test NLL bound per step": -float(bound.elbo.sum()) / steps,
                "its standard error": _error_of_ratio(-bound.elbo, lengths.double()),
                "reconstruction per step": float(bound.reconstruction.sum()) / steps,
                "rate per step": float(bound.rate.sum()) / steps,
                "parameters": sum(p.numel() for p in vae.parameters()),
                "epoch chosen": epoch,
                "training seconds": round(seconds),
            }
        )
        report.write("deep_markov", "Deep Markov model on JSB chorales", pd.DataFrame(table), SETTINGS, NOTE)


def _error_of_ratio(total: Tensor, steps: Tensor) -> float:
    """Of sum(total) / sum(steps) over sequences (delta method)."""
    residual = total - steps * (total.sum() / steps.sum())
    return float(residual.std() * len(steps) ** 0.5 / steps.sum())


NOTE = (
    "Nats per time step of 88 notes, lower is better: the negative ELBO of all sequences over all their steps; the "
    "standard error is over test sequences. Where the epoch chosen is the last one, training had not yet converged. "
    "Pyro's tutorial on this set, with K = 100, wider networks and 5000 epochs, reaches 6.87, and Krishnan et al. "
    "(2017) 6.93: the table compares two small models in a short training, and is no figure of what the deep Markov "
    "model can do."
)
SETTINGS = {
    "data": "JSB chorales (Boulanger-Lewandowski et al. 2012), 229 / 76 / 77 sequences, binary as they are",
    "deep Markov model": f"K = {K}, GatedTransition hidden {HIDDEN}, emission MLP {K}-{HIDDEN}-88, guide GRU of past "
    f"and future {STATE} each, step MLP hidden {HIDDEN}",
    "independent frames": f"K = {K}, p(z_t) a learned normal, emission MLP {K}-{WIDE}-{WIDE}-88, q(z_t|x_t) MLP "
    f"88-{WIDE}-({K}, {K})",
    "objective": f"ELBO, one sample; the rate's weight rises to 1 over {WARM_UP} epochs",
    "optimizer": f"Adam, {RATE:g}",
    "batch": f"{BATCH} pieces of at most {PIECE} frames; validation and test on whole sequences",
    "epochs": f"{EPOCHS}, the best by the validation ELBO every {ROUND}",
    "seed": SEED,
    "samples": f"{SAMPLES} a sequence",
    "threads": 1,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
