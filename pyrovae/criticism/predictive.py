"""Statistics of a data set against those of data sets that the model draws: predictive checks with p-values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import TypeAlias

import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.data import Rows
from pyrovae.evidence.checked_data import checked_data
from pyrovae.evidence.simulated_data import AsX, simulated_like
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.shown import Part, Shown, text_of
from pyrovae.vae import VAE

Statistic: TypeAlias = Callable[..., Tensor | float]
"""(x, *context) -> one number of the data set; NaN is an absent entry."""

# Rows that are drawn together, or one data set.
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, repr=False)
class PredictiveCheck(Shown):
    """What `predictive_check` gives: `observed`, a number a statistic, and `drawn`, [R] of each, from R data sets.

    `p_values` are two-sided, twice the share of data sets at least as far out, the data among them. `passed` says that
    the smallest times their number is not below `false_alarm_rate` (Bonferroni): of rows that the model was not
    trained on and that are its own, so many data sets fail or fewer. No p-value is below 2 / (R + 1): with fewer than
    2 / `false_alarm_rate` data sets a statistic (`draws_needed`) none can fail, and the sentence says so.
    """

    observed: pd.Series
    drawn: pd.DataFrame
    num_rows: int
    false_alarm_rate: float

    @property
    def p_values(self) -> pd.Series:
        """By statistic."""
        R = len(self.drawn)
        least = pd.concat(
            [(self.drawn <= self.observed).sum(), (self.drawn >= self.observed).sum()], axis=1
        ).min(axis=1)
        return (2 * (1 + least) / (1 + R)).clip(upper=1.0)

    @property
    def missed(self) -> list[str]:
        """The statistics that the model misses."""
        small = self.p_values < self.false_alarm_rate / len(self.observed)
        return [str(name) for name in self.observed.index[small]]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the model."""
        return not self.missed

    @property
    def draws_needed(self) -> int:
        """How many data sets it takes that the model can miss a statistic."""
        return math.floor(2 * len(self.observed) / self.false_alarm_rate + 1e-9)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        of = f"{len(self.drawn)} data sets of {self.num_rows} rows that the model draws"
        if len(self.drawn) < self.draws_needed:
            return (
                f"Nothing can be told of {len(self.observed)} statistics by {of}: no p-value can be small enough. "
                f"Take num_draws={self.draws_needed} or more."
            )
        if self.passed:
            names = ", ".join(map(str, self.observed.index))
            return f"{names} of the data {'is' if len(self.observed) == 1 else 'are'} such as in {of}."
        return f"The model misses {', '.join(self.missed)}: hardly any of {of} has one so extreme."

    def to_frame(self) -> pd.DataFrame:
        """One row a statistic: `observed, drawn, spread, p_value`, the mean and standard deviation of those drawn."""
        return pd.DataFrame(
            {
                "observed": self.observed,
                "drawn": self.drawn.mean(),
                "spread": self.drawn.std(),
                "p_value": self.p_values,
            }
        ).rename_axis("statistic")

    def sections(self) -> list[list[Part]]:
        """The verdict, the table, and what the check is of."""
        return [
            [self.sentence],
            [self.to_frame()],
            [
                "Data sets are drawn from the prior, each row in its own context: what no statistic here shows is not "
                "checked, and rows that the model was trained on pass more easily."
            ],
        ]

    def __str__(self) -> str:
        return text_of(self.sections(), ".4f")


def predictive_check(
    vae: VAE,
    x: object,
    *context: object,
    statistics: Mapping[str, Statistic],
    num_draws: int = 199,
    false_alarm_rate: float = 0.05,
    as_x: AsX | None = None,
    seed: int | None = None,
) -> PredictiveCheck:
    """Compare statistics of a data set with those of data sets that the model draws: does it generate such data?

    z, x ~ p(z, x | context) for every row, R times over, lacking what the rows lack. The p-value of a statistic is its
    rank among those drawn, exact for rows that the model was not trained on. Where rows share latents, each set is at a
    draw of its own of q(theta). Box, "Sampling and Bayes' Inference
    in Scientific Modelling and Robustness" (1980); Gelman, Meng, Stern, "Posterior Predictive Assessment of Model
    Fitness via Realized Discrepancies" (1996), for draws that know each row through its latents:
    `plots.predictive_check(tree, group="posterior_predictive", statistic=...)`.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        statistics: by name, functions (x, *context) of a data set as the pair takes it, to one number.
        num_draws: R.
        false_alarm_rate: of `passed`, all statistics taken together.
        as_x: as for `calibrate`.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError: no statistics, one that gives no finite number; counts below 1; as `calibrate` where rows cannot be
            simulated.
        TypeError: statistics that are no functions by name.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae, x = pv.VAE(model, pv.guides.ExactGuide(model)), 3 * torch.randn(50, 4)
        >>> largest = {"largest": lambda x: x.abs().max(), "mean": lambda x: x.mean()}
        >>> pv.predictive_check(vae, x, statistics=largest, seed=0).missed
        ['largest']

    """
    check_count("num_draws", num_draws)
    if not isinstance(statistics, Mapping) or not all(map(callable, statistics.values())):
        raise TypeError(
            f"statistics is {statistics!r}: expected functions by name, statistics={{'largest': lambda x: x.max()}}."
        )
    if not statistics:
        raise ValueError("statistics is empty: expected functions by name.")
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate!r}: expected a number between 0 and 1.")
    data = checked_data(vae, x, *context, covers_shared=True)
    observed = {name: _number(name, function, data) for name, function in statistics.items()}
    N, seeds = len(data), seeds_from(seed)
    lines: list[dict[str, float]] = []
    together = 1 if vae.layout.shared else max(1, ROWS_AT_ONCE // N)
    models = vae.given_draws(num_draws, next(seeds)) if vae.layout.shared else repeat(vae)
    while len(lines) < num_draws:
        sets = min(together, num_draws - len(lines))
        model = next(models)
        with fixed_seed(next(seeds), vae.device):
            _, drawn = simulated_like(model, data, sets * N, as_x)
        # Each row stands so many times in succession.
        for one in range(sets):
            some = drawn[torch.arange(N) * sets + one]
            lines.append({name: _number(name, function, some) for name, function in statistics.items()})
    return PredictiveCheck(pd.Series(observed), pd.DataFrame(lines), N, false_alarm_rate)


def _number(name: str, function: Statistic, rows: Rows) -> float:
    found = function(*rows.take(slice(None), torch.device("cpu")).arguments)
    number = torch.as_tensor(found, dtype=torch.float64)
    if number.numel() != 1 or not bool(number.isfinite().all()):
        what = list(number.shape) if number.numel() != 1 else float(number)
        raise ValueError(
            f"the statistic '{name}' gave {what} for {len(rows)} rows: expected one finite number of the data set, "
            "such as x.mean(); entries that are absent are NaN."
        )
    return float(number)
