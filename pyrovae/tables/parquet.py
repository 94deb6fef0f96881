"""Rows of a parquet file, some row groups at a time: what its columns hold, rows held out, batches to train on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pyrovae.files import file_path
from pyrovae.tables.allowed import fits
from pyrovae.tables.columns import Column
from pyrovae.tables.kinds import MOST_LEVELS, column_of
from pyrovae.tables.schema import Schema
from pyrovae.tables.training import Sizes

# Rows from which kinds, centres and sizes are found out.
_ROWS_LOOKED_AT = 20_000
# Row groups whose rows are shuffled together.
_GROUPS_AT_ONCE = 4


class ParquetRows(IterableDataset[Tensor]):
    """Batches of a parquet file's rows, [B, D] each, in another order each time; rows held out are not among them.

    Each pass takes the row groups in a random order, and shuffles the rows of a few groups together. Two passes come
    first: what the columns hold, and which rows are held out.

    Args:
        path: of the file.
        schema: what its columns hold; found out from all its rows if None.
        sizes: batch size and shares held out.
        seed: of the choice of rows.

    Attributes:
        schema: what its columns hold.
        num_rows: of the file.
        head: a few of its rows, as a frame.
        example, validation, held_out: rows to find out units, to stop by, and that neither sees, [., D].

    Raises:
        ModuleNotFoundError: pyarrow is not there.
        ValueError, TypeError: as `Schema.of`; fewer than four rows.

    """

    def __init__(self, path: str | os.PathLike[str], schema: Schema | None, sizes: Sizes, seed: int) -> None:
        super().__init__()
        self._file = _opened(path)
        self.num_rows: int = self._file.metadata.num_rows
        if self.num_rows < 4:
            raise ValueError(f"{path} has n_samples = {self.num_rows}: a VAE needs at least 4 rows.")
        self._sizes = [
            self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)
        ]
        self._starts = np.cumsum([0, *self._sizes])
        self._names = None if schema is None else list(schema)
        self.batch_size = sizes.of_course(self.num_rows)[0]
        generator = np.random.default_rng(seed)
        if schema is None:
            schema = self._found_out(generator)
        self.schema = schema
        num_validation, num_calibration = sizes.held_out(self.num_rows)
        some = generator.choice(
            self.num_rows, min(self.num_rows, num_validation + num_calibration + _ROWS_LOOKED_AT), False
        )
        calibration, validation, example = np.split(some, [num_calibration, num_calibration + num_validation])
        self._kept_out = np.sort(some[: num_calibration + num_validation])
        taken = self._taken(np.sort(some))
        self.held_out, self.validation, self.example = (
            rows[~rows.isnan().all(1)] for rows in (taken(calibration), taken(validation), taken(example))
        )

    @property
    def head(self) -> pd.DataFrame:
        """Its first rows."""
        return self._frame(0).head()

    def loader(self) -> DataLoader[Tensor]:
        """What `pyrovae.fit` takes."""
        return DataLoader(self, batch_size=None)

    def __len__(self) -> int:
        """Batches a pass."""
        return max(1, -(-(self.num_rows - len(self._kept_out)) // self.batch_size))

    def __iter__(self) -> Iterator[Tensor]:
        # One place for all groups: memory that is taken and given back by turns with a training's is never whole again.
        room = _GROUPS_AT_ONCE * max(self._sizes) + self.batch_size
        held = torch.empty(room, len(self.schema.modelled), dtype=torch.float64)
        count = 0
        order = torch.randperm(len(self._sizes)).tolist()
        for first in range(0, len(order), _GROUPS_AT_ONCE):
            for group in order[first : first + _GROUPS_AT_ONCE]:
                rows = self._to_train_on(group)
                held[count : count + len(rows)] = rows
                count += len(rows)
            del rows
            places = torch.randperm(count)
            whole = count // self.batch_size * self.batch_size
            for some in places[:whole].split(self.batch_size) if whole else ():
                yield held[some]
            count -= whole
            held[:count] = held[places[whole:]]
        if count:
            yield held[:count].clone()

    # Behind these

    def _frame(self, group: int) -> pd.DataFrame:
        frame: pd.DataFrame = self._file.read_row_group(group, columns=self._names).to_pandas()
        return frame

    def _to_train_on(self, group: int) -> Tensor:
        start = self._starts[group]
        values = self.schema.to_tensor(self._frame(group))
        left, right = np.searchsorted(self._kept_out, [start, self._starts[group + 1]])
        kept = ~values.isnan().all(1)
        kept[torch.from_numpy(self._kept_out[left:right] - start)] = False
        return values[kept]

    def _taken(self, places: np.ndarray) -> _Taken:
        """The rows at sorted places of the file."""
        pieces = []
        for group in range(len(self._sizes)):
            left, right = np.searchsorted(places, [self._starts[group], self._starts[group + 1]])
            if left < right:
                frame = self._frame(group).iloc[places[left:right] - self._starts[group]]
                pieces.append(self.schema.to_tensor(frame))
        return _Taken(places, torch.cat(pieces))

    def _found_out(self, generator: np.random.Generator) -> Schema:
        """What the columns hold: kinds by rows of all groups, levels and ends by all rows."""
        share = min(1.0, _ROWS_LOOKED_AT / self.num_rows)
        some = []
        for group, size in enumerate(self._sizes):
            chosen = np.sort(generator.choice(size, min(size, max(1, round(share * size))), False))
            some.append(self._frame(group).iloc[chosen])
        found = Schema.of(pd.concat(some))
        columns = {name: found[name] for name in found}
        for group in range(len(self._sizes)):
            frame = self._frame(group)
            columns = {name: widened(column, frame[name]) for name, column in columns.items()}
        return Schema(columns)


class _Taken:
    """Rows by their places in the file."""

    def __init__(self, places: np.ndarray, rows: Tensor) -> None:
        self.places, self.rows = places, rows

    def __call__(self, places: np.ndarray) -> Tensor:
        return self.rows[torch.from_numpy(np.searchsorted(self.places, places))]


def widened(column: Column, values: pd.Series) -> Column:
    """What a column holds that holds these values too: more levels, wider ends, another kind if they ask for it."""
    if not values.notna().any() or column.dtype == "category":
        return column
    other = column_of(values, column.name)
    levels = None
    if column.levels is not None and other.levels is not None:
        levels = tuple(
            sorted({*column.levels, *other.levels}, key=lambda level: (isinstance(level, str), level))
        )
        levels = levels if len(levels) <= MOST_LEVELS or isinstance(levels[-1], str) else None
    if column.least is None:
        kind = column.kind
        if kind == "constant" and levels is not None and len(levels) > 1:
            kind = "boolean" if isinstance(levels[0], bool) else "category"
        return dataclasses.replace(column, kind=kind, levels=levels)
    if column.origin is not None:
        return _widened_times(column, other)
    decimals = (
        None if None in (column.decimals, other.decimals) else max(column.decimals or 0, other.decimals or 0)
    )
    ends = min(column.least, other.least or 0.0), max(column.most or 0.0, other.most or 0.0)
    changed = dataclasses.replace(column, levels=levels, least=ends[0], most=ends[1], decimals=decimals)
    if fits(changed):
        return changed
    return dataclasses.replace(changed, kind="real")


def _widened_times(column: Column, other: Column) -> Column:
    starts, steps = ([cast(int, getattr(c, name)) for c in (column, other)] for name in ("origin", "step"))
    ends = [
        start + round((c.most or 0.0) * step)
        for c, start, step in zip((column, other), starts, steps, strict=True)
    ]
    origin = min(starts)
    step = int(np.gcd.reduce([*steps, *(start - origin for start in starts)]))
    return dataclasses.replace(column, origin=origin, step=step, most=(max(ends) - origin) / step)


def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as problem:
        raise ModuleNotFoundError(
            'parquet files need pyarrow: pip install "pyrovae[parquet]".', name="pyarrow"
        ) from problem
    if not file_path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    return parquet.ParquetFile(path)
