"""One column of a data frame: what it holds, and how its values become numbers and values again."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

Kind: TypeAlias = Literal[
    "real", "positive", "count", "bounded", "category", "ordered", "boolean", "date", "constant"
]
KINDS: tuple[str, ...] = get_args(Kind)
"""What a column may be."""

Level: TypeAlias = str | int | float | bool
Numbers: TypeAlias = npt.NDArray[np.float64]

LABELS = ("category", "ordered", "boolean", "constant")
# Whole numbers up to here are floating-point numbers too, each one by itself.
_LARGEST_WHOLE = 2**53
_SHOWN = 5


@dataclass(frozen=True)
class Column:
    """What one column holds, and all that is needed to come back from numbers to its values.

    Attributes:
        name: what it is called.
        kind: one of `KINDS`.
        dtype: of pandas, in words: "int64", "Int64", "datetime64[us, UTC]", "category".
        levels: its different values in their order, where they are few; the options of a label.
        levels_dtype: of the categories of a categorical dtype, else None.
        is_ordered: whether a categorical dtype says so.
        least, most: the ends of its numbers; None of labels that are no numbers.
        decimals: how many its numbers are rounded to; None where they are not.
        low, high: the ends that a bounded column may reach.
        origin, step: a date is the origin plus so many steps, both in units of its dtype.

    """

    name: str | int
    kind: Kind
    dtype: str
    levels: tuple[Level, ...] | None = None
    levels_dtype: str | None = None
    is_ordered: bool = False
    least: float | None = None
    most: float | None = None
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    origin: int | None = None
    step: int | None = None

    @property
    def is_label(self) -> bool:
        """Whether its numbers are places among its levels."""
        return self.kind in LABELS

    @property
    def options(self) -> int:
        """How many levels a label has."""
        return len(self.levels or ())

    def encode(self, values: pd.Series) -> Numbers:
        """Its values as numbers, [N]: labels as places among the levels, dates as steps; NaN where there is none.

        Raises:
            TypeError: values of another kind than those of the fit.
            ValueError: a label that is not known; a number where this kind has none.

        """
        if self.is_label:
            return self._places(values)
        if self.origin is not None:
            return self._steps(values)
        numbers = numbers_in(values, f"column {self.name!r}")
        self._check(numbers)
        return numbers

    def decode(self, numbers: Numbers, index: pd.Index | None = None) -> pd.Series:
        """Numbers [N] as values of the column's dtype; NaN where there is none."""
        numbers = np.asarray(numbers, dtype=np.float64)
        if self.is_label:
            return self._labels(numbers, index)
        if self.origin is not None:
            return self._dates(numbers, index)
        if self.decimals is not None:
            numbers = np.round(numbers, self.decimals)
        return _as_dtype(numbers, self.dtype, index, self.name)

    def numbers(self, numbers: Numbers, index: pd.Index | None = None) -> pd.Series:
        """Numbers [N] that need not be values of the column: ends of intervals, as floats, or dates."""
        if self.origin is not None and not self.is_label:
            return self._dates(numbers, index)
        return pd.Series(numbers, index=index, name=self.name)

    def __str__(self) -> str:
        if self.is_label:
            levels = self.levels or ()
            shown = ", ".join(map(str, levels[:_SHOWN])) + (
                f" and {len(levels) - _SHOWN} more" if len(levels) > _SHOWN else ""
            )
            return f"{self.kind}: {shown}"
        if self.origin is not None:
            first, last = (str(self._dates(np.array([end]), None).iloc[0]) for end in self._ends)
            return f"{self.kind}: {first} to {last}"
        if self.kind == "bounded":
            return f"bounded: within {self.low:g} and {self.high:g}"
        return f"{self.kind}: {self._ends[0]:g} to {self._ends[1]:g}"

    # Behind these

    @property
    def _ends(self) -> tuple[float, float]:
        return cast(float, self.least), cast(float, self.most)

    def _places(self, values: pd.Series) -> Numbers:
        codes, found = pd.factorize(values)
        place: dict[Hashable, float] = {level: float(i) for i, level in enumerate(self.levels or ())}
        known = [place.get(plain(value)) for value in found]
        unknown = [plain(value) for value, p in zip(found, known, strict=True) if p is None]
        if unknown:
            raise ValueError(self._of_unknown(unknown, values))
        places = np.array([*cast("list[float]", known), math.nan])  # a code of -1 is the last: nothing there
        return cast(Numbers, places[codes])

    def _of_unknown(self, unknown: list[object], values: pd.Series) -> str:
        shown = ", ".join(repr(value) for value in unknown[:_SHOWN])
        what = "all its rows held" if self.kind == "constant" else "it knew"
        known = ", ".join(repr(level) for level in (self.levels or ())[:_SHOWN])
        more = f" and {self.options - _SHOWN} more" if self.options > _SHOWN else ""
        remedy = "Fit on rows that have it, make it absent (None), or drop these rows."
        if all(isinstance(level, int | float) for level in (*(self.levels or ()), *unknown)):
            known_and_new = np.array([*(self.levels or ()), *unknown], dtype=float)
            remedy += (
                " A column of numbers can be another kind: schema = Schema.of(frame), "
                f"{self._as_other_kind(known_and_new)}, TabularVAE(schema=schema)."
            )
        return (
            f"column {self.name!r} ({values.dtype}) holds {shown}, which the fit has not seen: {what} {known}{more}. "
            f"{remedy}"
        )

    def _steps(self, values: pd.Series) -> Numbers:
        values = times_in(values, f"column {self.name!r}", self.dtype)
        there = values.notna().to_numpy()
        found = np.full(len(values), np.nan)
        whole = values[there].to_numpy(dtype="int64") if _is_naive(values) else _instants(values[there])
        found[there] = (whole - cast(int, self.origin)) / cast(int, self.step)
        return found

    def _dates(self, numbers: Numbers, index: pd.Index | None) -> pd.Series:
        there = ~np.isnan(numbers)
        whole = np.full(len(numbers), np.iinfo(np.int64).min)  # NaT
        steps = np.rint(numbers[there]) if self.decimals == 0 else numbers[there]
        whole[there] = np.rint(steps * cast(int, self.step)).astype(np.int64) + cast(int, self.origin)
        dtype = pd.api.types.pandas_dtype(self.dtype)
        if isinstance(dtype, pd.DatetimeTZDtype):
            naive = pd.Series(whole.view(f"datetime64[{dtype.unit}]"), index=index, name=self.name)
            return naive.dt.tz_localize("UTC").dt.tz_convert(dtype.tz)
        return pd.Series(whole.view(cast("np.dtype[np.generic]", dtype)), index=index, name=self.name)

    def _labels(self, numbers: Numbers, index: pd.Index | None) -> pd.Series:
        codes = np.where(np.isnan(numbers), -1, np.nan_to_num(numbers)).round().astype(int)
        if self.dtype == "category":
            categories = pd.Index(list(self.levels or ()), dtype=self.levels_dtype)
            made = pd.Categorical.from_codes(codes, categories, ordered=self.is_ordered)
            return pd.Series(made, index=index, name=self.name)
        levels = np.empty(self.options + 1, dtype=object)
        levels[:-1] = list(self.levels or ())
        levels[-1] = None
        values = pd.Series(levels[codes], index=index, name=self.name, dtype=object)
        if pd.api.types.is_float_dtype(self.dtype):
            values = pd.Series(values.to_numpy(float, na_value=np.nan), index, name=self.name)
        return _made(values, self.dtype)

    def _check(self, numbers: Numbers) -> None:
        """Raise for a number that the kind's likelihood gives no density."""
        there = ~np.isnan(numbers)
        rules: dict[str, tuple[npt.NDArray[np.bool_], str]] = {
            "positive": (numbers > 0, "positive numbers"),
            "count": ((numbers >= 0) & (numbers == np.round(numbers)), "whole numbers from 0"),
        }
        if self.kind == "bounded":
            inside = (numbers >= cast(float, self.low)) & (numbers <= cast(float, self.high))
            rules["bounded"] = (inside, f"numbers from {self.low:g} to {self.high:g}")
        if self.kind not in rules:
            return
        allowed, words = rules[self.kind]
        if (wrong := there & ~allowed).any():
            first = int(wrong.nonzero()[0][0])
            raise ValueError(
                f"column {self.name!r} holds {numbers[first]:g} (row {first}), and is of the kind {self.kind!r}, which "
                f"has {words} alone. Mend or drop these rows ({int(wrong.sum())} of them), or edit the schema and fit "
                f"again: schema = Schema.of(frame), {self._as_other_kind(numbers[there])}, TabularVAE(schema=schema)."
            )

    def _as_other_kind(self, numbers: Numbers) -> str:
        whole = self.decimals == 0 and bool(((numbers >= 0) & (numbers == np.round(numbers))).all())
        kind = "'count' (whole numbers from 0)" if whole else "'real' (any number)"
        return f"schema[{self.name!r}] = {kind}"


