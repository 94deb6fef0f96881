"""What tracing and compiling cost and save, told from counts and from what was compiled before, and by no clock.

Seconds are those of two cores, in one thread. They are chosen so as to promise no more than was measured: on a faster
machine both sides of a comparison shrink alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.traced.compiled_before import Before

# Seconds to trace (beside a second in which torch imports its compiler, which its optimizers make it do too), and for
# each operation; seconds saved a call, by Pyro's work around any program, by each of torch's functions that
# Python calls no more, around which more of it lies, by each operation, and by each number.
# Measured, functions, operations, millions of numbers: seconds to trace, seconds saved a call:
#   perceptrons 324, 294, 0.1: 0.2 s, 1.7 ms; larger ones 303, 283, 2: 0.3 s, 3.3 ms; columns 687, 664, 0.2: 0.6 s,
#   4.4 ms; GRUs 457, 3217, 5: 2.9 s, 2.3 ms; 457, 21937, 36: 19 s, 7.8 ms; a GRU's steps called one by one 792, 3924,
#   4: 3.2 s, 3.9 ms; chains of latents 2354, 3782, 0.8: 2.4 s, 10 ms; 8954, 15032, 3: 9 s, 37 ms.
SECONDS_TO_TRACE, SECONDS_PER_TRACED = 0.3, 9e-4
SAVED_PER_CALL, SAVED_PER_FUNCTION, SAVED_PER_TRACED, SAVED_PER_TRACED_NUMBER = 5e-4, 3.2e-6, 1e-7, 5e-11
# A GPU's kernels, launched as one CUDA graph.
SAVED_PER_LAUNCH = 5e-6

# The same of compiling what was traced:
#   compiling, after 12 s for a machine's first use of its compiler: 129 operations 2.6 to 5 s, 249 5.4 s, 3984 74 s;
#   117 operations that the compiler's cache holds: a fifth to a sixth of what they took at first;
#   saved per call: 117 operations that give 0.8 million numbers 0.57 ms, 1.5 million 0.83 ms, 7.4 million 3.1 ms;
#   3984 operations that give 31 million 15 ms.
# Seconds, and seconds for each operation, by what was compiled before.
SECONDS_TO_COMPILE: Mapping[Before, tuple[float, float]] = {
    Before.NOTHING: (15.0, 0.02),
    Before.OTHERS: (5.0, 0.02),
    Before.THIS: (1.5, 0.002),
}
SAVED_PER_OPERATION, SAVED_PER_NUMBER = 2.5e-6, 2.5e-10

Made = TypeVar("Made")
_ATEN = torch.ops.aten
_PRODUCTS = {
    _ATEN.addmm.default,
    _ATEN.mm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
    _ATEN.convolution.default,
    _ATEN.convolution_backward.default,
}


@dataclass(frozen=True)
class Work:
    """What one call of a function of tensors does.

    Args:
        functions: of torch's that Python calls, properties of tensors among them.
        operations: that these, and backward passes, come to.
        numbers: that operations give which are no products and no views.

    """

    functions: int
    operations: int
    numbers: int


def counted(function: Callable[[], Made]) -> tuple[Work, Made]:
    """What a call does, and what it gives; this one takes some times as long as others."""
    with _Functions() as functions, _Operations() as operations:  # type: ignore[no-untyped-call]
        made = function()
    return Work(functions.count, operations.count, operations.numbers), made


def tracing_pays_off(work: Work, calls: int, *, in_cuda_graph: bool = False) -> bool:
    """Whether tracing a function saves more time over so many calls than it takes."""
    saved = SAVED_PER_CALL + SAVED_PER_FUNCTION * work.functions
    saved += SAVED_PER_TRACED * work.operations + SAVED_PER_TRACED_NUMBER * work.numbers
    if in_cuda_graph:
        saved += SAVED_PER_LAUNCH * work.operations
    return calls * saved > SECONDS_TO_TRACE + SECONDS_PER_TRACED * work.operations


def pays_off(graph: GraphModule, calls: int, before: Before = Before.NOTHING) -> bool:
    """Whether compiling a graph saves more time over so many calls than it takes, by what was compiled before."""
    operations, numbers = 0, 0
    for node in graph.graph.nodes:
        if node.op == "call_function":
            operations += 1
            made = node.meta.get("tensor_meta")
            if node.target not in _PRODUCTS and hasattr(made, "shape"):
                numbers += made.shape.numel()
    saved = calls * (SAVED_PER_OPERATION * operations + SAVED_PER_NUMBER * numbers)
    seconds, seconds_per_operation = SECONDS_TO_COMPILE[before]
    return saved > seconds + seconds_per_operation * operations


class _Functions(TorchFunctionMode):
    """Counts torch's functions that Python calls."""

    count = 0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self.count += 1
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Counts operations, and the numbers that they give."""

    count, numbers = 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes longer than what may come of the count

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        made = func(*args, **(kwargs or {}))
        self.count += 1
        is_view = any(given.alias_info is not None for given in func._schema.returns)
        if isinstance(made, Tensor) and func not in _PRODUCTS and not is_view:
            self.numbers += made.numel()
        return made
