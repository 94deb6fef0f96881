"""Networks that are built from what a file says of rows: none may be larger than the file's own tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.schema import MalformedError


class NothingLarger(TorchDispatchMode):
    """Lets nothing be made inside, out of no other tensor, that takes more than so many bytes.

    Parameters are made so. They are looked at on torch's device for shapes before they take memory.
    """

    def __init__(self, num_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._num_bytes = num_bytes

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """See torch."""
        named = kwargs or {}
        if "device" in named and not any(isinstance(a, Tensor) for a in args):
            made = function(*args, **{**named, "device": torch.device("meta"), "pin_memory": False})
            size = made.numel() * made.dtype.itemsize if isinstance(made, Tensor) else 0
            if size > self._num_bytes:
                raise MalformedError(
                    "pair.rows",
                    f"would make a network of {size} bytes, and the file's tensors have fewer: it is of another one",
                )
        return function(*args, **named)
