"""How often intervals of a guide's draws hold the truth, from its ranks among them.

An interval's ends are draws, so that L draws make none that holds more of q than lies between the outermost: a truth
beyond these may lie anywhere, and no part of it counts as inside. What needs more draws is left out.
"""

from __future__ import annotations

import math

import pandas as pd
from torch import Tensor

from pyrovae.criticism.quantities import DISTANCE, GUIDE, LIKELIHOOD
from pyrovae.criticism.simulated_ranks import NO_RANK

LEVELS = (0.5, 0.8, 0.9, 0.95)


def coverage_of(names: tuple[str, ...], ranks: Tensor, corrected: Tensor, num_draws: int) -> pd.DataFrame:
    """By quantity and nominal level, of the guide's draws and of weighted ones, with errors over simulations.

    Levels for which there are too few draws (`draws_needed`) are left out.
    """
    lines = []
    for place, name in enumerate(names):
        if name == LIKELIHOOD:
            continue
        for level in LEVELS:
            if num_draws < draws_needed(name, level):
                continue
            inside = _limits(name, level)
            figures = [_share_inside(table[:, place], num_draws, *inside) for table in (ranks, corrected)]
            lines.append((name, level, *figures[0], *figures[1]))
    columns = ["quantity", "level", "coverage", "std_error", "corrected", "corrected_std_error"]
    return pd.DataFrame(lines, columns=columns)


def draws_needed(name: str, level: float) -> int:
    """How many draws it takes that the ends of a region of this level are draws."""
    low, high = _limits(name, level)
    beyond = min(share for share in (low, 1 - high) if share > 0)
    return math.ceil(1 / beyond - 1e-6) - 1  # 1 / 0.025 is 40, to rounding


def coverage_page(coverage: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Of some quantities as text, a column for each level; where there are too few draws, how many it takes."""
    cells = {
        (line.quantity, line.level): f"{line.coverage:.3f} ± {line.std_error:.3f}"
        for line in coverage.itertuples()
    }
    shown = [name for name in names if name != LIKELIHOOD]
    return pd.DataFrame(
        [
            [cells.get((name, level), f"needs {draws_needed(name, level)} draws") for level in LEVELS]
            for name in shown
        ],
        index=pd.Index(shown, name="quantity"),
        columns=list(LEVELS),
    )


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
    within the limits counts. That is, an end between two draws is either of them, as often as makes the level right.
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
