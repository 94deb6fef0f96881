"""One computation on chunk after chunk of a shape: by its traced operations without Pyro, compiled where that pays.

Pyro's handlers and checks cost as much as the arithmetic of a small chunk, and a log density over many
observed numbers takes several passes over memory, of which a compiler makes one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyrovae import rows
from pyrovae.compilation import Compile, Run, compiled
from pyrovae.program_state import ProgramState
from pyrovae.tracing import NotTraceableError, trace
from pyrovae.vae import VAE

# A trace takes about as long as so many calls save.
CALLS_TO_TRACE = 200
# What compilation costs and saves, roughly, on a CPU: seconds, per operation too; seconds a call for each operation
# and for each number that one other than a matrix product writes to memory.
SECONDS_TO_COMPILE, SECONDS_PER_OPERATION = 5.0, 0.1
SAVED_PER_OPERATION, SAVED_PER_NUMBER = 4e-6, 4e-10
# Of the largest entry: how far rounding may take results from Pyro's.
TOLERANCE = 1e-5


class Repeated:
    """A function of tensors that runs a pair's programs, made faster over many calls.

    A trace replaces the function where inputs have the shapes of the first call, after its results were
    compared with the function's own from the same random state; all else runs as before. Values are checked in
    that first call alone: later ones give NaN where the programs would have raised.

    Args:
        vae: the pair; its parameters and buffers stay as they are between calls.
        function: from tensors, numbers and containers of them to tensors. What is neither must be the same at
            each call.
        calls: how many are to come.
        compile: True traces and compiles, "auto" each where it saves time over the calls, False does neither.

    """

    def __init__(
        self, vae: VAE, function: Callable[..., Sequence[Tensor]], calls: int, compile: Compile
    ) -> None:
        self.vae, self.function, self.calls, self.compile = vae, function, calls, compile
        self.held: list[Tensor] = [*vae.parameters(), *vae.buffers()]
        self.is_open = compile is True or (compile == "auto" and calls >= CALLS_TO_TRACE)
        self._run: Run | None = None
        self._kind: Any = None

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Sequence[Tensor]:
        """The function's results."""
        leaves, structure = tree_flatten(inputs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        kind = (structure, [_kind(leaf) for leaf in leaves])
        if self.is_open:
            self.is_open = False
            self._kind = kind
            try:
                self._run = self._prepared(inputs, tensors)
            except NotTraceableError as error:
                self._warn(f"run as plain Pyro: {error}")
        if self._run is None or kind != self._kind:
            return self.function(*inputs)
        return self._run(*self.held, *tensors)

    def _prepared(self, inputs: Any, tensors: list[Tensor]) -> Run:
        if self.vae.layout.enumerated:
            raise NotTraceableError("latents are summed out")
        leaves, structure = tree_flatten(inputs)
        state = ProgramState(self.vae)
        before = state.values()
        with rows.same_random_state(self.vae.device):
            expected = self.function(*inputs)
        if changed := state.changes(before, state.values()):
            raise NotTraceableError(f"running the program changes {changed[0]}")

        def function(*given: Tensor) -> list[Tensor]:
            moving = iter(given[len(self.held) :])
            some = [next(moving) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return list(self.function(*tree_unflatten(some, structure)))

        given = [*self.held, *tensors]
        graph = trace(function, given)
        run: Run = graph.forward
        self._check(run, given, expected)
        if self.compile is True or (self.vae.device.type == "cpu" and pays_off(graph, self.calls)):
            try:
                with rows.same_random_state(self.vae.device):
                    faster = compiled(graph, given)
                self._check(faster, given, expected)
                run = faster
            except Exception as error:  # whatever a compiler raises, the traced operations run without it
                reason = (str(error).strip().splitlines() or [""])[0]
                self._warn(f"are traced but not compiled: {type(error).__name__}: {reason}")
        return run

    def _check(self, run: Run, given: list[Tensor], expected: Sequence[Tensor]) -> None:
        with rows.same_random_state(self.vae.device):
            found = run(*given)
        if len(found) != len(expected) or not all(map(_close, found, expected)):
            raise NotTraceableError("its trace gives other numbers than the program")

    def _warn(self, what: str) -> None:
        if self.compile is True:
            warnings.warn(f"chunks {what}.", stacklevel=2)


def pays_off(graph: GraphModule, calls: int) -> bool:
    """Whether compiling a graph saves more time over so many calls than it takes: the same answer each time."""
    operations, numbers = 0, 0
    for node in graph.graph.nodes:
        if node.op == "call_function":
            operations += 1
            made = node.meta.get("tensor_meta")
            if node.target not in _PRODUCTS and hasattr(made, "shape"):
                numbers += made.shape.numel()
    saved = calls * (SAVED_PER_OPERATION * operations + SAVED_PER_NUMBER * numbers)
    return saved > SECONDS_TO_COMPILE + SECONDS_PER_OPERATION * operations


_ATEN = torch.ops.aten
_PRODUCTS = {_ATEN.addmm.default, _ATEN.mm.default, _ATEN.bmm.default, _ATEN.convolution.default}


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (leaf.shape, leaf.stride(), leaf.dtype)
    return leaf if isinstance(leaf, int) else type(leaf)


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True)
