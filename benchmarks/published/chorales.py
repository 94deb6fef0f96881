"""The deep Markov model on JSB chorales, with the networks and the schedule of Pyro's tutorial.

Krishnan, Shalit & Sontag, "Structured Inference Networks for Nonlinear State Space Models" (2017),
https://arxiv.org/abs/1609.09869; https://pyro.ai/examples/dmm.html. The tutorial divides the rate's weight, the
clipping and the weight decay out of sums over a minibatch; here gradients are means over its rows.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import pyrovae as pv
from benchmarks import data
from benchmarks.deep_markov import bounds
from benchmarks.published.figure import Figure, write
from benchmarks.published.training import Run, done, thinned
from pyrovae.guides import AmortizedGuide, MarkovPosterior
from pyrovae.models import Bernoulli, DeepMarkovModel
from pyrovae.nn import MLP, GatedTransition
from pyrovae.nn.ragged import step_mask

NOTES, K, EMISSION, TRANSITION, STATE = 88, 100, 100, 200, 600
EPOCHS, BATCH, SEED = 5000, 20, 0
RATE, BETAS, CLIP, DECAY, WEIGHT_DECAY = 3e-4, (0.96, 0.999), 10.0, 0.99996, 2.0
FIRST_WEIGHT, WARM_UP = 0.2, 0.2  # of the rate, and the share of the epochs over which it rises to 1
LOOK_EVERY, DRAWS = 10, 50
PUBLISHED = {
    "Pyro's tutorial": (6.87, "https://pyro.ai/examples/dmm.html"),
    "Krishnan et al.": (6.93, "https://arxiv.org/abs/1609.09869, table 1"),
}


class Transition(nn.Module):
    """p(z_t|z_{t-1}): a normal around a gated move."""

    def __init__(self) -> None:
        super().__init__()
        self.move = GatedTransition(K, TRANSITION)

    def forward(self, before: Tensor) -> dist.TorchDistribution:
        """The distribution of the next state."""
        location, raw = self.move(before)
        return dist.Normal(location, softplus(raw)).to_event(1)


class Initial(nn.Module):
    """p(z_1), the transition from a learned z_0."""

    def __init__(self, transition: Transition) -> None:
        super().__init__()
        self.transition, self.z_0 = transition, nn.Parameter(torch.zeros(K))

    def forward(self) -> dist.TorchDistribution:
        """The distribution of the first state."""
        return self.transition(self.z_0)


class Backwards(nn.Module):
    """States h_t of a recurrent network that reads a row's steps from the last to the t-th."""

    out_features = STATE

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.RNN(NOTES, STATE, nonlinearity="relu", batch_first=True)
        self.h_0 = nn.Parameter(torch.zeros(1, 1, STATE))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Steps [B,T,88] and lengths [B] -> states [B,T,H], 0 beyond the lengths."""
        mask = step_mask(lengths, x.shape[1]).unsqueeze(-1)
        place = torch.arange(x.shape[1], device=x.device).unsqueeze(-1)
        place = (mask.sum(1, keepdim=True) - 1 - place).where(mask, place)  # [B,T,1]

        def reverse(steps: Tensor) -> Tensor:
            return steps.gather(1, place.expand_as(steps))

        # Packed: half of all steps are padding, and most of a training's time is this network's.
        packed = pack_padded_sequence(reverse(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = self.network(packed, self.h_0.expand(1, len(x), STATE).contiguous())
        padded, _ = pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
        return reverse(padded)


class Combiner(nn.Module):
    """q(z_t|z_{t-1}, h_t)."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = nn.Linear(K, STATE)
        self.location, self.raw = nn.Linear(STATE, K), nn.Linear(STATE, K)

    def forward(self, before: Tensor, state: Tensor) -> dist.TorchDistribution:
        """The distribution of z_t."""
        both = 0.5 * (torch.tanh(self.reads(before)) + state)
        scale = softplus(self.raw(both))
        return dist.Normal(self.location(both), scale, validate_args=False).to_event(1)  # once a step


def pair() -> pv.VAE:
    """The chain and its guide."""
    transition = Transition()
    emission = Bernoulli(MLP(K, NOTES, [EMISSION, EMISSION]))
    model = DeepMarkovModel(Initial(transition), transition, emission)
    return pv.VAE(model, AmortizedGuide(MarkovPosterior(Backwards(), Combiner(), K)))