def plain(value: object) -> Hashable:
    """A level as Python's own text, number or truth value, which JSON takes."""
    return cast(Hashable, value.item() if isinstance(value, np.generic) else value)


def numbers_in(values: pd.Series, name: str) -> Numbers:
    """Numbers of any dtype in 64 bits, [N]; NaN where there is none.

    Raises:
        TypeError: values that are no numbers.
        ValueError: infinite numbers; whole numbers beyond 2**53.

    """
    dtype = values.dtype
    if isinstance(dtype, pd.SparseDtype):
        values = pd.Series(values.sparse.to_dense(), values.index)  # type: ignore[attr-defined]
    is_number = pd.api.types.is_numeric_dtype(values.dtype) or (
        values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) in _NUMBERS_OF_OBJECTS
    )
    if not is_number or pd.api.types.is_complex_dtype(values.dtype):
        raise TypeError(
            f"{name} is {dtype}: expected numbers, as it held when it was fitted. pd.to_numeric(column) makes "
            "numbers of text that says them."
        )
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(numbers).any():
        row = int(np.isinf(numbers).nonzero()[0][0])
        raise ValueError(f"{name} holds infinity in row {row}: drop or mend it; what is not known is NaN.")
    if pd.api.types.is_integer_dtype(values.dtype) and np.nanmax(np.abs(numbers), initial=0) > _LARGEST_WHOLE:
        raise ValueError(
            f"{name} holds whole numbers beyond 2**53, which are no floating-point numbers. Identifiers say nothing "
            "to a model: drop the column."
        )
    return cast(Numbers, numbers)


