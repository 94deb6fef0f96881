"""Mixed precision for densities: matrix products and convolutions in 16 bits, everything else as it was.

Sums of log densities over hundreds of entries lose nats in 16 bits. So only the arithmetic that a GPU has
special units for is done there, and its results come back in the precision of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

Precision: TypeAlias = Literal["32-true", "bf16-mixed", "16-mixed"]

_PRODUCTS: set[Callable[..., object]] = {
    F.linear,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    torch.mm,
    Tensor.mm,
    torch.bmm,
    torch.einsum,
    Tensor.bmm,
    torch.addmm,
    torch.baddbmm,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
}


class ProductsIn(TorchFunctionMode):
    """Does matrix products and convolutions of float32 tensors in another dtype; results are float32 again."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if any(t.dtype != torch.float32 for t in tensors):
            return func(*args, **kwargs)
        result = func(*map(self._lower, args), **{name: self._lower(a) for name, a in kwargs.items()})
        return result.float()

    def _lower(self, argument: object) -> object:
        return argument.to(self.dtype) if isinstance(argument, Tensor) else argument


_CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "32-true": nullcontext,
    "bf16-mixed": lambda: ProductsIn(torch.bfloat16),
    "16-mixed": lambda: ProductsIn(torch.float16),
}


def arithmetic(
    precision: Precision, parameters: Iterable[Tensor]
) -> Callable[[], AbstractContextManager[object]]:
    """The context in which losses of these parameters are computed at this precision.

    Raises:
        ValueError: a precision of another name, or one that does nothing for parameters of another dtype than float32.

    """
    if precision not in _CONTEXTS:
        raise ValueError(f"precision is {precision!r}: expected one of {', '.join(_CONTEXTS)}.")
    others = {p.dtype for p in parameters} - {torch.float32}
    if others and precision != "32-true":
        raise ValueError(
            f"precision is {precision!r}, which is for parameters of torch.float32, and this VAE has some of "
            f"{', '.join(map(str, others))}: convert it, vae.float(), or leave precision out."
        )
    return _CONTEXTS[precision]