def trimmed(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """A minibatch without the steps that are padding in all of its rows."""
    return x[:, : lengths.max()], lengths


class Best(pv.callbacks.Callback):
    """Keeps the parameters of the best validation bound, looked at every so many epochs; a column of the history."""

    def __init__(self) -> None:
        self.valid = data.jsb_chorales("valid")
        self.bound, self.epoch = -math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def on_epoch(self, training: Any, row: dict[str, float]) -> None:
        """Look at the validation rows."""
        row["valid_per_step"] = math.nan
        if training.epoch % LOOK_EVERY:
            return
        bound = float(bounds(training.vae, self.valid, num_samples=5).elbo.sum() / self.valid[1].sum())
        row["valid_per_step"] = -bound
        if bound > self.bound:
            self.bound, self.epoch = bound, training.epoch
            self.weights = {name: t.detach().clone() for name, t in training.vae.tensors().items()}

    def state_dict(self) -> dict[str, object]:
        """For checkpoints."""
        return {"bound": self.bound, "epoch": self.epoch, "weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From one."""
        self.bound, self.epoch = float(state["bound"]), int(state["epoch"])
        self.weights = dict(state["weights"])


def main(run: Run) -> None:
    """Train, keep the best by validation, evaluate on the test chorales."""
    epochs = run.epochs or EPOCHS
    torch.manual_seed(SEED)
    vae, best = pair(), Best()
    history = run.fit(
        "chorales",
        vae,
        data.jsb_chorales("train"),
        epochs=epochs,
        every=LOOK_EVERY,
        batch_size=BATCH,
        transform=trimmed,
        objective=pv.objectives.ELBO(
            beta=pv.objectives.LinearWarmUp(epochs=WARM_UP * epochs, start=FIRST_WEIGHT), analytic_kl=False
        ),
        optimizer=lambda parameters: ClippedAdam(
            parameters,
            lr=RATE,
            betas=BETAS,
            clip_norm=CLIP / BATCH,
            lrd=DECAY,
            weight_decay=WEIGHT_DECAY / BATCH,
        ),
        seed=SEED,
        compile=False,  # chains of 129 steps are hundreds of kernels, which take longer to compile than they save
        callbacks=[best],
    )
    if best.weights:
        vae.take_values(best.weights)
    vae.save(run.folder / "chorales.vae")
    x, lengths = data.jsb_chorales("test")
    found = bounds(vae, (x, lengths), num_samples=DRAWS)
    steps = lengths.double()
    ours = -float(found.elbo.sum() / steps.sum())
    residual = -found.elbo - steps * ours
    error = float(residual.std() * len(steps) ** 0.5 / steps.sum())
    seconds = float(history["seconds"].sum())
    figures = [
        Figure(
            f"negative ELBO a time step, nats ({name})",
            ours,
            error,
            "se over test chorales",
            published,
            math.nan,
            source,
            done(history, EPOCHS),
            seconds,
        )
        for name, (published, source) in PUBLISHED.items()
    ]
    findings = FINDINGS.format(best.epoch, -best.bound, len(history), WARM_UP * epochs)
    write("chorales", "Deep Markov model, JSB chorales", figures, SETTINGS, findings, thinned(history))


FINDINGS = (
    "The weights are those of epoch {}, whose validation bound was the best: {:.3f} nats a step. {} epochs were done, "
    "and the rate's weight rises to 1 over the first {:.0f} of those planned."
)
SETTINGS = {
    "data": "JSB chorales (Boulanger-Lewandowski et al. 2012), 229 / 76 / 77 sequences",
    "model": f"z_t [{K}], gated transition {TRANSITION}, emission {K}-{EMISSION}-{EMISSION}-{NOTES}",
    "guide": f"a ReLU network of {STATE} states that reads backwards, and Pyro's combiner",
    "optimizer": f"Pyro's ClippedAdam, {RATE:g}, betas {BETAS}, decay {DECAY}, weight decay {WEIGHT_DECAY:g} and "
    f"clipping {CLIP:g} of a minibatch's sum, batches of {BATCH}",
    "schedule": f"{EPOCHS} epochs; the rate's weight rises from {FIRST_WEIGHT} to 1 over a fifth of them",
    "evaluation": f"{DRAWS} draws a chorale; the best of validation bounds every {LOOK_EVERY} epochs",
    "seed": SEED,
}
