"""A frame whose holes are filled in by draws from p(x_absent | x_observed)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.block_sizes import slices
from pyrovae.evidence.imputation import impute
from pyrovae.evidence.imputed import Imputation
from pyrovae.random_state import seeds_from
from pyrovae.shown import Shown
from pyrovae.tables.mixed import as_table, probabilities_of
from pyrovae.tables.schema import Schema
from pyrovae.vae import VAE

# Rows whose draws are held at once.
_BLOCK = 512


@dataclass(frozen=True, repr=False)
class ImputedFrame(Shown):
    """What `TabularVAE.impute` gives.

    Attributes:
        frame: the rows completed: means of what was absent, rounded as the column is, of ordered labels the level next
            to it, of others the most probable one.
        low, high: between which ends each absent entry lies with the probability asked for, as much above as below;
            what is observed is both. Floats, dates, and levels of ordered columns; NaN for labels without an order.
        cells: a line for each absent entry: row (a label of the index), column, value, mean (before it is rounded; NaN
            of dates, and of labels that are no numbers), low, high, probability (of the label that stands there; NaN of
            numbers), ess and khat of its row's weights.
        draws: completed frames, each drawn from p(x_absent | x_observed): for multiple imputation.
        good_k: rows whose khat is not below have weights to distrust.

    """

    frame: pd.DataFrame
    low: pd.DataFrame
    high: pd.DataFrame
    cells: pd.DataFrame
    draws: tuple[pd.DataFrame, ...]
    good_k: float

    def __str__(self) -> str:
        rows = self.cells.drop_duplicates("row")
        bad = int((~(rows["khat"] < self.good_k)).sum())
        return (
            f"{len(self.cells)} entries of {len(rows)} rows imputed, of {len(self.frame)} rows in all (median "
            f"effective sample size {rows['ess'].median():.0f}; Pareto k is too high for {bad} of these rows)"
        )


def imputed(
    vae: VAE,
    schema: Schema,
    frame: pd.DataFrame,
    *,
    probability: float,
    num_samples: int,
    num_draws: int,
    seed: int,
) -> ImputedFrame:
    """See `TabularVAE.impute`."""
    values = schema.to_tensor(frame)
    absent = values.isnan()
    mean, low, high = values.clone(), values.clone(), values.clone()
    share, expected = (torch.full_like(values, torch.nan) for _ in range(2))
    draws = values.repeat(num_draws, 1, 1)
    ess, khat = (torch.full((len(values),), torch.nan, dtype=torch.float64) for _ in range(2))
    ends = _seen(schema)
    good_k = 0.7
    seeds = seeds_from(seed)
    for rows in _lacking(absent):
        found = impute(vae, values[rows], num_samples=num_samples, seed=next(seeds) % 2**31)
        drawn = as_table(vae, found.draws).double().clamp(*ends)
        mean[rows] = as_table(vae, found.mean).double().clamp(*ends)
        expected[rows] = mean[rows]
        _set_labels(vae, schema, found, rows, mean, expected, share)
        low[rows], high[rows] = _ends(schema, drawn, probability)
        draws[:, rows] = drawn[:num_draws]
        ess[rows], khat[rows] = found.ess, found.khat
        good_k = found.weights.good_k
    mean, low, high = (torch.where(absent, filled, values) for filled in (mean, low, high))
    return ImputedFrame(
        _filled(schema, frame, mean),
        _interval_frame(schema, low, frame.index),
        _interval_frame(schema, high, frame.index),
        _cells(schema, frame.index, absent, mean, expected, low, high, share, ess, khat),
        tuple(_filled(schema, frame, draw) for draw in draws),
        good_k,
    )


def _lacking(absent: Tensor) -> Iterator[Tensor]:
    """Rows that lack something, in blocks.

    Raises:
        ValueError: rows that have nothing.

    """
    if bool((empty := absent.all(1)).any()):
        raise ValueError(
            f"row {int(empty.nonzero()[0, 0])} has no value in any column ({int(empty.sum())} such rows): there is "
            "nothing to impute it from. Drop such rows; rows without any data are what sample() draws."
        )
    rows = absent.any(1).nonzero()[:, 0]
    for some in slices(len(rows), _BLOCK):
        yield rows[some]


def _set_labels(
    vae: VAE, schema: Schema, found: Imputation, rows: Tensor, mean: Tensor, expected: Tensor, share: Tensor
) -> None:
    """Put into some rows of `mean` and `share` [N,D] the label that stands for an absent one, and its probability.

    Of ordered ones it is the level that is nearest to the mean, by its number or, where levels are none, by its place;
    into `expected` goes the mean of levels that are numbers.
    """
    for place, column in enumerate(schema.modelled):
        probabilities = probabilities_of(vae, found, place)
        if column.is_label:
            expected[rows, place] = torch.nan
        if probabilities is None:
            continue
        label, levels = probabilities.argmax(-1), column.levels or ()
        if column.kind == "ordered":
            numeric = all(isinstance(level, int | float) for level in levels)
            values = torch.tensor(levels if numeric else range(len(levels)), dtype=torch.float64)
            means = probabilities.double() @ values
            label = (means[:, None] - values).abs().argmin(-1)
            expected[rows, place] = means if numeric else torch.nan
        mean[rows, place] = label.double()
        share[rows, place] = probabilities.gather(-1, label[:, None])[:, 0].double()


def _seen(schema: Schema) -> tuple[Tensor, Tensor]:
    """Between which ends the numbers of the fit lie, [D] each; of labels, which are places, all do.

    Nothing is imputed beyond: what grows as an exponential there is no more than a guess.
    """
    ends = [(-inf, inf) if c.is_label else (c.least, c.most) for c in schema.modelled]
    low, high = torch.tensor(ends, dtype=torch.float64).T
    return low, high


def _ends(schema: Schema, draws: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Quantiles of draws [S,B,D]; those of labels are draws."""
    tail = (1 - probability) / 2
    low, high = np.quantile(draws.double().numpy(), [tail, 1 - tail], axis=0, method="weibull")
    for place, column in enumerate(schema.modelled):
        if column.kind == "ordered":
            own = draws[..., place].numpy()
            low[:, place] = np.quantile(own, tail, axis=0, method="lower")
            high[:, place] = np.quantile(own, 1 - tail, axis=0, method="higher")
        elif column.is_label:
            low[:, place] = high[:, place] = np.nan
    return torch.as_tensor(low), torch.as_tensor(high)


