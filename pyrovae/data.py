"""Rows of data: what users hand over, as the positional arguments of a pair.

Data are `x` or the tuple `(x, *context)`. Rows lie along dimension 0 of `x` and of every context tensor;
arguments that are not arrays pass through untouched. Memory-mapped arrays stay on disk, and the zeros of sparse
matrices are left out, until rows are taken.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import register_pytree_node
from torch.utils.data import DataLoader, Dataset

from pyrovae.arrays import ARRAYS, OnDemand, as_tensor
from pyrovae.block_sizes import BYTES_READ_AT_ONCE, ROWS_AT_ONCE, slices
from pyrovae.frames import Columns, columns_of, in_words


@dataclass(frozen=True, eq=False)
class Batch:
    """The arguments `(x, *context)` of model and guide for B rows, on one device.

    Tensors have the rows along dimension 0. All else, tensors without dimensions among it, is the same for every
    row and passes through untouched. `absent` says that entries may be NaN, which rows then do not have.

    Example:
        >>> batch = Batch((torch.zeros(5, 3), torch.arange(5), "same"))
        >>> len(batch), batch[1:3].arguments[1], batch.repeated(2).x.shape
        (5, tensor([1, 2]), torch.Size([10, 3]))

    """

    arguments: tuple[object, ...]
    absent: bool = False

    @classmethod
    def of(cls, arguments: tuple[object, ...]) -> Batch:
        """Arguments of which nobody knows whether entries are absent; values are read."""
        return cls(arguments, bool(cls(arguments).lacking))

    def __len__(self) -> int:
        """B."""
        return len(next(tensor for tensor in self.arguments if isinstance(tensor, Tensor)))

    def __getitem__(self, some: slice | Tensor) -> Batch:
        """The arguments of some of these rows."""
        return self.changed(lambda tensor: tensor[some])

    # Rows are no items to go through one by one; programs take `*batch.arguments`.
    __iter__ = None

    @property
    def x(self) -> Tensor:
        """The first argument, [B, ...]."""
        x = self.arguments[0]
        assert isinstance(x, Tensor)
        return x

    @property
    def context(self) -> tuple[object, ...]:
        """What the pair takes beside `x`."""
        return self.arguments[1:]

    @property
    def tensors(self) -> list[Tensor]:
        """The arguments that are tensors, in their order."""
        return [argument for argument in self.arguments if isinstance(argument, Tensor)]

    @property
    def lacking(self) -> list[int]:
        """The places of the arguments that hold NaN; values are read."""
        return [
            place for place, a in enumerate(self.arguments) if isinstance(a, Tensor) and bool(a.isnan().any())
        ]

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.tensors[0].device

    def to(self, device: torch.device) -> Batch:
        """The same rows on a device."""
        return Batch(tuple(a.to(device) if isinstance(a, Tensor) else a for a in self.arguments), self.absent)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """With `change` done to every tensor that has rows."""
        changed = (change(a) if isinstance(a, Tensor) and a.dim() > 0 else a for a in self.arguments)
        return Batch(tuple(changed), self.absent)

    def repeated(self, times: int) -> Batch:
        """All rows so many times over, one whole set after the other: [times * B, ...]."""
        return self.changed(lambda tensor: tensor.repeat(times, *[1] * (tensor.dim() - 1)))


# A traced function takes batches apart into their tensors and puts them together again.
register_pytree_node(
    Batch,
    lambda batch: (list(batch.arguments), batch.absent),
    lambda parts, absent: Batch(tuple(parts), bool(absent)),
)


class Rows:
    """A data set of N rows: the arguments `(x, *context)` of model and guide, as tensors.

    NumPy arrays and pandas objects become tensors; their floating-point values take the dtype `floats`, torch's default
    if None (a VAE's functions give that of its parameters), and unsigned whole numbers of 16 bits and more wider signed
    ones. Truth values in `x` become 0 and 1; in context, where they may be masks, they stay. Columns of a frame that
    are of different kinds become one kind that holds them all; their names are kept in `columns`, by argument. Tensors
    are taken as they are, memory-mapped arrays (`numpy.memmap`) as `OnDisk`, SciPy's sparse matrices, and frames whose
    columns are all sparse, as `Sparse`. NaN is an entry that its row does not have; `absent` says if there are any.

    Raises:
        TypeError: `x` is no array or tensor; objects, text, dates or categories, with the column and what to do.
        ValueError: no rows; rows of `x` and a context that differ; infinite values, with row and column.

    Example:
        >>> import numpy as np
        >>> data = Rows((np.zeros((5, 3)), np.arange(5)))
        >>> len(data), data.take(slice(0, 2)).x.shape
        (5, torch.Size([2, 3]))

    """

    def __init__(self, data: object, floats: torch.dtype | None = None) -> None:
        arguments = data if isinstance(data, tuple) else (data,)
        if not arguments:
            raise ValueError("data is an empty tuple: give x, or (x, *context).")
        # Whoever has found these rows in the support of a likelihood of theirs need not look again.
        self.checked_by: weakref.WeakSet[object] = weakref.WeakSet()
        self.columns: tuple[Columns | None, ...] = tuple(columns_of(a) for a in arguments)
        self.arguments: tuple[object, ...] = tuple(
            as_tensor(a, _name(place), truth_is_number=place == 0, floats=floats)
            for place, a in enumerate(arguments)
        )
        x = self.arguments[0]
        if isinstance(x, Dataset | DataLoader):
            raise TypeError(
                f"x is a {type(x).__name__}: fit takes it; for all else make tensors of it first, "
                "x, *context = pyrovae.stacked(dataset)."
            )
        if not isinstance(x, ARRAYS):
            raise TypeError(
                f"x is {type(x).__name__}: expected a tensor or a NumPy array with rows along dimension 0."
                f"{_instead_of(x)}"
            )
        for place, argument in enumerate(self.arguments):
            if isinstance(argument, PackedSequence):
                raise TypeError(f"{_name(place)} is PackedSequence.{_instead_of(argument)}")
            if not isinstance(argument, ARRAYS):
                continue
            name = _name(place)
            if len(argument.shape) == 0:
                raise ValueError(f"{name} is a scalar tensor: expected rows along dimension 0.")
            if len(argument) != len(x):
                raise ValueError(
                    f"x has {len(x)} rows and {name} has {len(argument)}: each row of x needs its own context. "
                    "Arguments that are the same for all rows are passed as plain Python values."
                )
        if len(x) == 0:
            raise ValueError("the data have no rows: expected at least one.")
        found = [
            _holds_nan(argument, _name(place), self.columns[place])
            for place, argument in enumerate(self.arguments)
            if isinstance(argument, ARRAYS)
        ]
        self.absent = any(found)

    @classmethod
    def of(cls, batch: Batch, *, checked_by: object) -> Rows:
        """Rows that are known to be good: parts, or transforms, of rows that somebody has checked."""
        rows = object.__new__(cls)
        rows.arguments, rows.absent = batch.arguments, batch.absent
        rows.checked_by = weakref.WeakSet([checked_by])
        rows.columns = (None,) * len(batch.arguments)
        return rows

    def __len__(self) -> int:
        """N."""
        return len(self.x)

    @property
    def x(self) -> Tensor | OnDemand:
        """The first argument, [N, ...]."""
        x = self.arguments[0]
        assert isinstance(x, ARRAYS)
        return x

    def in_blocks(self, device: torch.device) -> Iterator[tuple[int, Batch]]:
        """The rows in blocks on a device, each with the place of its first row."""
        for some in slices(len(self), ROWS_AT_ONCE):
            yield some.start, self.take(some, device)

    def take(self, index: slice | Tensor, device: torch.device | None = None) -> Batch:
        """Some rows, by places or a slice, on a device."""
        taken = (_moved(_taken(a, index), device) if isinstance(a, ARRAYS) else a for a in self.arguments)
        return Batch(tuple(taken), self.absent)

    def places_to_try(self, count: int) -> Tensor:
        """The places of the first rows, and where entries are absent also of the first few that lack one."""
        every = torch.arange(len(self))
        if not self.absent:
            return every[:count]
        few = every[self._lacking][: max(1, count // 2)]
        others = every[~torch.isin(every, few)][: count - len(few)]
        return torch.cat([few, others]).sort().values

    @functools.cached_property
    def _lacking(self) -> Tensor:
        """Which rows lack an entry, [N]; read once, for data may be large."""
        found = torch.zeros(len(self), dtype=torch.bool)
        for values in self.arguments:
            if isinstance(values, ARRAYS):
                found |= _rows_where(values, lambda block: block.isnan().any(1)).cpu()
        return found

    def __getitem__(self, index: slice | Tensor) -> Rows:
        """Some of the rows, as checked as these are; what is on disk is read."""
        some = tuple(_taken(a, index) if isinstance(a, ARRAYS) else a for a in self.arguments)
        return self._alike(some, weakref.WeakSet(self.checked_by))

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device; what is on disk stays there. Who checks the ones has checked the others."""
        there = tuple(a.to(device) if isinstance(a, Tensor) else a for a in self.arguments)
        return self._alike(there, self.checked_by)

    def _alike(self, arguments: tuple[object, ...], checked_by: weakref.WeakSet[object]) -> Rows:
        other = object.__new__(Rows)
        other.arguments, other.columns, other.checked_by = arguments, self.columns, checked_by
        other.absent = self.absent
        return other


def _taken(values: Tensor | OnDemand, index: slice | Tensor) -> Tensor:
    if isinstance(values, Tensor) and isinstance(index, Tensor):
        return values.index_select(0, index.to(values.device))  # several times faster than values[index]
    return values[index]


def _moved(values: Tensor, device: torch.device | None) -> Tensor:
    # From pinned memory, as a DataLoader may give it, a GPU copies while it computes.
    return values.to(device, non_blocking=values.is_pinned())


def blocks(values: Tensor | OnDemand) -> Iterator[slice]:
    """All rows in pieces of some megabytes, for work that shall not hold them all in memory."""
    bytes_of_row = max(1, math.prod(values.shape[1:]) * values.dtype.itemsize)
    yield from slices(len(values), max(1, BYTES_READ_AT_ONCE // bytes_of_row))


def _instead_of(argument: object) -> str:
    """What to hand over in place of tensors that are held by something else."""
    if isinstance(argument, PackedSequence):
        return (
            " Its rows are of different lengths: give x, lengths = "
            "torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True), lengths as context, and let the model "
            "mask what lies beyond them."
        )
    if isinstance(argument, Mapping):
        keys = ", ".join(map(str, argument))
        return (
            f" Give its entries as arguments of their own, f(vae, data[key], ...). A program that takes a dict is "
            f"wrapped in one that takes its entries ({keys}) and makes the dict."
        )
    if isinstance(argument, list | tuple):
        if any(isinstance(item, ARRAYS) for item in argument):
            return (
                " Stack rows, torch.stack(data); give x and context as arguments of their own, f(vae, *data)."
            )
        return " Make an array of a list of rows, torch.tensor(data) or numpy.array(data)."
    return ""


def _name(place: int) -> str:
    return "x" if place == 0 else f"context {place}"


def _rows_where(values: Tensor | OnDemand, holds: Callable[[Tensor], Tensor]) -> Tensor:
    """Whether something holds of each row, [N], a block of rows at a time."""
    found = torch.zeros(len(values), dtype=torch.bool, device=getattr(values, "device", None))
    for some in blocks(values):
        block = values[some]
        found[some] = holds(block.reshape(len(block), -1))
    return found


def _holds_nan(values: Tensor | OnDemand, name: str, columns: Columns | None) -> bool:
    """Whether an entry is NaN.

    Raises:
        ValueError: an infinite value, with its row and column.

    """
    if not values.is_floating_point():
        return False
    # A sum takes no memory; it is not finite where an entry is not, and it may overflow.
    if not bool(_rows_where(values, lambda block: ~torch.isfinite(block.sum(1))).any()):
        return False
    infinite = _rows_where(values, lambda block: block.isinf().any(1))
    if not bool(infinite.any()):
        return bool(_rows_where(values, lambda block: block.isnan().any(1)).any())
    row = int(infinite.nonzero()[0, 0])
    of_column = ""
    if columns is not None:
        there = values[row : row + 1][0].isinf().nonzero()[:, 0].tolist()
        of_column = f", column{'s' * (len(there) > 1)} {in_words([columns[place] for place in there])}"
    raise ValueError(
        f"{name} holds an infinite value in row {row}{of_column} ({int(infinite.sum())} such rows in all). Drop or "
        "mend these rows; what a row does not have is NaN."
    )