_NUMBERS_OF_OBJECTS = ("integer", "floating", "mixed-integer-float", "boolean", "empty")


def times_in(values: pd.Series, name: str, dtype: str) -> pd.Series:
    """Dates or time spans in the unit and the time zone of a dtype.

    Raises:
        TypeError: other values; dates with a time zone where there was none, or the reverse.

    """
    expected, found = pd.api.types.pandas_dtype(dtype), values.dtype
    if values.isna().all():
        return pd.Series(pd.NaT, values.index, dtype=expected)
    if getattr(found, "kind", "O") != getattr(expected, "kind", "O"):
        raise TypeError(
            f"{name} is {found} and was fitted as {dtype}: make it so with pd.to_datetime(column)."
        )
    is_zoned = isinstance(found, pd.DatetimeTZDtype), isinstance(expected, pd.DatetimeTZDtype)
    if is_zoned[0] != is_zoned[1]:
        raise TypeError(
            f"{name} is {found} and was fitted as {dtype}: say its time zone, or leave it out, with "
            "column.dt.tz_localize(...)."
        )
    return values.astype(expected)


def _is_naive(values: pd.Series) -> bool:
    return not isinstance(values.dtype, pd.DatetimeTZDtype)


def _instants(values: pd.Series) -> npt.NDArray[np.int64]:
    unit = cast(pd.DatetimeTZDtype, values.dtype).unit
    return values.dt.tz_convert("UTC").dt.tz_localize(None).astype(f"datetime64[{unit}]").to_numpy("int64")


def whole_times(values: pd.Series) -> npt.NDArray[np.int64]:
    """Dates or time spans that are there, as whole numbers in the unit of their dtype."""
    values = values.dropna()
    return values.to_numpy(dtype="int64") if _is_naive(values) else _instants(values)


def _as_dtype(numbers: Numbers, dtype: str, index: pd.Index | None, name: str | int) -> pd.Series:
    """Numbers in a dtype; whole ones are rounded and kept within its range."""
    wanted: Any = pd.api.types.pandas_dtype(dtype)
    if isinstance(wanted, pd.SparseDtype):
        wanted = wanted.subtype
    values = pd.Series(numbers, index=index, name=name)
    if not pd.api.types.is_integer_dtype(wanted):
        return _made(values, wanted)
    kind = np.dtype(getattr(wanted, "numpy_dtype", wanted))
    ends = np.iinfo(cast("np.dtype[np.int64]", kind))
    whole = values.round().clip(float(ends.min), float(np.nextafter(float(ends.max), 0)))
    nullable = _made(whole, "Int64")
    return _made(nullable if nullable.isna().any() else _made(nullable, kind), wanted)


def _made(values: pd.Series, dtype: Any) -> pd.Series:
    """In another dtype, of any name or kind that pandas knows."""
    return values.astype(dtype)