def _filled(schema: Schema, frame: pd.DataFrame, values: Tensor) -> pd.DataFrame:
    """The frame with its holes filled; what it has stays as it is to the bit."""
    made = schema.to_frame(values, frame.index)
    for name in schema.names:
        there = frame[name].notna().to_numpy()
        if frame[name].dtype == made[name].dtype:
            made[name] = frame[name].where(there, made[name])
    return made


def _interval_frame(schema: Schema, values: Tensor, index: pd.Index) -> pd.DataFrame:
    numbers = values.numpy()
    made = {}
    for place, column in enumerate(schema.modelled):
        of_column = column.decode if column.is_label else column.numbers
        made[column.name] = of_column(numbers[:, place], index)
    return pd.DataFrame(made, index=index)


def _cells(
    schema: Schema,
    index: pd.Index,
    absent: Tensor,
    mean: Tensor,
    expected: Tensor,
    low: Tensor,
    high: Tensor,
    share: Tensor,
    ess: Tensor,
    khat: Tensor,
) -> pd.DataFrame:
    tables = []
    for place, column in enumerate(schema.modelled):
        rows = absent[:, place].nonzero()[:, 0].numpy()
        if not len(rows):
            continue
        of_end = column.decode if column.is_label else column.numbers
        tables.append(
            pd.DataFrame(
                {
                    "row": index[rows],
                    "column": column.name,
                    "value": column.decode(mean[rows, place].numpy()).astype(object),
                    "mean": np.nan if column.origin is not None else expected[rows, place].numpy(),
                    "low": of_end(low[rows, place].numpy()).astype(object),
                    "high": of_end(high[rows, place].numpy()).astype(object),
                    "probability": share[rows, place].numpy(),
                    "ess": ess[rows].numpy(),
                    "khat": khat[rows].numpy(),
                }
            )
        )
    columns = ["row", "column", "value", "mean", "low", "high", "probability", "ess", "khat"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
