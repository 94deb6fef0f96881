"""What the columns of a data frame hold: to tensors and back, printed, edited, and saved as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import level_of_caller
from pyrovae.container import parsed
from pyrovae.files import file_path, reading, write_atomically
from pyrovae.frames import in_words
from pyrovae.schema import MalformedError, checked
from pyrovae.shown import Section, Shown
from pyrovae.tables.allowed import problem
from pyrovae.tables.columns import KINDS, Column, Kind
from pyrovae.tables.kinds import column_of, may_be_identifiers


class Schema(Shown):
    """What each column of a data frame holds, by name and in the frame's order.

    Numbers are "real"; "positive" where a log-normal distribution fits them better than a normal; "count" where
    they are whole, not negative, near enough to 0 for it to matter, and a negative binomial distribution does;
    "bounded" where they fill the interval from 0 to 1; "ordered" where they are whole and few; "category" where
    there are two. Text and categories are "category", or "ordered" where their dtype says so, truth values
    "boolean", dates "date". A column of one value is "constant", and no part of the model.

    As numbers, labels are places among their levels and dates are steps since the first one, as long as all dates allow
    (days, say). What is absent (NaN, None, NaT) is NaN.

    Args:
        columns: what they hold; `Schema.of(frame)` finds it out.

    Example:
        >>> frame = pd.DataFrame({"age": [31, 50, 42, 19], "city": ["Bern", "Basel", None, "Bern"]})
        >>> schema = Schema.of(frame)
        >>> schema["age"] = "positive"
        >>> print(schema["age"])
        positive: 19 to 50
        >>> schema.to_tensor(frame)[:, 1]
        tensor([1., 0., nan, 1.], dtype=torch.float64)
        >>> schema.to_frame(schema.to_tensor(frame)).equals(frame)
        True

    """

    def __init__(self, columns: Mapping[str | int, Column]) -> None:
        self._columns = dict(columns)

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Schema:
        """Find out what the columns of a frame hold.

        Raises:
            TypeError: no frame; columns that hold neither numbers, nor labels, nor dates.
            ValueError: no rows or columns, two columns of one name, a column without any value or with a text of its
                own in each row.

        Warns:
            UserWarning: a column has a whole number of its own in each row, as identifiers do.

        """
        check_frame(frame)
        if not len(frame):
            raise ValueError("the frame has no rows: there is nothing to find out.")
        found = {name: column_of(frame[name], name) for name in map(_name, frame.columns)}
        if all(column.kind == "constant" for column in found.values()):
            raise ValueError("every column of the frame is constant: there is nothing to learn.")
        for name, column in found.items():
            if may_be_identifiers(frame[name]):
                warnings.warn(
                    f"column {name!r} has a whole number of its own in each of {len(frame)} rows and is taken for "
                    f"numbers, {column.kind!r}. If these are identifiers they say nothing: "
                    f"frame.drop(columns=[{name!r}]).",
                    stacklevel=level_of_caller(),
                )
        return cls(found)

    # What it holds

    @property
    def names(self) -> list[str | int]:
        """Of all columns, in the frame's order."""
        return list(self._columns)

    @property
    def modelled(self) -> list[Column]:
        """The columns that a model has, in the order of a tensor's."""
        return [column for column in self._columns.values() if column.kind != "constant"]

    def place(self, name: str | int) -> int:
        """Which column of the tensor it is.

        Raises:
            KeyError: there is none of this name.
            ValueError: it is constant.

        """
        column = self[name]
        if column.kind == "constant":
            raise ValueError(f"column {name!r} is constant: it is no part of the model.")
        return [c.name for c in self.modelled].index(name)

    def __getitem__(self, name: str | int) -> Column:
        if name not in self._columns:
            raise KeyError(f"there is no column {name!r}: there are {in_words(self.names)}.")
        return self._columns[name]

    def __iter__(self) -> Iterator[str | int]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and list(self._columns.items()) == list(other._columns.items())

    __hash__ = None  # type: ignore[assignment]

    # Edited

    def __setitem__(self, name: str | int, kind: Kind) -> None:
        self.declare(name, kind)

    def declare(
        self, name: str | int, kind: Kind, *, low: float | None = None, high: float | None = None
    ) -> None:
        """Make a column another kind; `schema[name] = kind` does so too.

        Args:
            name: of the column.
            kind: one of "real", "positive", "count", "bounded", "category", "ordered".
            low: the lower end of a bounded column; 0 if left out.
            high: its upper end; 1 if left out.

        Raises:
            KeyError: there is no such column.
            ValueError: a kind that its values are not, or that there is not; ends that they go beyond.

        """
        column = self[name]
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}.")
        if (low is not None or high is not None) and kind != "bounded":
            raise ValueError(f"low and high are those of a bounded column, and the kind is {kind!r}.")
        ends = (0.0 if low is None else float(low), 1.0 if high is None else float(high))
        if why := problem(column, kind, *ends):
            raise ValueError(f"column {name!r} cannot be {kind!r}: {why}.")
        changed = dataclasses.replace(column, kind=kind)
        if kind == "bounded":
            changed = dataclasses.replace(changed, low=ends[0], high=ends[1])
        self._columns[name] = changed

    # To tensors and back

    def to_tensor(self, frame: pd.DataFrame) -> Tensor:
        """The columns that are modelled as numbers in their own units, [N, D] of 64 bits, NaN where one is absent.

        Raises:
            TypeError: no frame; a column of another dtype than the fit's that does not go over into it.
            ValueError: columns that are missing, unknown labels, infinite numbers, and numbers outside their kind's.

        """
        check_frame(frame)
        if missing := [name for name in self._columns if name not in frame.columns]:
            raise ValueError(
                f"the frame lacks {in_words(missing)}: expected the columns {in_words(self.names)}. Where nothing is "
                f"known of a column, say so: frame.assign({missing[0]}=None)."
            )
        encoded = {name: column.encode(frame[name]) for name, column in self._columns.items()}
        kept = [encoded[column.name] for column in self.modelled]
        return torch.from_numpy(np.stack(kept, 1) if kept else np.empty((len(frame), 0)))

    def to_frame(self, values: Tensor, index: pd.Index | None = None) -> pd.DataFrame:
        """A frame of such numbers [N, D]: its dtypes, categories, time zones and column order.

        Numbers are rounded as those of the fit are.
        """
        numbers = values.detach().cpu().double().numpy()
        place = {column.name: i for i, column in enumerate(self.modelled)}
        made = {
            name: column.decode(numbers[:, place[name]] if name in place else np.zeros(len(numbers)), index)
            for name, column in self._columns.items()
        }
        return pd.DataFrame(made, index=index)

    def example(self) -> Tensor:
        """Two rows that such a table may have, [2, D]."""
        ends = {"positive": (1.0, 2.0), "count": (0.0, 1.0)}
        rows = [
            (cast(float, c.low), cast(float, c.high)) if c.kind == "bounded" else ends.get(c.kind, (0.0, 1.0))
            for c in self.modelled
        ]
        return torch.tensor(rows, dtype=torch.float64).T.contiguous()

    # Shown and saved

    def __str__(self) -> str:
        return self._table().to_string()

    def sections(self) -> Sequence[Section]:
        """The table, in Jupyter."""
        return [[self._table()]]

    def _table(self) -> pd.DataFrame:
        columns = self._columns.values()
        rows = [(column.kind, column.dtype, str(column).partition(": ")[2]) for column in columns]
        return pd.DataFrame(rows, index=pd.Index(self.names), columns=["kind", "dtype", "holds"])

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data; `from_json` reads it."""
        return [dataclasses.asdict(column) for column in self._columns.values()]

    @classmethod
    def from_json(cls, columns: object) -> Schema:
        """What `to_json` gave.

        Raises:
            MalformedError: it is not.

        """
        found = {}
        for number, given in enumerate(checked(columns, list[dict[str, object]], "schema")):
            field = f"schema.{number}"
            column = _column(given, field)
            if column.name in found:
                raise MalformedError(field, f"is {column.name!r} for the second time")
            found[column.name] = column
        return cls(found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, atomically.

        Raises:
            OSError: the file cannot be written.

        """
        text = json.dumps(self.to_json(), indent=1)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schema:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: another file (`pyrovae.files.FileError`).

        """
        with reading(path, "schema"):
            text = Path(file_path(path)).read_text(encoding="utf-8")
            return cls.from_json(parsed(text, "schema"))


def check_frame(frame: object) -> None:
    """Raise unless it is a data frame whose columns have names of their own.

    Raises:
        TypeError: no frame; names that are neither texts nor whole numbers.
        ValueError: no columns; a name twice.

    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"expected a pandas data frame and got {type(frame).__name__}: pd.DataFrame(array, columns=[...])."
        )
    if frame.shape[1] == 0:
        raise ValueError("the frame has no columns.")
    if not frame.columns.is_unique:
        twice = list(frame.columns[frame.columns.duplicated()].unique())
        raise ValueError(
            f"the columns {in_words(twice)} are there more than once: give each a name of its own, or keep the first, "
            "frame.loc[:, ~frame.columns.duplicated()]."
        )
    for name in frame.columns:
        _name(name)


