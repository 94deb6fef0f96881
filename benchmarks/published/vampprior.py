"""Static MNIST with the networks and the schedule of the VampPrior paper: a standard prior and a VampPrior.

Tomczak & Welling, "VAE with a VampPrior" (2018), https://arxiv.org/abs/1705.07120; details as in
https://github.com/jmtomczak/vae_vampprior: gated layers without another nonlinearity, weights begun as He et al. say,
each parameter's gradient divided by its norm before Adam.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import annealed, data
from benchmarks.published.figure import Figure, write
from benchmarks.published.training import Run, done, thinned
from pyrovae.guides import AmortizedGuide
from pyrovae.models import Bernoulli, LatentVariableModel, StandardNormal, VampPrior

D, HIDDEN, K, COMPONENTS = 784, 300, 40, 500
LOWEST, HIGHEST = -6.0, 2.0  # log-variances
EPOCHS, WARM_UP, PATIENCE, BATCH, RATE, SEED = 2000, 100, 50, 100, 5e-4, 14
FIRST_PSEUDO = (-0.05, 0.01)  # mean and standard deviation, before a sigmoid
WEIGHTS = 5000
PUBLISHED = {"standard": -88.56, "vampprior": -85.57}
SOURCE = "Tomczak & Welling (2018), table 1, static MNIST; second-hand"


class Gated(nn.Module):
    """(A x + a) sigmoid(B x + b)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.value, self.gate = linear(before, after), linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """[..., before] -> [..., after]."""
        return self.value(x) * torch.sigmoid(self.gate(x))


def linear(before: int, after: int) -> nn.Linear:
    """Begun as He et al. (2015) say."""
    layer = nn.Linear(before, after)
    nn.init.normal_(layer.weight, 0.0, (2 / before) ** 0.5)
    return layer


class Posterior(nn.Module):
    """q(z|x), a normal whose log-variances are held within [-6, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Gated(D, HIDDEN), Gated(HIDDEN, HIDDEN))
        self.location, self.log_variance = linear(HIDDEN, K), linear(HIDDEN, K)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of z given x."""
        hidden = self.body(x)
        log_variance = self.log_variance(hidden).clamp(LOWEST, HIGHEST)
        return dist.Normal(self.location(hidden), (0.5 * log_variance).exp()).to_event(1)


def standard(posterior: Posterior) -> nn.Module:
    """N(0, I)."""
    return StandardNormal(K)


def vampprior(posterior: Posterior) -> nn.Module:
    """The posterior, averaged over 500 learned images."""
    start = torch.sigmoid(torch.normal(*FIRST_PSEUDO, (COMPONENTS, D)))
    return VampPrior(posterior, start)


PRIORS: dict[str, Callable[[Posterior], nn.Module]] = {"standard": standard, "vampprior": vampprior}


def pair(prior: str) -> pv.VAE:
    """Gated perceptrons 784-300-300-40 and back."""
    torch.manual_seed(SEED)
    posterior = Posterior()
    decoder = nn.Sequential(Gated(K, HIDDEN), Gated(HIDDEN, HIDDEN), linear(HIDDEN, D))
    model = LatentVariableModel(PRIORS[prior](posterior), Bernoulli(decoder))
    return pv.VAE(model, AmortizedGuide(posterior))


class AdamNormGrad(torch.optim.Adam):
    """Adam on gradients that are divided by their norms, parameter by parameter."""

    def step(self, closure: Any = None) -> Any:
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.div_(parameter.grad.norm() + 1e-7)
        return super().step(closure)


def weight_of_rate(step: int, epoch: float | None) -> float:
    """It rises by a hundredth each epoch."""
    return min(1.0, (math.floor(epoch or 0.0) + 1) / WARM_UP)


class Patience(pv.callbacks.EarlyStopping):
    """Early stopping that begins to count where the warm-up ends."""

    def on_epoch(self, training: Any, row: dict[str, float]) -> None:
        """Looks at the validation ELBO."""
        if training.epoch < WARM_UP and row["elbo_valid"] <= self.best:
            self.best_epoch = training.epoch
        super().on_epoch(training, row)


def train(run: Run, prior: str) -> tuple[pv.VAE, Any]:
    """One training, the best weights kept."""
    x, valid, _ = data.static_mnist()
    vae = pair(prior)
    history = run.fit(
        f"vampprior_{prior}",
        vae,
        x,
        epochs=EPOCHS,
        validation=valid,
        batch_size=BATCH,
        objective=pv.objectives.ELBO(beta=weight_of_rate, analytic_kl=False),
        optimizer=lambda parameters: AdamNormGrad(parameters, lr=RATE, fused=True),
        seed=SEED,
        compile=True,
        callbacks=[Patience(PATIENCE)],
    )
    return vae, history


def main(run: Run, priors: Sequence[str] = tuple(PRIORS)) -> None:
    """Train, and estimate log p(x) of all test images."""
    _, _, test = data.static_mnist()
    for prior in priors:
        vae, history = train(run, prior)
        found = pv.log_marginal(vae, test, num_samples=WEIGHTS, seed=SEED)
        both = annealed.beside(vae, test, found, seed=SEED)
        trained, seconds = done(history, EPOCHS), float(history["seconds"].sum())
        by_draws = Figure(
            f"log p(x), nats, {WEIGHTS} draws of the guide",
            float(found.log_marginal.mean()),
            float(found.log_marginal.std()) / len(test) ** 0.5,
            "se over test images",
            PUBLISHED[prior],
            math.nan,
            SOURCE,
            trained,
            seconds,
            higher_is_better=True,
        )
        by_annealing = Figure(
            "log p(x), nats, with what annealing finds more",
            both.log_marginal,
            both.error,
            "se over draws and annealed images",
            math.nan,
            math.nan,
            "",
            trained,
            seconds,
            higher_is_better=True,
        )
        bound = float(pv.elbo(vae, test, num_samples=5, seed=SEED).elbo.mean())
        findings = FINDINGS.format(
            bound, found.share_good, -found.total_bias / len(test), float(history["elbo_valid"].max())
        )
        title = f"Static MNIST, {'standard prior' if prior == 'standard' else 'VampPrior'}"
        write(f"vampprior_{prior}", title, [by_draws, by_annealing], SETTINGS, findings, thinned(history))


FINDINGS = (
    "The test ELBO is {:.2f}. Pareto k is good for {:.1%} of the test images, so that the estimate errs low, by {:.2f} "
    "nats at least; the published figures are the same estimate. The best validation ELBO was {:.2f}."
)
SETTINGS = {
    "data": "MNIST, static binarization (Larochelle & Murray 2011), 50000 / 10000 / 10000",
    "networks": f"gated {D}-{HIDDEN}-{HIDDEN}-({K}, {K}) and back, log-variances within [{LOWEST:g}, {HIGHEST:g}]",
    "prior": f"N(0, I), or a VampPrior of {COMPONENTS} images",
    "optimizer": f"Adam on normed gradients, {RATE:g}, batches of {BATCH}, {EPOCHS} epochs, patience {PATIENCE}",
    "objective": f"ELBO, one draw; the rate's weight rises over {WARM_UP} epochs",
    "annealing": annealed.HOW,
    "seed": SEED,
}
