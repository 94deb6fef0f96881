"""How often intervals of a guide's draws hold the truth, from its ranks among them."""

from __future__ import annotations

import math

import pandas as pd
from torch import Tensor

from pyrovae.criticism.quantities import DISTANCE, GUIDE, LIKELIHOOD
from pyrovae.criticism.simulated_ranks import NO_RANK

LEVELS = (0.5, 0.8, 0.9, 0.95)


def coverage_of(names: tuple[str, ...], ranks: Tensor, corrected: Tensor, num_draws: int) -> pd.DataFrame:
    """By quantity and nominal level, of the guide's draws and of weighted ones, with errors over simulations."""
    lines = []
    for place, name in enumerate(names):
        if name == LIKELIHOOD:
            continue
        for level in LEVELS:
            inside = _limits(name, level)
            figures = [_share_inside(table[:, place], num_draws, *inside) for table in (ranks, corrected)]
            lines.append((name, level, *figures[0], *figures[1]))
    columns = ["quantity", "level", "coverage", "std_error", "corrected", "corrected_std_error"]
    return pd.DataFrame(lines, columns=columns)


def _limits(name: str, level: float) -> tuple[float, float]:
    """Between which shares of the draws a region lies that holds so much of q."""
    if name == GUIDE:
        return 1 - level, 1.0  # of highest density
    if name == DISTANCE:
        return 0.0, level  # a ball around the point
    return (1 - level) / 2, (1 + level) / 2


def _share_inside(ranks: Tensor, num_draws: int, low: float, high: float) -> tuple[float, float]:
    """The share of true quantities between two quantiles of q, and its error.

    A rank says only that the true quantity lies somewhere in [rank, rank + 1] / (L + 1) of q: the part of that
    within the limits counts.
    """
    ranks = ranks[ranks != NO_RANK].double()
    M = len(ranks)
    if M == 0:
        return math.nan, math.nan
    upper = ((ranks + 1) / (num_draws + 1)).clamp(max=high)
    lower = (ranks / (num_draws + 1)).clamp(min=low)
    share = float(((upper - lower).clamp(min=0) * (num_draws + 1)).mean())
    # Laplace's rule, so that an error is never zero.
    smoothed = (share * M + 1) / (M + 2)
    return share, math.sqrt(smoothed * (1 - smoothed) / (M + 2))
