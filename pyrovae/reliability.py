"""Rows whose importance-sampled figures are not to be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.evidence import LogMarginal
from pyrovae.psis import GOOD_K

# A coefficient of variation of the weights below this is rounding, and so is the shape of their tail.
ROUNDING = 1e-3


def unreliable_rows(result: LogMarginal) -> Tensor:
    """Which rows' Pareto k is not below 0.7, [N]: all of them where a single sample leaves it unknown.

    Weights that are equal but for rounding are those of an exact guide, whatever k their rounding errors have.
    """
    if result.num_samples == 1:
        return torch.ones(len(result), dtype=torch.bool)
    exact = result.num_samples / result.ess - 1 < ROUNDING**2
    return ~(result.khat < GOOD_K) & ~exact
