"""Static MNIST under five models whose networks, epochs and seed are the same: four priors, and two levels.

`PYROVAE_DATA=folder python -m benchmarks.prior_swap`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import annealed, data, report
from pyrovae.guides import AmortizedGuide, BottomUpGuide, DiagonalNormal
from pyrovae.models import (
    Bernoulli,
    HierarchicalModel,
    LatentVariableModel,
    Normal,
    NormalMixture,
    StandardNormal,
    VampPrior,
    affine_flow,
)
from pyrovae.nn import MLP

K, TOP, HIDDEN, BETWEEN = 40, 20, [300, 300], [200]
COMPONENTS = 150
FLOW_LAYERS, FLOW_HIDDEN = 4, (128, 128)
BATCH, RATES = 128, ((1e-3, 26), (2.5e-4, 10))  # learning rates, and the epochs they last
SEED, TEST_ROWS, SAMPLES = 0, 1000, 500

Pair = tuple[nn.Module, nn.Module]


def _of_prior(make: Callable[[nn.Module, Tensor], nn.Module]) -> Callable[[Tensor], Pair]:
    def build(x: Tensor) -> Pair:
        encoder, decoder = _networks()
        return LatentVariableModel(make(encoder, x), decoder), AmortizedGuide(encoder)

    return build


def _networks() -> tuple[nn.Module, nn.Module]:
    """Made first, so that they start the same under each prior."""
    return DiagonalNormal(MLP(784, (K, K), HIDDEN)), Bernoulli(MLP(K, 784, HIDDEN))


def _two_levels(x: Tensor) -> Pair:
    encoder, decoder = _networks()
    priors = [StandardNormal(TOP), Normal(MLP(TOP, (K, K), BETWEEN))]
    guide = BottomUpGuide([DiagonalNormal(MLP(K, (TOP, TOP), BETWEEN)), encoder])
    return HierarchicalModel(priors, decoder), guide


MODELS: dict[str, Callable[[Tensor], Pair]] = {
    "standard normal": _of_prior(lambda encoder, x: StandardNormal(K)),
    "VampPrior": _of_prior(lambda encoder, x: VampPrior(encoder, x[:COMPONENTS])),
    "affine flow": _of_prior(lambda encoder, x: affine_flow(K, num_layers=FLOW_LAYERS, hidden=FLOW_HIDDEN)),
    "two levels": _two_levels,
    "mixture of normals": _of_prior(lambda encoder, x: NormalMixture(K, COMPONENTS)),
}


def train(vae: pv.VAE, x: Tensor) -> float:
    """Train with the learning rate falling in steps; returns the seconds that it took."""
    vae.rows(x)
    optimizer = torch.optim.Adam(vae.parameters())
    seconds = 0.0
    for phase, (rate, epochs) in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        history = pv.fit(
            vae, x, epochs=epochs, batch_size=BATCH, optimizer=optimizer, seed=SEED + phase, progress=False
        )
        seconds += float(history.seconds.sum())
    return seconds


def evaluate(vae: pv.VAE, x: Tensor) -> tuple[dict[str, Any], annealed.Beside]:
    """The row of the table, and log p(x) by row with what annealing adds."""
    bound = pv.elbo(vae, x, num_samples=10, seed=SEED)
    marginal = pv.log_marginal(vae, x, num_samples=SAMPLES, seed=SEED)
    found = annealed.beside(vae, x, marginal, seed=SEED)
    figures = {
        "ELBO": float(bound.elbo.mean()),
        "reconstruction": float(bound.reconstruction.mean()),
        "rate": float(bound.rate.mean()),
        "log p(x), annealed": found.log_marginal,
        "its standard error": found.error,
        "importance sampling alone errs low by": float(found.more.mean()),
        "rows with good Pareto k": marginal.share_good,
    }
    return figures, found


def gain(of: annealed.Beside, over: annealed.Beside) -> tuple[float, float]:
    """How much higher log p(x) is, paired by row, and its standard error over rows."""
    by_sampling = of.sampled.log_marginal - over.sampled.log_marginal
    by_annealing = of.more - over.more
    error = by_sampling.var() / len(by_sampling) + by_annealing.var() / len(by_annealing)
    return float(by_sampling.mean() + by_annealing.mean()), float(error**0.5)


def main() -> None:
    """Train and evaluate the models; the table is written anew after each."""
    x, _, test = data.static_mnist()
    chosen = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(SEED))[:TEST_ROWS]]
    table: list[dict[str, Any]] = []
    found: dict[str, annealed.Beside] = {}
    for name, build in MODELS.items():
        torch.manual_seed(SEED)
        vae = pv.VAE(*build(x))
        seconds = train(vae, x)
        figures, found[name] = evaluate(vae, chosen)
        more, error = gain(found[name], found["standard normal"])
        table.append(
            {
                "model": name,
                **figures,
                "ELBO over standard normal's": figures["ELBO"] - (table or [figures])[0]["ELBO"],
                "log p(x) over standard normal's": more,
                "standard error of that": error,
                "parameters": sum(p.numel() for p in vae.parameters()),
                "training seconds": round(seconds),
            }
        )
        report.write("prior_swap", "Priors on static MNIST", pd.DataFrame(table), SETTINGS, NOTE)


NOTE = (
    "Nats per row, higher is better, on held-out rows. Pareto k is good for few rows, so that log p(x) by importance "
    "sampling alone does not stand: what annealing finds more on some of the rows is added to it, and shown. Gains are "
    "paired by row, their standard errors over rows. One seed and a short training: the standard errors do not cover "
    "what another seed or more epochs would change. Seconds are those of a busy machine."
)
SETTINGS = {
    "data": "MNIST, static binarization (Larochelle & Murray 2011), 50000 training rows",
    "encoder": f"MLP 784-{'-'.join(map(str, HIDDEN))}-({K}, {K}), ReLU, diagonal normal",
    "decoder": f"MLP {K}-{'-'.join(map(str, HIDDEN))}-784, ReLU, Bernoulli",
    "mixture and VampPrior": f"{COMPONENTS} components; pseudo-inputs start at training rows; equal VampPrior weights",
    "flow": f"{FLOW_LAYERS} affine couplings, hidden {FLOW_HIDDEN}",
    "two levels": f"z1 [{TOP}], z2 [{K}], MLPs {TOP}-{BETWEEN[0]}-({K}, {K}) and {K}-{BETWEEN[0]}-({TOP}, {TOP}), "
    "bottom-up guide",
    "objective": "Trace_ELBO, one sample, no warm-up",
    "optimizer": "Adam, " + ", then ".join(f"{rate:g} for {epochs} epochs" for rate, epochs in RATES),
    "batch": BATCH,
    "epochs": sum(epochs for _, epochs in RATES),
    "seed": SEED,
    "evaluation": f"{TEST_ROWS} test rows drawn at random, {SAMPLES} samples a row",
    "annealing": annealed.HOW,
    "threads": 1,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
