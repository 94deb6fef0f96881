"""A training step's loss and gradients: by plain Pyro, by its traced operations, or by these compiled.

All three give the same numbers from the same random state, to rounding. A trace is used only after its first
call was compared with plain Pyro's, and is made anew where the program's Python state has changed since.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrovae.data import Batch
from pyrovae.traced.compilation import Compile, Run, compiled, cuda_graphed, faster, pays_off
from pyrovae.traced.program_state import PLAIN, ProgramState
from pyrovae.traced.tracing import NotTraceableError, Reference, verified_trace
from pyrovae.training.batch_loss import NO_INFLUENCE, BatchLoss
from pyrovae.vae import VAE

Gradients: TypeAlias = list[Tensor | None]

# A trace takes as long as some hundred plain steps and saves less than half of each.
MIN_STEPS = 200
MAX_SHAPES = 8
MAX_RETRACES = 20
# Of the largest entry: how far rounding may take a traced loss or gradient from Pyro's.
TOLERANCE = 1e-4


@dataclass
class _Traced:
    """What stands for the step on batches of one shape."""

    run: Run
    used: list[bool]  # which parameters have gradients


class Steps:
    """Computes loss statistics and gradients of one batch after another.

    Steps are traced anew where the program's Python state has changed, or which parameters train, and compiled
    only before the first such change: another may come, and compiling takes longer than many steps.

    Args:
        vae: the pair.
        loss: of a batch.
        divisor: gradients are those of the summed loss over this many rows.
        compile: True traces and compiles, "auto" traces and compiles where that pays, False runs plain Pyro.
        steps: how many steps are to come.
        ragged_steps: how many of them on batches of other sizes than `rows`.
        rows: in a full batch.
        arithmetic: a context in which all three run, such as reduced precision of matrix products.

    """

    def __init__(
        self,
        vae: VAE,
        loss: BatchLoss,
        divisor: float,
        *,
        compile: Compile,
        steps: int,
        ragged_steps: int,
        rows: int,
        arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.vae, self.loss, self.divisor = vae, loss, divisor
        self.device = vae.device
        self.arithmetic = arithmetic
        self.compile, self.steps, self.ragged_steps, self.rows = compile, steps, ragged_steps, rows
        # Also what is frozen now: a callback may free it, or freeze others.
        self.parameters: list[Tensor] = [p for p in vae.parameters() if can_train(p)]
        self.loss_scale = torch.ones((), device=self.device)
        self.plain_because: str | None = "compile=False" if compile is False else loss.untraceable
        if vae.layout.enumerated and not self.plain_because:
            self.plain_because = f"the latents {sorted(vae.layout.enumerated)} are summed out"
        # None until the first full batch decides.
        self.is_compiled: bool | None = True if compile is True else None
        self.in_cuda_graph = False
        self._not_compiled_because: str | None = None
        self._no_cuda_graph_because: str | None = None
        self._traces: dict[Any, _Traced] = {}
        self._shapes: list[str] = []  # that were traced, also before this training was resumed
        self._held: list[Tensor] = []
        self._state: ProgramState | None = None
        self._retraces = 0
        if compile == "auto" and steps < MIN_STEPS and not self.plain_because:
            self.plain_because = f"a trace does not pay for {steps} steps"
        if compile is True and self.plain_because:
            self._use_plain(self.plain_because)

    @property
    def engine(self) -> str:
        """How steps are computed, in words."""
        if self.plain_because is not None:
            return f"plain Pyro ({self.plain_because})"
        words = "traced and compiled" if self.is_compiled else "traced"
        words += ", in a CUDA graph" if self.in_cuda_graph else ""
        reasons = {"not compiled": self._not_compiled_because, "no CUDA graph": self._no_cuda_graph_because}
        notes = "; ".join(f"{what}: {why}" for what, why in reasons.items() if why is not None)
        return f"{words} ({notes})" if notes else words

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs to compute its steps as this one would have."""
        return {
            "compiled": self.is_compiled,
            "plain_because": self.plain_because,
            "not_compiled_because": self._not_compiled_because,
            "shapes": list(self._shapes),
            "retraces": self._retraces,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on like the steps that gave this state, as far as `compile` leaves a choice."""
        if self.compile == "auto":
            self.is_compiled, self.plain_because = state["compiled"], state["plain_because"]
            self._not_compiled_because = state["not_compiled_because"]
            self._shapes, self._retraces = list(state["shapes"]), state["retraces"]
        elif self.compile is True and state["retraces"]:
            self._retraces = state["retraces"]
            self._do_not_compile(state["not_compiled_because"])

    def __call__(self, batch: Batch) -> tuple[Tensor, Gradients]:
        """The `STATISTICS` [4], sums over the batch's rows, and the gradients, scaled by `loss_scale`."""
        if self.plain_because is None:
            try:
                return self._run_traced(batch)
            except NotTraceableError as error:
                self._use_plain(str(error))
        return self._run_plain(batch)

    def _run_plain(self, batch: Batch) -> tuple[Tensor, Gradients]:
        with self.vae.scope(), self.arithmetic():
            return self._step(batch)

    def _step(self, batch: Batch) -> tuple[Tensor, Gradients]:
        factor = self.loss_scale / self.divisor
        trained = [p for p in self.parameters if p.requires_grad]
        if not trained:
            raise ValueError(NO_INFLUENCE)
        statistics, gradients = self.loss.statistics_and_gradients(batch, trained, factor)
        given = iter(_apart(gradients))
        return statistics, [next(given) if p.requires_grad else None for p in self.parameters]

    def _run_traced(self, batch: Batch) -> tuple[Tensor, Gradients]:
        if self._state is not None and (changed := self._state.changes()):
            self._forget_traces(changed[0])
        shapes = tuple(map(_kind, batch.arguments))
        traced = self._traces.get(shapes)
        if traced is None:
            if not self._is_worth_a_trace(batch):
                return self._run_plain(batch)
            if repr(shapes) not in self._shapes:
                self._shapes.append(repr(shapes))
            if len(self._shapes) > MAX_SHAPES:
                raise NotTraceableError(f"batches come in more than {MAX_SHAPES} shapes")
            traced = self._traces[shapes] = self._trace(batch)
        with torch.no_grad():
            statistics, *gradients = traced.run(*self._inputs(batch))
        given = iter(gradients)
        return statistics, [next(given) if used else None for used in traced.used]

    # What is traced, and what of it is compiled

    def _is_worth_a_trace(self, batch: Batch) -> bool:
        is_full = len(batch) == self.rows
        return self.compile is True or is_full or self.ragged_steps >= MIN_STEPS

    def _forget_traces(self, changed: str) -> None:
        self._traces.clear()
        self._shapes.clear()
        self._state = None
        self._retraces += 1
        if self._retraces > MAX_RETRACES:
            raise NotTraceableError(
                f"{changed} changes again and again: a number could be traced as a buffer that is changed in place"
            )
        if self.is_compiled is not False:
            self._do_not_compile(f"{changed} has changed, and may do so again")

    def _trace(self, batch: Batch) -> _Traced:
        if self._state is None:
            self._state = ProgramState(self.vae)
            self._held = [*self.vae.parameters(), *self.vae.buffers()]
        inputs, used = self._inputs(batch), list[bool]()
        data_from = len(inputs) - len(batch.tensors)

        def step(*inputs: Tensor) -> list[Tensor]:
            given = iter(inputs[data_from:])
            some = Batch(tuple(next(given) if isinstance(a, Tensor) else a for a in batch.arguments))
            statistics, gradients = self._step(some)
            used[:] = [g is not None for g in gradients]
            return [statistics, *(g for g in gradients if g is not None)]

        with self.vae.scope(), self.arithmetic():
            reference = Reference(step, inputs, TOLERANCE)
            graph = verified_trace(reference, self._state)
        is_full = len(batch) == self.rows
        return _Traced(self._sped_up(graph, reference, data_from) if is_full else graph.forward, used)

    def _sped_up(self, graph: GraphModule, reference: Reference, data_from: int) -> Run:
        """Compiled where that pays, and on a GPU as one CUDA graph."""
        run: Run = graph.forward
        if self.is_compiled is None:
            self.is_compiled = pays_off(graph, self.steps)
        if self.is_compiled:
            run, why_not = faster(run, lambda: compiled(graph, reference.inputs), reference)
            if why_not is not None:
                self._do_not_compile(why_not)
        if self.device.type == "cuda":
            whole, why_not = faster(run, lambda: cuda_graphed(run, reference.inputs, data_from), reference)
            self.in_cuda_graph, self._no_cuda_graph_because = why_not is None, why_not
            return whole
        return run

    def _inputs(self, batch: Batch) -> list[Tensor]:
        # Those that stay where they are in memory first.
        return [*self._held, *self.loss.coefficients, self.loss_scale, *batch.tensors]

    def _do_not_compile(self, reason: str) -> None:
        self.is_compiled = False
        self._not_compiled_because = reason
        if self.compile is True:
            warnings.warn(f"steps are traced but not compiled: {reason}", stacklevel=2)

    def _use_plain(self, reason: str) -> None:
        self.plain_because = reason
        self._traces.clear()
        if self.compile is True:
            warnings.warn(f"steps run as plain Pyro: {reason}.", stacklevel=2)


def can_train(parameter: Tensor) -> bool:
    """Whether it may have a gradient, now or once it is no longer frozen."""
    return parameter.is_floating_point() or parameter.is_complex()


def _apart(gradients: Gradients) -> Gradients:
    """Gradients in memory of their own: those of a sum's terms are one tensor, which would be clipped twice."""
    seen: set[int] = set()
    apart: Gradients = []
    for gradient in gradients:
        if gradient is not None and gradient.layout == torch.strided:
            memory = gradient.untyped_storage()._cdata
            if memory in seen or torch._debug_has_internal_overlap(gradient) != 0:
                gradient = gradient.clone()
            seen.add(memory)
        apart.append(gradient)
    return apart


def _kind(argument: Any) -> Any:
    """What of an argument a trace depends on."""
    if isinstance(argument, Tensor):
        return argument.shape, argument.stride(), argument.dtype
    if isinstance(argument, PLAIN):
        return type(argument), argument
    raise NotTraceableError(f"an argument is of type {type(argument).__name__}, not a tensor, number or text")
