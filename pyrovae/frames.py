"""Data frames and their columns, as arrays of numbers: each column by what it holds, and refused by its name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

Columns: TypeAlias = tuple[str | int, ...]
"""What the columns of a frame are called, in their order."""

MOST_NAMES = 5


def is_anndata(table: object) -> bool:
    """Whether it is AnnData; whoever has some has imported the package."""
    loaded = sys.modules.get("anndata")
    return loaded is not None and isinstance(table, loaded.AnnData)


def columns_of(table: object) -> Columns | None:
    """The names of a frame's columns, or of AnnData's genes; None of what has none, or none but 0, 1, 2, ..."""
    labels = getattr(table, "var_names" if is_anndata(table) else "columns", None)
    if labels is None or (isinstance(labels, pd.RangeIndex) and (labels.start, labels.step) == (0, 1)):
        return None
    return tuple(
        label if isinstance(label, str) else int(label) if isinstance(label, int | np.integer) else str(label)
        for label in labels
    )


def index_of(table: object) -> pd.Index | None:
    """What the rows of a frame or of AnnData are called; None of what has no names for them."""
    index = getattr(table, "obs_names" if is_anndata(table) else "index", None)
    return index if isinstance(index, pd.Index) else None


def in_words(columns: Sequence[str | int]) -> str:
    """The names, the first few of many."""
    shown = ", ".join(map(repr, columns[:MOST_NAMES]))
    return shown + (f" and {len(columns) - MOST_NAMES} more" if len(columns) > MOST_NAMES else "")


def numbers_of(table: object, name: str) -> object:
    """A data frame or a column of one as an array; one whose columns are all sparse as a sparse matrix.

    Columns of different kinds of numbers get the kind that holds them all; truth values are 0 and 1 beside numbers;
    missing values of nullable columns become NaN.

    Raises:
        TypeError: columns that hold no numbers, each with its name and what to do.

    """
    if isinstance(table, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        column = pd.Series(table)
        if problem := _problem(column):
            which = f"{name}, the column {column.name!r}," if column.name is not None else name
            raise TypeError(f"{which} is {column.dtype}: expected numbers. {_remedy(problem, [column.name])}")
        return _numbers(column)
    if not isinstance(table, pd.DataFrame):
        return table.to_numpy()  # type: ignore[attr-defined]
    _refuse_other_than_numbers(table, name)
    if all(isinstance(dtype, pd.SparseDtype) and not dtype.fill_value for dtype in table.dtypes):
        matrix: object = table.sparse.to_coo()  # type: ignore[attr-defined]
        return matrix
    if all(isinstance(dtype, np.dtype) for dtype in table.dtypes) and table.dtypes.nunique() == 1:
        return table.to_numpy()
    columns = [_numbers(table.iloc[:, place]) for place in range(table.shape[1])]
    filled = np.empty(table.shape, np.result_type(*columns))
    for place, values in enumerate(columns):
        filled[:, place] = values
    return filled


def _numbers(column: pd.Series) -> npt.NDArray[np.generic]:
    dtype = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        column = column.sparse.to_dense()  # type: ignore[attr-defined]
    if isinstance(column.dtype, np.dtype):
        return cast(npt.NDArray[np.generic], column.to_numpy())
    if column.isna().any():
        return cast(npt.NDArray[np.generic], column.to_numpy(dtype=np.float64, na_value=np.nan))
    kind = getattr(column.dtype, "numpy_dtype")  # noqa: B009 - nullable and Arrow's, of which pandas' types do not tell
    return cast(npt.NDArray[np.generic], column.to_numpy(dtype=kind))


def _refuse_other_than_numbers(frame: pd.DataFrame, name: str) -> None:
    if frame.shape[1] == 0:
        raise ValueError(f"{name} is a data frame without columns.")
    wrong: dict[str, list[object]] = {}
    for place, label in enumerate(frame.columns):
        if problem := _problem(frame.iloc[:, place]):
            wrong.setdefault(problem, []).append(label)
    if wrong:
        lines = [
            f"\n  {in_words(cast(Columns, tuple(labels)))} ({problem}): {_remedy(problem, labels)}"
            for problem, labels in wrong.items()
        ]
        raise TypeError(f"{name} has columns that hold no numbers: expected numbers in all." + "".join(lines))


def _problem(column: pd.Series) -> str:
    """What a column holds in place of numbers; "" if it holds numbers."""
    dtype = column.dtype.subtype if isinstance(column.dtype, pd.SparseDtype) else column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "categories"
    kind = getattr(dtype, "kind", "O")
    if kind in "biuf":
        return ""
    return {"M": "dates", "m": "time spans", "c": "complex numbers"}.get(kind, "text or objects")


def _remedy(problem: str, labels: list[object]) -> str:
    label = f"frame[{labels[0]!r}]" if labels[0] is not None else "column"
    return {
        "categories": f"pd.get_dummies(frame, columns={labels[:MOST_NAMES]!r}) makes a column of each option, "
        f"{label}.cat.codes whole numbers.",
        "dates": f"({label} - start).dt.total_seconds() makes numbers of them.",
        "time spans": f"{label}.dt.total_seconds() makes numbers of them.",
        "complex numbers": "give real and imaginary parts as two columns.",
    }.get(
        problem,
        f"pd.get_dummies(frame, columns={labels[:MOST_NAMES]!r}) makes a column of each option, "
        f"pd.to_numeric({label}) numbers of text that says them.",
    )
