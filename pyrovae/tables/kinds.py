"""Which kind a column is, by its dtype and its values."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch.distributions import NegativeBinomial, Normal, Poisson

from pyrovae.tables.columns import Column, Kind, Level, Numbers, numbers_in, plain, whole_times

MOST_LEVELS = 1000
"""As many different values are kept, so that a column can be made a category of them."""

_FEW = 10
_FEWEST_IDENTIFIERS = 20
_ROWS_A_LEVEL = 20
_MOST_DECIMALS = 6
_NEAR_AN_END = 0.02  # of 0 and of 1


def column_of(values: pd.Series, name: str | int) -> Column:
    """What a column of a frame holds.

    Raises:
        ValueError: nothing at all; text of which nearly every row has its own.
        TypeError: values that are neither numbers, nor labels, nor dates, with what to do.

    """
    if len(values) and values.isna().all():
        raise ValueError(
            f"column {name!r} has no value in any of {len(values)} rows: there is nothing to learn of it. Drop it, "
            f"frame.drop(columns=[{name!r}])."
        )
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _of_categories(values, name)
    if getattr(dtype, "kind", "O") in "Mm":
        return _of_times(values, name)
    held = pd.api.types.infer_dtype(values, skipna=True) if pd.api.types.is_object_dtype(dtype) else ""
    if pd.api.types.is_bool_dtype(dtype) or held == "boolean":
        present = values.dropna().nunique() > 1
        return Column(name, "boolean" if present else "constant", str(dtype), _levels(values, name))
    if held in ("string", "mixed-integer") or (
        not pd.api.types.is_object_dtype(dtype) and pd.api.types.is_string_dtype(dtype)
    ):
        return _of_text(values, name)
    if held in ("integer", "floating", "mixed-integer-float") or pd.api.types.is_numeric_dtype(dtype):
        return _of_numbers(values, name)
    raise TypeError(_refusal(name, dtype, held))


def _refusal(name: str | int, dtype: object, held: str) -> str:
    remedy = {
        "date": "pd.to_datetime(column) makes dates of them.",
        "datetime": "pd.to_datetime(column) makes dates of them.",
        "decimal": "column.astype(float) makes numbers of them.",
        "mixed": "column.astype(str) makes labels of them, pd.to_numeric(column) numbers.",
    }.get(held, "Make numbers, labels or dates of them: .astype(str), pd.to_numeric, .dt.to_timestamp().")
    return f"column {name!r} is {dtype}{f' of {held} values' if held else ''}: {remedy}"


def _of_categories(values: pd.Series, name: str | int) -> Column:
    dtype = cast(pd.CategoricalDtype, values.dtype)
    levels = tuple(_level(value, name) for value in dtype.categories)
    kind: Kind = "ordered" if dtype.ordered else "category"
    return Column(
        name,
        kind if len(levels) > 1 else "constant",
        "category",
        levels,
        str(dtype.categories.dtype),
        bool(dtype.ordered),
    )


def _of_text(values: pd.Series, name: str | int) -> Column:
    levels = _levels(values, name)
    count = len(values.dropna())
    if len(levels) > MOST_LEVELS or (len(levels) > _ROWS_A_LEVEL and 2 * len(levels) > count):
        raise ValueError(
            f"column {name!r} has {len(levels)} different texts in {count} rows: too few rows of each to learn from. "
            f"Names and identifiers say nothing, frame.drop(columns=[{name!r}]); rare ones can be put together under "
            "one name. A categorical dtype is taken as it is."
        )
    return Column(name, "category" if len(levels) > 1 else "constant", str(values.dtype), levels)


def _of_times(values: pd.Series, name: str | int) -> Column:
    whole = np.sort(whole_times(values))
    origin = int(whole[0])
    step = int(np.gcd.reduce(np.diff(whole))) if len(whole) > 1 else 0
    dtype = str(values.dtype)
    if step == 0:
        step = 1
    kind: Kind = "date" if values.dtype.kind == "M" else "real"
    most = float(int(whole[-1]) - origin) / step
    return Column(name, kind, dtype, least=0.0, most=most, decimals=0, origin=origin, step=step)


def _of_numbers(values: pd.Series, name: str | int) -> Column:
    numbers = numbers_in(values, f"column {name!r}")
    numbers = numbers[~np.isnan(numbers)]
    distinct = np.unique(numbers)
    whole = bool((distinct == np.round(distinct)).all())
    levels = None
    if len(distinct) <= MOST_LEVELS:
        levels = tuple(int(v) if whole else float(v) for v in distinct)
    return Column(
        name,
        _kind_of_numbers(numbers, distinct, whole),
        str(values.dtype),
        levels,
        least=float(distinct[0]),
        most=float(distinct[-1]),
        decimals=_decimals(distinct),
        low=0.0,
        high=1.0,
    )


def may_be_identifiers(values: pd.Series) -> bool:
    """Whether a column has another whole number in each row, none absent."""
    return (
        pd.api.types.is_integer_dtype(values.dtype)
        and len(values) >= _FEWEST_IDENTIFIERS
        and not values.hasnans
        and bool(values.is_unique)
    )


def _kind_of_numbers(numbers: Numbers, distinct: Numbers, whole: bool) -> Kind:
    count, least, most = len(distinct), float(distinct[0]), float(distinct[-1])
    if count == 1:
        return "constant"
    if count == 2:
        return "category"
    if whole and count <= _FEW and len(numbers) >= _ROWS_A_LEVEL * count:
        return "count" if least == 0 and _counts_fit_as_well(numbers) else "ordered"
    # What ends short of them may go beyond them in a later row.
    if not whole and 0 <= least < _NEAR_AN_END and 1 - _NEAR_AN_END < most <= 1:
        return "bounded"
    fits: dict[Kind, float] = {"real": _as_normal(numbers)}
    if least > 0:
        logarithms = np.log(numbers)
        fits["positive"] = _as_normal(logarithms) - float(logarithms.sum())
    if whole and least >= 0 and numbers.mean() < 2 * numbers.std():
        fits["count"] = _as_counts(numbers)
    return max(fits, key=lambda kind: fits[kind])


def _as_normal(numbers: Numbers) -> float:
    """The log density of numbers under the normal that fits them best."""
    values = torch.as_tensor(numbers, dtype=torch.float64)
    scale = values.std(correction=0).clamp(min=1e-300)
    return float(Normal(values.mean(), scale, validate_args=False).log_prob(values).sum())


def _as_counts(numbers: Numbers) -> float:
    """That of whole numbers under the negative binomial of their mean and variance, or the Poisson distribution."""
    values = torch.as_tensor(numbers, dtype=torch.float64)
    mean, variance = values.mean(), values.var(correction=0)
    if float(variance) <= float(mean) * 1.0001:
        return float(Poisson(mean).log_prob(values).sum())
    total = mean**2 / (variance - mean)
    return float(NegativeBinomial(total, probs=1 - mean / variance).log_prob(values).sum())


def _counts_fit_as_well(numbers: Numbers) -> bool:
    """Whether a distribution of counts does as well as one of these numbers' shares, by Schwarz's criterion (1978)."""
    _, times = np.unique(numbers, return_counts=True)
    by_shares = float((times * np.log(times / len(numbers))).sum())
    return _as_counts(numbers) - by_shares > (2 - (len(times) - 1)) / 2 * math.log(len(numbers))


def _decimals(distinct: Numbers) -> int | None:
    for decimals in range(_MOST_DECIMALS + 1):
        if bool((np.round(distinct, decimals) == distinct).all()):
            return decimals
    return None


def _levels(values: pd.Series, name: str | int) -> tuple[Level, ...]:
    """The different values in their order; truth values are both, whichever are there."""
    found = [_level(value, name) for value in values.dropna().unique()]
    if found and all(isinstance(level, bool) for level in found):
        return (False, True) if len(found) > 1 else tuple(found)
    return tuple(sorted(found, key=lambda level: (isinstance(level, str), level)))


def _level(value: object, name: str | int) -> Level:
    found = plain(value)
    if not isinstance(found, str | int | float | bool) or (isinstance(found, float) and math.isnan(found)):
        raise TypeError(
            f"column {name!r} has the category {found!r} ({type(found).__name__}): expected texts, numbers or truth "
            f"values. frame[{name!r}].astype(str).astype('category') makes texts of them."
        )
    return found
