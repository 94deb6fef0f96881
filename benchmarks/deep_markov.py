"""JSB chorales: a deep Markov model against frames that know nothing of each other.

`PYROVAE_DATA=folder python -m benchmarks.deep_markov`
"""

from __future__ import annotations

import copy
import time
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
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


class LatentsScaled(Messenger):
    """Scale the log densities of latents: the rate counts `weight` times in an objective, and once elsewhere."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] == "z":
            msg["scale"] = msg["scale"] * self.weight


class Warmed(nn.Module):
    """A program whose latents are scaled while it warms up."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program, self.weight = program, 1.0

    def forward(self, *arguments: Any) -> None:
        """The program."""
        with LatentsScaled(self.weight):
            self.program(*arguments)


def deep_markov() -> pv.VAE:
    """The chain, and a posterior whose states know past and future."""
    transition = Normal(GatedTransition(K, hidden_size=HIDDEN))
    model = DeepMarkovModel(LearnedNormal(K), transition, Bernoulli(MLP(K, 88, [HIDDEN])))
    network = GRU(88, STATE, past=True, future=True)
    step = DiagonalNormal(MLP(K + network.out_features, (K, K), [HIDDEN]))
    return pv.VAE(Warmed(model), Warmed(AmortizedGuide(MarkovPosterior(network, step, K))))


def independent_frames() -> pv.VAE:
    """The same latent size, a learned normal prior of z_t, wider networks."""
    model = IndependentFrames(LearnedNormal(K), Bernoulli(MLP(K, 88, [WIDE, WIDE])))
    guide = AmortizedGuide(EachFrame(DiagonalNormal(MLP(88, (K, K), [WIDE]))))
    return pv.VAE(Warmed(model), Warmed(guide))


MODELS = {"deep Markov model": deep_markov, "independent frames": independent_frames}


def pieces(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences cut into rows of `PIECE` frames, the last of each shorter."""
    cut = [p for row, n in zip(x, lengths.tolist(), strict=True) for p in row[:n].split(PIECE)]
    return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True), torch.tensor([len(p) for p in cut])


def train(vae: pv.VAE, epochs: int) -> tuple[int, float]:
    """Train, and keep the parameters of the best validation ELBO; returns their epoch and the seconds."""
    train_rows, valid = pieces(*data.jsb_chorales("train")), data.jsb_chorales("valid")
    vae.rows(*train_rows)
    optimizer = torch.optim.Adam(vae.parameters(), lr=RATE)
    best, chosen, at, started = -float("inf"), vae.state_dict(), 0, time.perf_counter()
    for done in range(ROUND, epochs + 1, ROUND):
        for program in vae.modules():
            if isinstance(program, Warmed):
                program.weight = min(1.0, done / (WARM_UP + ROUND))
        pv.fit(
            vae,
            train_rows,
            epochs=ROUND,
            batch_size=BATCH,
            optimizer=optimizer,
            seed=SEED + done,
            progress=False,
        )
        bound = float(bounds(vae, valid, num_samples=5).elbo.sum() / valid[1].sum())
        print(f"epoch {done}: validation NLL bound {-bound:.3f} a step", flush=True)
        if bound > best:
            best, chosen, at = bound, copy.deepcopy(vae.state_dict()), done
    vae.load_state_dict(chosen)
    return at, time.perf_counter() - started


def bounds(vae: pv.VAE, rows: tuple[Tensor, Tensor], num_samples: int) -> pv.Elbo:
    """The ELBO of sequences of another padding: a VAE keeps to the one it has seen, so it takes another."""
    return pv.elbo(pv.VAE(vae.model, vae.guide), *rows, num_samples=num_samples, seed=SEED)


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
    "standard error is over test sequences. Where the epoch chosen is the last one, training had not yet converged."
)
SETTINGS = {
    "data": "JSB chorales (Boulanger-Lewandowski et al. 2012), 229 / 76 / 77 sequences, binary as they are",
    "deep Markov model": f"K = {K}, GatedTransition hidden {HIDDEN}, emission MLP {K}-{HIDDEN}-88, guide GRU of past "
    f"and future {STATE} each, step MLP hidden {HIDDEN}",
    "independent frames": f"K = {K}, p(z_t) a learned normal, emission MLP {K}-{WIDE}-{WIDE}-88, q(z_t|x_t) MLP "
    f"88-{WIDE}-({K}, {K})",
    "objective": f"Trace_ELBO, one sample; the rate's weight rises in steps to 1 over {WARM_UP} epochs",
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