def _name(name: object) -> str | int:
    if isinstance(name, bool) or not isinstance(name, str | int | np.integer):
        raise TypeError(
            f"a column is called {name!r}: expected texts or whole numbers, frame.columns = frame.columns.map(str)."
        )
    return name if isinstance(name, str) else int(name)


def _column(given: dict[str, object], field: str) -> Column:
    """A column as a file tells of it."""
    kinds: dict[str, object] = {
        "name": str | int,
        "kind": str,
        "dtype": str,
        "levels": list[str | int | float | bool] | None,
        "levels_dtype": str | None,
        "is_ordered": bool,
        "least": float | None,
        "most": float | None,
        "decimals": int | None,
        "low": float | None,
        "high": float | None,
        "origin": int | None,
        "step": int | None,
    }
    if set(given) != set(kinds):
        raise MalformedError(field, f"has {sorted(given)}: expected {sorted(kinds)}")
    for key, kind in kinds.items():
        checked(given[key], cast(type, kind), f"{field}.{key}")
    if given["kind"] not in KINDS:
        raise MalformedError(f"{field}.kind", f"is {given['kind']!r}: expected one of {', '.join(KINDS)}")
    for key in ("dtype", "levels_dtype"):
        try:
            pd.api.types.pandas_dtype(given[key] or "object")
        except TypeError as error:
            raise MalformedError(
                f"{field}.{key}", f"is {given[key]!r}, which pandas does not know"
            ) from error
    levels = given["levels"]
    made = {**given, "levels": None if levels is None else tuple(cast("list[object]", levels))}
    column = Column(**cast("dict[str, Any]", made))
    if column.is_label and column.options < (1 if column.kind == "constant" else 2):
        raise MalformedError(f"{field}.levels", "are too few")
    if (column.origin is None) != (column.step is None) or (column.step is not None and column.step < 1):
        raise MalformedError(f"{field}.step", "does not go with the origin")
    return column
