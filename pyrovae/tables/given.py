"""Rows given some of their columns: draws of p(the others | these), and the probabilities of labels."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.conditional_distribution import as_module
from pyrovae.evidence.imputation import impute
from pyrovae.evidence.imputed import Imputation
from pyrovae.evidence.refinement import refine
from pyrovae.guides import AmortizedGuide
from pyrovae.tables.columns import Column, Level
from pyrovae.tables.defensive import Defensive
from pyrovae.tables.mixed import as_table, probabilities_of
from pyrovae.tables.schema import Schema
from pyrovae.vae import VAE

Given: TypeAlias = Level | datetime.date | datetime.timedelta | None
"""What a column may be given as: a level, a number, a date or a time span."""

# Weighed for each row that is drawn, and at least.
_WEIGHTS, _FEWEST_WEIGHTS = 4, 4000


def given_row(schema: Schema, given: Mapping[str | int, Given]) -> Tensor:
    """One row that has what is given alone, [1, D].

    Dates and time spans may be texts, "2024-05-01" or "90 min"; those that name no time zone are of the column's.

    Raises:
        KeyError: columns that there are not.
        ValueError: values that are absent or do not fit, or that no row has as values are rounded; all columns, or
            constant ones alone.

    """
    row = torch.full((1, len(schema.modelled)), torch.nan, dtype=torch.float64)
    for name, value in given.items():
        column = schema[name]
        if column.origin is not None and isinstance(value, str | datetime.date):
            value = _time(column, value)
        dtype = "category" if column.dtype == "category" else None
        number = float(column.encode(pd.Series([value], name=name, dtype=dtype))[0])
        if np.isnan(number):
            raise ValueError(f"given {name!r} is {value!r}: leave out what is not known.")
        as_drawn = column.decode(np.array([number]))
        # A narrow dtype holds a number to its own precision alone.
        off = abs(float(column.encode(as_drawn)[0]) - number) if not column.is_label else 0.0
        if off > (1e-6 * abs(number) if as_drawn.dtype.kind == "f" else 0.0):
            raise ValueError(
                f"given {name!r} is {value!r}, but the column's values are rounded, to {as_drawn.iloc[0]} there: give "
                "that, so that the rows drawn hold what was given."
            )
        if column.kind != "constant":
            row[0, schema.place(name)] = number
    if not bool(row.isnan().any()):
        raise ValueError("given names every column: nothing is left to draw. Leave out what is to be drawn.")
    if bool(row.isnan().all()):
        raise ValueError("given names constant columns alone: leave it out.")
    return row


def _time(column: Column, value: str | datetime.date) -> pd.Timestamp | pd.Timedelta:
    """A text or a day as a moment, in the column's time zone if it names none, or a text as a time span."""
    dtype = pd.api.types.pandas_dtype(column.dtype)
    is_span = dtype.kind == "m"
    zone = (
        dtype.tz
        if isinstance(dtype, pd.DatetimeTZDtype) and not isinstance(value, datetime.datetime)
        else None
    )
    try:
        if is_span:
            return pd.Timedelta(str(value))
        time = pd.Timestamp(value)
        return time if zone is None or time.tz is not None else time.tz_localize(zone)
    except (ValueError, TypeError) as error:
        what = "a time span such as '90 min'" if is_span else "a date such as '2024-05-01'"
        raise ValueError(f"given {column.name!r} is {value!r} ({error}): expected {what}.") from None


def drawn_given(vae: VAE, schema: Schema, row: Tensor, num_rows: int, seed: int) -> pd.DataFrame:
    """Rows [num_rows] from p(the other columns | those of one row [1, D]), by importance resampling.

    Latents are proposed by the guide and, one in five, by the prior, so that no weight is more than five times
    p(x|z): a guide that misses a mode cannot hide it. Where Pareto k says that this does not do, by the guide refined
    for this row.

    Warns:
        UserWarning: Pareto k says that neither does.

    """
    num_weights = max(_WEIGHTS * num_rows, _FEWEST_WEIGHTS)

    def drawn(by: VAE) -> Imputation:
        return impute(by, row, num_samples=num_rows, resample_from=num_weights, seed=seed)

    found = drawn(defensive(vae))
    if not _is_good(found):
        refined = drawn(refine(vae, row, full_covariance=True, seed=seed).vae)
        found = refined if bool(refined.khat[0] < found.khat[0]) else found
    if not _is_good(found):
        warnings.warn(
            f"{num_weights} weighted draws do not do for what is given: their effective sample size is "
            f"{float(found.ess[0]):.0f} and Pareto k {float(found.khat[0]):.2f}. Ask for more rows at once, or for "
            "values that occur together.",
            stacklevel=3,
        )
    return schema.to_frame(as_table(vae, found.draws)[:, 0])


def _is_good(found: Imputation) -> bool:
    return bool(found.khat[0] < found.weights.good_k)


def defensive(vae: VAE) -> VAE:
    """The VAE with a guide that draws from the prior too, where its guide is a posterior in front of a normal prior."""
    posterior = as_module(vae.guide.posterior) if isinstance(vae.guide, AmortizedGuide) else None
    if posterior is None or not Defensive.takes(vae.model, posterior):
        return vae
    return VAE(vae.model, AmortizedGuide(Defensive(posterior)))


def label_probabilities(
    vae: VAE, schema: Schema, column: str | int, frame: pd.DataFrame, num_samples: int, seed: int
) -> pd.DataFrame:
    """See `TabularVAE.predict_proba`; the frame has all columns."""
    place = schema.place(column)
    values = schema.to_tensor(frame)
    values[:, place] = torch.nan
    found = impute(vae, values, num_samples=1, resample_from=num_samples, seed=seed)
    probabilities = probabilities_of(vae, found, place)
    if probabilities is None:
        raise ValueError(f"the model of this VAE gives column {column!r} no probabilities.")
    levels = pd.Index(list(schema[column].levels or ()))
    return pd.DataFrame(probabilities.numpy(), index=frame.index, columns=levels)


def without(schema: Schema, column: str | int, frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with a column that is absent in every row, whether it had it or not, in the schema's order.

    Raises:
        ValueError: the column has no options.

    """
    if not schema[column].is_label:
        raise ValueError(
            f"column {column!r} is {schema[column].kind!r} and has no options: impute() gives its mean and interval "
            f"where it is absent, and schema[{column!r}] = 'category' before the fit makes it a label."
        )
    blank = pd.Series([None] * len(frame), frame.index, dtype=object)
    made = frame.drop(columns=[column], errors="ignore")
    made = pd.concat([made, blank.rename(column)], axis=1)
    return made[[name for name in schema.names if name in made] + [n for n in made if n not in schema.names]]
