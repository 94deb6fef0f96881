"""A function of tensors, run once and kept as a graph of the tensor operations that it did.

A Pyro program of fixed structure does the same operations each time, so that one run under
`torch.fx.experimental.proxy_tensor.make_fx` tells them all, backward passes included, and what is left is
free of Pyro. A function that looks at values (`if x.mean() > 0`, `int(lengths.max())`) does not: it is refused,
with the line that looks. The graph is simplified by `pyrovae.traced.graph_passes`.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType

import pyro
import pyro.util
import torch
from pyro.infer.util import Dice, torch_item
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pyrovae.random_state import same_random_state
from pyrovae.traced.account import Work, counted
from pyrovae.traced.constants import read_as_constant
from pyrovae.traced.graph_passes import simplify
from pyrovae.traced.program_state import ProgramState

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

    def guarded(*tensors: Tensor) -> Sequence[Tensor]:
        with _NoValues():
            return function(*tensors)

    try:
        # Checks of values would be looked at, and they are made on the first step outside the graph.
        with pyro.validation_enabled(False), undone(inputs), _one_fake_mode():
            graph = make_fx(guarded)(*inputs)
        for node in graph.graph.nodes:
            if _has_shape_of_values(graph, node):
                raise NotTraceableError(f"the shape that {node.target} gives depends on values")
        return simplify(graph, inputs)
    except NotTraceableError:
        raise
    except Exception as error:  # whatever a program, or torch's tracer, raises
        raise NotTraceableError(_reason(error)) from error


def _has_shape_of_values(graph: GraphModule, node: Node) -> bool:
    """Whether the shape of what an operation gives depends on the values that it is given."""
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    if node.target is not torch.ops.aten.index.Tensor:
        return True
    # By places, as many as there are; by a mask, as many as are true in it.
    indices = node.args[1]
    assert isinstance(indices, Sequence)
    return any(isinstance(index, Node) and _dtype(graph, index) in _MASKS for index in indices)


def _dtype(graph: GraphModule, node: Node) -> torch.dtype | None:
    """Of what a node gives; None where that is not known."""
    held = getattr(graph, str(node.target), None) if node.op == "get_attr" else node.meta.get("tensor_meta")
    dtype = getattr(held, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else None


# As an index; what is not known may be one.
_MASKS = (torch.bool, torch.uint8, None)


class Reference:
    """One call of a function: what it gives from the random state at hand, and how it leaves its inputs.

    Whatever is to stand for the function must give and leave the same. `work` is what the call does.

    Args:
        function: runs a pair's programs.
        inputs: as for `trace`; a change in place is undone after each call.
        tolerance: how far rounding may take a result from the function's, relative to its largest entry; and a tenth
            of it relative to that of a usual result, for one may be 0 but for rounding, such as the gradient of a bias
            before a batch normalization.

    Raises:
        NotTraceableError: its operations cannot be counted.

    """

    def __init__(self, function: GraphFunction, inputs: Sequence[Tensor], tolerance: float) -> None:
        self.function, self.inputs, self.tolerance = function, inputs, tolerance
        self.work = Work(0, 0, 0)
        self._expected = self._results_of(self._counted)
        self._usual = statistics.median(map(_largest, self._expected[: -len(inputs)]))

    def verified(self, run: GraphFunction) -> GraphFunction:
        """The run, if it gives and leaves what the function does.

        Raises:
            NotTraceableError: it does not.

        """
        with torch.no_grad():
            found = self._results_of(run)
        if len(found) != len(self._expected) or not all(map(self._close, found, self._expected)):
            raise NotTraceableError("its trace gives other numbers than the program")
        return run

    def _counted(self, *inputs: Tensor) -> Sequence[Tensor]:
        try:
            self.work, results = counted(lambda: self.function(*inputs))
        except Exception as error:  # of the program, or of the counting
            self.function(*inputs)  # raises what is the program's own
            raise NotTraceableError(f"its operations cannot be counted: {_reason(error)}") from error
        return results

    def _results_of(self, function: GraphFunction) -> list[Tensor]:
        with undone(self.inputs):
            return [t.detach().clone() for t in (*function(*self.inputs), *self.inputs)]

    def _close(self, found: Tensor, expected: Tensor) -> bool:
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return False
        if torch.equal(found, expected):
            return True
        scale = max(_largest(expected), 0.1 * self._usual)
        return torch.allclose(
            found, expected, rtol=self.tolerance, atol=self.tolerance * scale + 1e-8, equal_nan=True
        )


def _largest(tensor: Tensor) -> float:
    """The largest entry that is finite, without its sign."""
    finite = tensor[tensor.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def verified_trace(reference: Reference, state: ProgramState) -> GraphModule:
    """The operations of the reference's function, which give its numbers.

    Args:
        reference: made after `state`.
        state: of the programs that the function runs.

    Raises:
        NotTraceableError: the function looks at values, or running it has changed the program's state.

    """
    if changed := state.changes():
        raise NotTraceableError(f"running the program changes {changed[0]}")
    graph = trace(reference.function, reference.inputs)
    reference.verified(graph.forward)
    return graph


@contextmanager
def undone(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put torch's random state and tensors that are changed in place inside, such as running statistics, back."""
    before = [tensor.detach().clone() for tensor in tensors]
    with same_random_state(tensors[0].device):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, old in zip(tensors, before, strict=True):
                    # Batch normalization changes some past their version counters.
                    if not torch.equal(tensor, old):
                        tensor.copy_(old)


