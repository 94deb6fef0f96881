"""Running a traced graph faster than operation by operation: compiled, and on a GPU as one CUDA graph."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrovae.traced.tracing import Reference, undone

Run: TypeAlias = Callable[..., Sequence[Tensor]]
Compile: TypeAlias = Literal["auto", True, False]

_PROCESS = os.getpid()


def faster(run: Run, make: Callable[[], Run], reference: Reference) -> tuple[Run, str | None]:
    """What `make` gives; or `run`, and why it is not replaced: `make` failed, or its numbers are others."""
    try:
        with undone(reference.inputs):
            made = make()
        return reference.verified(made), None
    except Exception as error:  # whatever a compiler raises, the traced operations run without it
        first_line = (str(error).strip().splitlines() or [""])[0]
        return run, f"{type(error).__name__}: {first_line}"


@torch.no_grad()
def compiled(graph: GraphModule, inputs: Sequence[Tensor]) -> Run:
    """The graph through TorchInductor, with torch's own random numbers, so that draws stay the same.

    Raises:
        Exception: whatever the compiler raises, above all where there is none on the machine.

    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, of deprecated things that it imports
        import torch._inductor  # takes seconds

        options: dict[str, bool | int] = {"fallback_random": True, "size_asserts": False}
        if os.getpid() != _PROCESS:
            # A fork has none of the threads that the compiler may have started, and would wait for them for ever.
            options["compile_threads"] = 1
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

    Raises:
        RuntimeError: a call waits for the GPU, which no graph can hold.

    """
    held = [*inputs[:first_moving], *(tensor.clone() for tensor in inputs[first_moving:])]
    device = inputs[0].device
    with torch.cuda.device(device):
        outside, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(outside)
        recorded = torch.cuda.CUDAGraph()
        # A capture that fails leaves its stream current, and torch's memory and random numbers captured: what would
        # make it fail shall fail before, and the stream is put back here.
        with torch.cuda.stream(aside):
            try:
                with _no_waiting():
                    for _ in range(3):
                        run(*held)
            finally:
                outside.wait_stream(aside)
            # On a stream of this device; torch would take one of the device that it first recorded on. Other threads,
            # such as a loader's that pins memory, may do what they like meanwhile.
            with torch.cuda.graph(recorded, stream=aside, capture_error_mode="thread_local"):
                results = run(*held)

    def replay(*given: Tensor) -> Sequence[Tensor]:
        for place in range(first_moving, len(held)):
            held[place].copy_(given[place], non_blocking=True)
        recorded.replay()
        return results

    return replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """An error where the CPU waits for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode does not see all
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
