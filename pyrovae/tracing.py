"""A function of tensors, run once and kept as a graph of the tensor operations that it did.

A Pyro program of fixed structure does the same operations each time, so that one run under
`torch.fx.experimental.proxy_tensor.make_fx` tells them all, backward passes included, and what is left is
free of Pyro. A function that looks at values (`if x.mean() > 0`, `int(lengths.max())`) does not: it is refused,
with the line that looks. The graph is simplified by `pyrovae.graph_passes`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pyro
import pyro.util
import torch
from pyro.infer.util import torch_item
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pyrovae.graph_passes import simplify
from pyrovae.rows import same_random_state

GraphFunction = Callable[..., Sequence[Tensor]]


class NotTraceableError(Exception):
    """A function whose operations depend on values, or that changes its own state; says which and where."""


def trace(function: GraphFunction, inputs: Sequence[Tensor]) -> GraphModule:
    """The operations of `function(*inputs)` as a graph of the same signature.

    `inputs` are all tensors that may change between calls: parameters and buffers (also such as the function
    reaches by itself), data, coefficients. Other tensors are taken as constants. Random numbers are drawn anew
    at each call, in the same order. Inputs that the function changes in place, such as the running statistics
    of a batch normalization, are put back after the trace, and so is torch's random state.

    Raises:
        NotTraceableError: the function looks at values.

    """
    before = [tensor.detach().clone() for tensor in inputs]
    device = inputs[0].device

    def guarded(*tensors: Tensor) -> Sequence[Tensor]:
        with _NoValues():
            return function(*tensors)

    try:
        # Checks of values would be looked at, and they are made on the first step outside the graph.
        with pyro.validation_enabled(False), same_random_state(device):
            graph = make_fx(guarded)(*inputs)
    except NotTraceableError:
        raise
    except Exception as error:
        raise NotTraceableError(_reason(error)) from error
    finally:
        with torch.no_grad():
            for tensor, old in zip(inputs, before, strict=True):
                if not torch.equal(tensor, old):
                    tensor.copy_(old)
    for node in graph.graph.nodes:
        if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()):
            raise NotTraceableError(f"the shape that {node.target} gives depends on values")
    return simplify(graph, inputs)


class _NoValues(TorchFunctionMode):
    """Refuses to look at values, except where Pyro's objectives do so to report a loss."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _LOOKS:
            return func(*args, **(kwargs or {}))
        caller = _caller()
        if caller.f_code in _REPORTS and func in _FOR_PYRO:
            return _FOR_PYRO[func](args[0])
        if func not in _LOOKS_UNSEEN:
            try:
                return func(*args, **(kwargs or {}))  # of a constant it may
            except RuntimeError as error:
                if _LOOKED not in str(error):
                    raise
        place = f"{'/'.join(Path(caller.f_code.co_filename).parts[-2:])}, line {caller.f_lineno},"
        raise NotTraceableError(f"{place} looks at values of a tensor ({func.__name__.strip('_')})")


_LOOKED = "trying to get value out of a tracing tensor"
# These read memory or act later: a trace would not notice.
_LOOKS_UNSEEN = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.register_hook}
_LOOKS = _LOOKS_UNSEEN | {
    torch.Tensor.item,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
}
# Where Pyro's objectives put a value into the loss that they report, and look for NaN in it.
_REPORTS = {torch_item.__code__, pyro.util.torch_isnan.__code__, pyro.util.warn_if_nan.__code__}
_FOR_PYRO: dict[Any, Callable[[Tensor], Any]] = {
    torch.Tensor.item: torch.Tensor.detach,
    torch.Tensor.__bool__: lambda tensor: False,
    torch.Tensor.register_hook: lambda tensor: None,
}


def _caller() -> FrameType:
    """The frame outside torch that called the function at hand."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "torch":
        frame = frame.f_back
    assert frame is not None
    return frame


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if _LOOKED in text:
        return "an operation of it looks at values of a tensor"
    return f"{type(error).__name__}: {text[:200]}"