def _one_fake_mode() -> AbstractContextManager[object]:
    """Torch notes what each operation gives by a fake tensor, and else makes a mode anew for each: half of the time."""
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


class _NoValues(TorchFunctionMode):
    """Refuses to look at values, except where Pyro's objectives do so to report a loss, or to leave terms out of it."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in _WITHOUT_LOOKING:
            return _WITHOUT_LOOKING[func](*args, **(kwargs or {}))
        if func not in _LOOKS:
            return func(*args, **(kwargs or {}))
        caller = _caller()
        if caller.f_code in _OF_PYRO and func in _FOR_PYRO:
            return _FOR_PYRO[func](*args)
        if func is _PICKS:
            return func(*args, **(kwargs or {}))  # refused by the shape that it gives
        if func is not torch.Tensor.register_hook:
            with suppress(LookupError):
                return read_as_constant(lambda: func(*args, **(kwargs or {})), args[0])
        place = f"{'/'.join(Path(caller.f_code.co_filename).parts[-2:])}, line {caller.f_lineno},"
        raise NotTraceableError(f"{place} looks at values of a tensor ({func.__name__.strip('_')})")


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """As torch's, which looks at values to check them; here writing outside of the classes fails."""
    if num_classes < 1:
        return torch.nn.functional.one_hot(tensor, num_classes)
    zeros = tensor.new_zeros((*tensor.shape, num_classes))
    return zeros.scatter(-1, tensor.unsqueeze(-1), 1)


def _getitem(tensor: Tensor, index: object) -> object:
    """As torch's, which takes a tensor of one place for a number."""
    if isinstance(index, Tensor) and index.dtype == torch.long and index.dim() == 0:
        return torch.ops.aten.index.Tensor(tensor, [index])
    return _TAKE(tensor, index)


_TAKE: Callable[..., object] = torch.Tensor.__getitem__
_WITHOUT_LOOKING: dict[Callable[..., object], Callable[..., object]] = {
    torch.nn.functional.one_hot: _one_hot,
    _TAKE: _getitem,
}
_PICKS: Callable[..., object] = torch.Tensor.masked_select
_LOOKED = "trying to get value out of a tracing tensor"
_LOOKS = {
    # These read memory or act later: a trace would not notice.
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.register_hook,
    _PICKS,
    torch.Tensor.item,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
}
# Where Pyro's objectives put a value into the loss that they report, look for NaN in it, and pick those terms of an
# expectation whose probability is not zero.
_OF_PYRO = {
    torch_item.__code__,
    pyro.util.torch_isnan.__code__,
    pyro.util.warn_if_nan.__code__,
    Dice.compute_expectation.__code__,
}
_FOR_PYRO: dict[Callable[..., object], Callable[..., object]] = {
    torch.Tensor.item: torch.Tensor.detach,
    torch.Tensor.__bool__: lambda tensor: False,  # not NaN; not all probabilities above zero
    _PICKS: lambda tensor, mask: torch.where(mask, tensor, 0.0),  # the sum over them is the same
    torch.Tensor.register_hook: lambda tensor, hook: None,
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
