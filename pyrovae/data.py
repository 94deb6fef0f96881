"""Rows of data: what users hand over, as the positional arguments of a pair.

Data are `x` or the tuple `(x, *context)`. Rows lie along dimension 0 of `x` and of every context tensor;
arguments that are not arrays pass through untouched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.layout import Arguments


class Rows:
    """A data set of N rows: the arguments `(x, *context)` of model and guide, as tensors.

    NumPy arrays and pandas objects become tensors; their floating-point values take torch's default dtype.
    Tensors are taken as they are.

    Raises:
        TypeError: `x` is no array or tensor, or holds objects.
        ValueError: no rows; rows of `x` and a context that differ; NaN or infinite values, with the row.

    Example:
        >>> import numpy as np
        >>> data = Rows((np.zeros((5, 3)), np.arange(5)))
        >>> len(data), data.take(slice(0, 2))[0].shape
        (5, torch.Size([2, 3]))

    """

    def __init__(self, data: Any) -> None:
        arguments = data if isinstance(data, tuple) else (data,)
        if not arguments:
            raise ValueError("data is an empty tuple: give x, or (x, *context).")
        self.arguments: Arguments = tuple(_as_tensor(a, _name(place)) for place, a in enumerate(arguments))
        x = self.arguments[0]
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x is {type(x).__name__}: expected a tensor or a NumPy array with rows along dimension 0."
            )
        for place, argument in enumerate(self.arguments):
            if not isinstance(argument, Tensor):
                continue
            name = _name(place)
            if argument.dim() == 0:
                raise ValueError(f"{name} is a scalar tensor: expected rows along dimension 0.")
            if len(argument) != len(x):
                raise ValueError(
                    f"x has {len(x)} rows and {name} has {len(argument)}: each row of x needs its own context. "
                    "Arguments that are the same for all rows are passed as plain Python values."
                )
        if len(x) == 0:
            raise ValueError("the data have no rows.")
        for place, argument in enumerate(self.arguments):
            if isinstance(argument, Tensor):
                _check_finite(argument, _name(place))

    def __len__(self) -> int:
        """N."""
        return len(self.arguments[0])

    def take(self, index: slice | Tensor, device: torch.device | None = None) -> Arguments:
        """The arguments for some rows, on a device."""
        return tuple(a[index].to(device) if isinstance(a, Tensor) else a for a in self.arguments)

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device."""
        moved = object.__new__(Rows)
        moved.arguments = tuple(a.to(device) if isinstance(a, Tensor) else a for a in self.arguments)
        return moved


def _name(place: int) -> str:
    return "x" if place == 0 else f"context {place}"


def _as_tensor(argument: Any, name: str) -> Any:
    if hasattr(argument, "to_numpy") and not isinstance(argument, Tensor):
        argument = argument.to_numpy()
    if not isinstance(argument, np.ndarray):
        return argument
    if argument.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} is an array of {argument.dtype}: expected numbers. Encode text and objects as numbers first."
        )
    argument = np.ascontiguousarray(argument)
    tensor = torch.as_tensor(argument) if argument.flags.writeable else torch.tensor(argument)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def _check_finite(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        return
    bad = ~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)
    if not bool(bad.any()):
        return
    row = int(bad.nonzero()[0, 0])
    kind = "NaN" if bool(tensor[row].isnan().any()) else "an infinite value"
    raise ValueError(
        f"{name} holds {kind} in row {row} ({int(bad.sum())} such rows in all). "
        "Drop or fill these rows; entries that are missing go to the model as a finite filler with a mask."
    )
