"""How low importance sampling errs: some of the same rows by annealing, beside it.

A table shows log p(x) as importance sampling has it only where most rows' Pareto k is good; else with what annealing
finds more on rows drawn at random, and the standard error of that over these rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import pyrovae as pv

ROWS, CHAINS, TEMPERATURES, LEAPFROGS = 100, 16, 500, 10
HOW = (
    f"{ROWS} of the rows, {CHAINS} chains each from draws of the guide, {TEMPERATURES} temperatures, {LEAPFROGS} "
    "leapfrog steps"
)


@dataclass(frozen=True)
class Beside:
    """Estimates of all rows by importance sampling, [N], and what annealing finds more on some of them, [R]."""

    sampled: pv.LogMarginal
    more: Tensor

    @property
    def stands(self) -> bool:
        """Whether most rows' Pareto k is good."""
        return self.sampled.share_good > 0.5

    @property
    def log_marginal(self) -> float:
        """The mean of log p(x): importance sampling's over all rows, and what annealing adds."""
        return float(self.sampled.log_marginal.mean() + self.more.mean())

    @property
    def error(self) -> float:
        """Of that, over draws and over which rows were annealed."""
        monte_carlo = self.sampled.total[1] / len(self.sampled)
        return float((monte_carlo**2 + self.more.var() / len(self.more)) ** 0.5)


def beside(vae: pv.VAE, x: Tensor, sampled: pv.LogMarginal, seed: int = 0, rows: int = ROWS) -> Beside:
    """Anneal rows drawn at random; the same ones for each model of the same rows."""
    places = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:rows]
    method = pv.AnnealedImportanceSampling(TEMPERATURES, LEAPFROGS, from_guide=True)
    annealed = pv.log_marginal(vae, x[places.to(x.device)], num_samples=CHAINS, method=method, seed=seed)
    return Beside(sampled, annealed.log_marginal - sampled.log_marginal[places])
