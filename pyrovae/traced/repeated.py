"""One computation on chunk after chunk of a shape: by its traced operations without Pyro, compiled where that pays.

Pyro's handlers and checks cost as much as the arithmetic of a small chunk, and a log density over many
observed numbers takes several passes over memory, of which a compiler makes one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyrovae.traced.compilation import Compile, Run, compiled, faster, pays_off
from pyrovae.traced.program_state import PLAIN, ProgramState
from pyrovae.traced.tracing import NotTraceableError, Reference, verified_trace
from pyrovae.vae import VAE

_LOG = logging.getLogger(__name__)
# A trace takes about as long as so many calls save.
CALLS_TO_TRACE = 200
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
        compile: True traces and compiles, and warns where that cannot be; "auto" does each where it saves time over
            the calls, and tells the log "pyrovae.traced.repeated" (at level INFO) why something could not be;
            False does neither.

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
                self._tell(f"run as plain Pyro: {error}")
        if self._run is None or kind != self._kind:
            return self.function(*inputs)
        return self._run(*self.held, *tensors)

    def _prepared(self, inputs: Any, tensors: list[Tensor]) -> Run:
        if self.vae.layout.enumerated:
            raise NotTraceableError("latents are summed out")
        leaves, structure = tree_flatten(inputs)

        def function(*given: Tensor) -> list[Tensor]:
            moving = iter(given[len(self.held) :])
            some = [next(moving) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return list(self.function(*tree_unflatten(some, structure)))

        state = ProgramState(self.vae)
        reference = Reference(function, [*self.held, *tensors], TOLERANCE)
        graph = verified_trace(reference, state)
        run: Run = graph.forward
        if self.compile is True or (self.vae.device.type == "cpu" and pays_off(graph, self.calls)):
            run, why_not = faster(run, lambda: compiled(graph, reference.inputs), reference)
            if why_not is not None:
                self._tell(f"are traced but not compiled: {why_not}")
        return run

    def _tell(self, what: str) -> None:
        if self.compile is True:
            warnings.warn(f"chunks {what}.", stacklevel=2)
        else:
            _LOG.info("chunks %s", what)


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (leaf.shape, leaf.stride(), leaf.dtype)
    return type(leaf), leaf if isinstance(leaf, PLAIN) else None
