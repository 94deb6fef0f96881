"""A training step's loss and gradients: by plain Pyro, by its traced operations, or by these compiled.

All three give the same numbers from the same random state, to rounding. A trace is used only after its first
call was compared with plain Pyro's, and is made anew where the program's Python state has changed since.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrovae import rows
from pyrovae.batch_loss import BatchLoss
from pyrovae.compilation import Compile, Run, compiled, cuda_graphed, pays_off
from pyrovae.layout import Arguments
from pyrovae.program_state import ProgramState
from pyrovae.tracing import NotTraceableError, trace
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
    """A graph that stands for the step on batches of one shape."""

    run: Run
    used: list[bool]  # which parameters the loss depends on


class Steps:
    """Computes loss statistics and gradients of one batch after another.

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
        self.parameters: list[Tensor] = [p for p in vae.parameters() if p.requires_grad]
        self.held = [*vae.parameters(), *vae.buffers()]
        self.loss_scale = torch.ones((), device=self.device)
        self.plain_because: str | None = "compile=False" if compile is False else loss.untraceable
        self.notes: list[str] = []
        # None until the first full batch decides.
        self.is_compiled: bool | None = True if compile is True else None
        self._traces: dict[Any, _Traced] = {}
        self._shapes: list[str] = []  # that were traced, also before this training was resumed
        self._state: ProgramState | None = None
        self._values: tuple[Any, ...] = ()
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
        return "traced and compiled" if self.is_compiled else "traced"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs to compute its steps as this one would have."""
        return {
            "compiled": self.is_compiled,
            "plain_because": self.plain_because,
            "shapes": list(self._shapes),
            "retraces": self._retraces,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on like the steps that gave this state, as far as `compile` leaves a choice."""
        if self.compile != "auto":
            return
        self.is_compiled, self.plain_because = state["compiled"], state["plain_because"]
        self._shapes, self._retraces = list(state["shapes"]), state["retraces"]

    def __call__(self, arguments: Arguments) -> tuple[Tensor, Gradients]:
        """The `STATISTICS` [4], sums over the batch's rows, and the gradients, scaled by `loss_scale`."""
        if self.plain_because is None:
            try:
                return self._run_traced(arguments)
            except NotTraceableError as error:
                self._use_plain(str(error))
        return self._run_plain(arguments)

    def _run_plain(self, arguments: Arguments) -> tuple[Tensor, Gradients]:
        with self.vae.scope(), self.arithmetic():
            return self._step(arguments)

    def _step(self, arguments: Arguments) -> tuple[Tensor, Gradients]:
        factor = self.loss_scale / self.divisor
        return self.loss.statistics_and_gradients(arguments, self.parameters, factor)

    def _run_traced(self, arguments: Arguments) -> tuple[Tensor, Gradients]:
        if self._state is None:
            self._state = self._steady_state(arguments)
            self._values = self._state.values()
        values = self._state.values()
        if values != self._values:
            self._retrace(self._state.changes(self._values, values))
            self._values = values
        shapes = tuple(
            (a.shape, a.dtype) if isinstance(a, Tensor) else (type(a), _by_value(a)) for a in arguments
        )
        traced = self._traces.get(shapes)
        if traced is None:
            if (
                self.compile == "auto"
                and rows.num_rows(arguments) != self.rows
                and self.ragged_steps < MIN_STEPS
            ):
                return self._run_plain(arguments)
            if repr(shapes) not in self._shapes:
                self._shapes.append(repr(shapes))
            if len(self._shapes) > MAX_SHAPES:
                raise NotTraceableError(f"batches come in more than {MAX_SHAPES} shapes")
            traced = self._traces[shapes] = self._trace(arguments)
        with torch.no_grad():
            statistics, *gradients = traced.run(*self._inputs(arguments))
        given = iter(gradients)
        return statistics, [next(given) if used else None for used in traced.used]

    def _inputs(self, arguments: Arguments) -> list[Tensor]:
        # Those that stay where they are in memory first.
        data = [a for a in arguments if isinstance(a, Tensor)]
        return [*self.held, *self.loss.coefficients, self.loss_scale, *data]

    def _trace(self, arguments: Arguments) -> _Traced:
        used: list[bool] = []
        data_from = len(self._inputs(arguments)) - sum(isinstance(a, Tensor) for a in arguments)

        def step(*inputs: Tensor) -> list[Tensor]:
            given = iter(inputs[data_from:])
            batch = tuple(next(given) if isinstance(a, Tensor) else a for a in arguments)
            statistics, gradients = self._step(batch)
            used[:] = [g is not None for g in gradients]
            return [statistics, *(g for g in gradients if g is not None)]

        with self.vae.scope(), self.arithmetic():
            graph = trace(step, self._inputs(arguments))
        traced = _Traced(graph.forward, used)
        self._check(traced, arguments)
        if rows.num_rows(arguments) == self.rows:
            self._speed_up(traced, graph, arguments, data_from)
        return traced

    def _speed_up(self, traced: _Traced, graph: GraphModule, arguments: Arguments, data_from: int) -> None:
        """Compile where that pays, and on a GPU record one CUDA graph; keep what gives the program's numbers."""
        inputs = self._inputs(arguments)
        if self.is_compiled is None:
            self.is_compiled = pays_off(graph, self.steps, inputs)
        if self.is_compiled and not self._try(traced, arguments, lambda: compiled(graph, inputs)):
            self.is_compiled = False
        if self.device.type == "cuda":
            run = traced.run
            self._try(traced, arguments, lambda: cuda_graphed(run, inputs, data_from))

    def _try(self, traced: _Traced, arguments: Arguments, make: Callable[[], Run]) -> bool:
        try:
            with self._undone(arguments):
                run = make()
            self._check(_Traced(run, traced.used), arguments)
        except Exception as error:  # whatever a compiler raises, the traced operations run without it
            reason = (str(error).strip().splitlines() or [""])[0]
            self.notes.append(f"{type(error).__name__}: {reason}")
            if self.compile is True:
                warnings.warn(f"steps are traced but not compiled: {self.notes[-1]}", stacklevel=2)
            return False
        traced.run = run
        return True

    def _steady_state(self, arguments: Arguments) -> ProgramState:
        """The program's Python state, if running it does not change it."""
        state = ProgramState(self.vae)
        before = state.values()
        with self._undone(arguments):
            self._run_plain(arguments)
        changed = state.changes(before, state.values())
        if changed:
            raise NotTraceableError(f"running the program changes {changed[0]}")
        return state

    def _retrace(self, changed: list[str]) -> None:
        self._traces.clear()
        self._shapes.clear()
        self._retraces += 1
        if self._retraces > MAX_RETRACES:
            raise NotTraceableError(
                f"{changed[0]} changes again and again: as a tensor that is changed in place it could be traced"
            )

    def _check(self, traced: _Traced, arguments: Arguments) -> None:
        """Compare one call with plain Pyro's from the same random state."""
        with self._undone(arguments):
            statistics, gradients = self._run_plain(arguments)
            expected = self._results(statistics, [g for g in gradients if g is not None])
        with self._undone(arguments), torch.no_grad():
            statistics, *given = traced.run(*self._inputs(arguments))
            found = self._results(statistics, given)
        if len(found) != len(expected) or not all(map(_close, found, expected)):
            raise NotTraceableError("its trace gives other numbers than the program")

    def _results(self, statistics: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
        """All that a step gives and leaves, as it is now."""
        return [t.detach().clone() for t in (statistics, *gradients, *self.vae.buffers())]

    @contextmanager
    def _undone(self, arguments: Arguments) -> Iterator[None]:
        """Run something and put torch's random state and whatever it changed in place back as they were."""
        with rows.same_random_state(self.device), _unchanged(self._inputs(arguments)):
            yield

    def _use_plain(self, reason: str) -> None:
        self.plain_because = reason
        self._traces.clear()
        if self.compile is True:
            warnings.warn(f"steps run as plain Pyro: {reason}.", stacklevel=2)


@contextmanager
def _unchanged(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put tensors that are changed in place inside, such as running statistics, back as they were."""
    before = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                if not torch.equal(
                    tensor, old
                ):  # batch normalization changes some past their version counters
                    tensor.copy_(old)


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if torch.equal(found, expected):
        return True
    finite = expected[torch.isfinite(expected)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * scale + 1e-8, equal_nan=True)


def _by_value(argument: Any) -> Any:
    try:
        hash(argument)
    except TypeError:
        return id(argument)
    return argument
