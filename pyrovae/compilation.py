"""Running a traced graph faster than operation by operation: compiled, and on a GPU as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

Run: TypeAlias = Callable[..., Sequence[Tensor]]
Compile: TypeAlias = Literal["auto", True, False]

# A rough account of what compilation costs and saves, for a choice that is the same each time and needs no clock:
# seconds to compile, per operation of the graph too; seconds saved a step, per operation and per multiplication.
SECONDS_TO_COMPILE, SECONDS_PER_OPERATION = 15.0, 0.1
SAVED_PER_OPERATION, SAVED_PER_FLOP = 4e-6, 1e-12


def pays_off(graph: GraphModule, steps: int, inputs: Sequence[Tensor]) -> bool:
    """Whether compiling a graph saves more time over so many steps than it takes."""
    operations = sum(node.op == "call_function" for node in graph.graph.nodes)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), mode, FlopCounterMode(display=False) as counter:
        graph(*(mode.from_tensor(tensor.detach()) for tensor in inputs))
    saved = steps * (SAVED_PER_OPERATION * operations + SAVED_PER_FLOP * counter.get_total_flops())
    return saved > SECONDS_TO_COMPILE + SECONDS_PER_OPERATION * operations


@torch.no_grad()
def compiled(graph: GraphModule, inputs: Sequence[Tensor]) -> Run:
    """The graph through TorchInductor, with torch's own random numbers, so that draws stay the same.

    Raises:
        Exception: whatever the compiler raises, above all where there is none on the machine.

    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, of deprecated things that it imports
        import torch._inductor  # takes seconds

        options: dict[str, Any] = {"fallback_random": True, "size_asserts": False}
        if all(tensor.device.type == "cpu" for tensor in inputs):
            # Images are not moved to channels last: there that costs more than convolutions gain by it.
            options["layout_optimization"] = False
        run: Run = torch._inductor.compile(graph, [tensor.detach() for tensor in inputs], options=options)
        run(*inputs)  # what compiles late, compiles here
    return run


@torch.no_grad()
def cuda_graphed(run: Run, inputs: Sequence[Tensor], first_moving: int) -> Run:
    """All kernels of one call as one CUDA graph.

    Inputs before `first_moving` stay where they are in memory (parameters, buffers, coefficients); the others
    are copied into place at each call. Results are overwritten by the next call.
    """
    held = [*inputs[:first_moving], *(tensor.clone() for tensor in inputs[first_moving:])]
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(3):
            run(*held)
    torch.cuda.current_stream().wait_stream(warm_up)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        results = run(*held)

    def replay(*given: Tensor) -> Sequence[Tensor]:
        for place in range(first_moving, len(held)):
            held[place].copy_(given[place], non_blocking=True)
        recorded.replay()
        return results

    return replay
