"""Rows of data: what users hand over, as the positional arguments of a pair.

Data are `x` or the tuple `(x, *context)`. Rows lie along dimension 0 of `x` and of every context tensor;
arguments that are not arrays pass through untouched. Memory-mapped arrays stay on disk until rows are taken.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from pyrovae.block_sizes import BYTES_READ_AT_ONCE, ROWS_AT_ONCE, slices


class OnDisk:
    """Rows of a memory-mapped array: `rows[index]` reads them, as tensors."""

    def __init__(self, array: np.memmap[tuple[int, ...], np.dtype[np.generic]]) -> None:
        self._array = array
        self.shape = torch.Size(array.shape)
        kind = torch.as_tensor(np.zeros((), array.dtype)).dtype
        self.dtype = torch.get_default_dtype() if kind.is_floating_point else kind

    def __len__(self) -> int:
        """N."""
        return len(self._array)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """[B, ...] in memory."""
        # Indices copy by themselves.
        taken = self._array[index].copy() if isinstance(index, slice) else self._array[index.cpu().numpy()]
        return torch.from_numpy(np.asarray(taken)).to(self.dtype)

    def is_floating_point(self) -> bool:
        """As of a tensor."""
        return self.dtype.is_floating_point


ARRAYS = (Tensor, OnDisk)


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
        return cls(arguments, any(isinstance(a, Tensor) and bool(a.isnan().any()) for a in arguments))

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

    NumPy arrays and pandas objects become tensors; their floating-point values take torch's default dtype.
    Tensors are taken as they are, and memory-mapped arrays (`numpy.memmap`) as `OnDisk`. NaN is an entry that its row
    does not have; `absent` says whether there are any.

    Raises:
        TypeError: `x` is no array or tensor, or holds objects.
        ValueError: no rows; rows of `x` and a context that differ; infinite values, with the row.

    Example:
        >>> import numpy as np
        >>> data = Rows((np.zeros((5, 3)), np.arange(5)))
        >>> len(data), data.take(slice(0, 2)).x.shape
        (5, torch.Size([2, 3]))

    """

    def __init__(self, data: object) -> None:
        arguments = data if isinstance(data, tuple) else (data,)
        if not arguments:
            raise ValueError("data is an empty tuple: give x, or (x, *context).")
        # Whoever has found these rows in the support of a likelihood of theirs need not look again.
        self.checked_by: weakref.WeakSet[object] = weakref.WeakSet()
        self.arguments: tuple[object, ...] = tuple(
            _as_tensor(a, _name(place)) for place, a in enumerate(arguments)
        )
        x = self.arguments[0]
        if not isinstance(x, ARRAYS):
            raise TypeError(
                f"x is {type(x).__name__}: expected a tensor or a NumPy array with rows along dimension 0."
            )
        for place, argument in enumerate(self.arguments):
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
            raise ValueError("the data have no rows.")
        arrays = [(_name(place), a) for place, a in enumerate(self.arguments) if isinstance(a, ARRAYS)]
        # All are looked at, for infinite values.
        self.absent = max(_holds_nan(values, name) for name, values in arrays)

    @classmethod
    def of(cls, batch: Batch, *, checked_by: object) -> Rows:
        """Rows that are known to be good: parts, or transforms, of rows that somebody has checked."""
        rows = object.__new__(cls)
        rows.arguments, rows.absent = batch.arguments, batch.absent
        rows.checked_by = weakref.WeakSet([checked_by])
        return rows

    def __len__(self) -> int:
        """N."""
        return len(self.x)

    @property
    def x(self) -> Tensor | OnDisk:
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
        lacking = torch.zeros(len(self), dtype=torch.bool)
        for values in self.arguments:
            if isinstance(values, ARRAYS):
                lacking |= _rows_where(values, lambda block: block.isnan().any(1)).cpu()
        few = every[lacking][: max(1, count // 2)]
        others = every[~torch.isin(every, few)][: count - len(few)]
        return torch.cat([few, others]).sort().values

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
        other.arguments, other.checked_by, other.absent = arguments, checked_by, self.absent
        return other


def _taken(values: Tensor | OnDisk, index: slice | Tensor) -> Tensor:
    if isinstance(values, Tensor) and isinstance(index, Tensor):
        return values.index_select(0, index.to(values.device))  # several times faster than values[index]
    return values[index]


def _moved(values: Tensor, device: torch.device | None) -> Tensor:
    # From pinned memory, as a DataLoader may give it, a GPU copies while it computes.
    return values.to(device, non_blocking=values.is_pinned())


def blocks(values: Tensor | OnDisk) -> Iterator[slice]:
    """All rows in pieces of some megabytes, for work that shall not hold them all in memory."""
    bytes_of_row = max(1, math.prod(values.shape[1:]) * values.dtype.itemsize)
    yield from slices(len(values), max(1, BYTES_READ_AT_ONCE // bytes_of_row))


def _name(place: int) -> str:
    return "x" if place == 0 else f"context {place}"


def _as_tensor(argument: object, name: str) -> object:
    if hasattr(argument, "to_numpy") and not isinstance(argument, Tensor):
        argument = argument.to_numpy()
    if not isinstance(argument, np.ndarray):
        return argument
    if isinstance(argument, np.ma.MaskedArray):
        argument = _without_mask(argument, name)
    if argument.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} is an array of {argument.dtype}: expected numbers. Encode text and objects as numbers first."
        )
    if isinstance(argument, np.memmap):
        return OnDisk(argument)
    argument = np.ascontiguousarray(argument)
    tensor = torch.as_tensor(argument) if argument.flags.writeable else torch.tensor(argument)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def _without_mask(array: np.ma.MaskedArray, name: str) -> np.ndarray:
    """A masked array's numbers, NaN where they are masked: what lies under a mask is anything."""
    count = int(np.ma.getmaskarray(array).sum())
    if count == 0:
        return np.asarray(array.data)
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name} is a masked array of {array.dtype} with {count} masked entries, which are NaN here and no such "
            "numbers can be: convert it first, x.astype(float)."
        )
    return np.asarray(array.filled(np.nan))


def _rows_where(values: Tensor | OnDisk, holds: Callable[[Tensor], Tensor]) -> Tensor:
    """Whether something holds of each row, [N], a block of rows at a time."""
    found = torch.zeros(len(values), dtype=torch.bool, device=getattr(values, "device", None))
    for some in blocks(values):
        block = values[some]
        found[some] = holds(block.reshape(len(block), -1))
    return found


def _holds_nan(values: Tensor | OnDisk, name: str) -> bool:
    """Whether an entry is NaN.

    Raises:
        ValueError: an infinite value, with its row.

    """
    if not values.is_floating_point():
        return False
    # A sum takes no memory; it is not finite where an entry is not, and it may overflow.
    if not bool(_rows_where(values, lambda block: ~torch.isfinite(block.sum(1))).any()):
        return False
    infinite = _rows_where(values, lambda block: block.isinf().any(1))
    if not bool(infinite.any()):
        return bool(_rows_where(values, lambda block: block.isnan().any(1)).any())
    raise ValueError(
        f"{name} holds an infinite value in row {int(infinite.nonzero()[0, 0])} ({int(infinite.sum())} such rows in "
        "all). Drop or mend these rows; what a row does not have is NaN."
    )
