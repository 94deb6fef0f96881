"""A function that runs a pair's programs again and again, by their traced operations where that can be and pays.

Here alone is decided whether and when it is traced, when anew, what of it is compiled or becomes a CUDA graph, and
when it runs as plain Pyro after all. All give the same numbers from the same random state, to rounding: a trace
is used only after its first call was compared with the function's own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeAlias, TypedDict

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrovae.pair.parameters import PairParameters
from pyrovae.traced.account import Work, pays_off, tracing_pays_off
from pyrovae.traced.compilation import Run, compiled, cuda_graphed, faster
from pyrovae.traced.compiled_before import compiled_before, remember
from pyrovae.traced.outcome import Outcome
from pyrovae.traced.policy import Policy
from pyrovae.traced.program_state import PLAIN, ProgramState
from pyrovae.traced.tracing import NotTraceableError, Reference, verified_trace

Arguments: TypeAlias = Sequence[object]
Results: TypeAlias = list[Tensor | None]

MAX_SHAPES = 8
MAX_RETRACES = 20
_LOG = logging.getLogger(__package__)


class State(TypedDict):
    """What of a `Traced` a later one goes on from."""

    compiled: bool | None
    plain_because: str | None
    not_compiled_because: str | None
    shapes: list[str]
    retraces: int


@dataclass
class _Trace:
    """What stands for the function on arguments of one shape."""

    run: Run
    is_given: list[bool]  # which results are tensors, and not None


class Traced:
    """A function of tensors and plain values that runs a pair's programs, made faster over many calls.

    Values are checked in calls of the function itself alone: traces give NaN where the programs would have raised.

    Args:
        pair: whose programs; its parameters and buffers may change in place between calls.
        function: from the list of arguments to tensors, or None in the place of some.
        policy: when it is traced.
        steady: further tensors that the function reads and that change between calls, in place; all on the pair's
            device, like the arguments.
        inside: a context in which the function runs, and is traced.
        is_rare: whether arguments have a shape that comes seldom.
        untraceable: why the function cannot be traced, where that is known.

    """

    def __init__(
        self,
        pair: PairParameters,
        function: Callable[[Arguments], Results],
        policy: Policy,
        *,
        steady: Callable[[], Iterable[Tensor]] = tuple,
        inside: Callable[[], AbstractContextManager[object]] = nullcontext,
        is_rare: Callable[[Arguments], bool] = lambda _: False,
        untraceable: str | None = None,
    ) -> None:
        self.pair, self.function, self.policy = pair, function, policy
        self.device = pair.device
        self.steady, self.inside, self.is_rare = steady, inside, is_rare
        self.traces: dict[Hashable, _Trace] = {}
        self.retraces = 0
        self._work: Work | None = None  # of a call, once it is asked whether a trace pays
        self._shapes: list[str] = []  # that were traced, also before this one went on from another's state
        self._held: list[Tensor] = []
        self._state: ProgramState | None = None
        self.outcome = Outcome(self._why_plain(untraceable), True if policy.compile is True else None)
        if policy.traces and self.outcome.plain_because is not None:
            self._use_plain(self.outcome.plain_because)

    def __call__(self, arguments: Arguments) -> Results:
        """The function's results."""
        if self.outcome.plain_because is None:
            try:
                return self._run_traced(arguments)
            except NotTraceableError as error:
                self._use_plain(str(error))
        return self._run_plain(arguments)

    def state_dict(self) -> State:
        """What is needed to compute later calls as this one would have."""
        return {
            "compiled": self.outcome.compiled,
            "plain_because": self.outcome.plain_because,
            "not_compiled_because": self.outcome.not_compiled_because,
            "shapes": list(self._shapes),
            "retraces": self.retraces,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on like the one that gave this state, as far as `compile` leaves a choice."""
        if self.policy.compile == "auto":
            self.outcome = Outcome(state["plain_because"], state["compiled"], state["not_compiled_because"])
            self._shapes, self.retraces = list(state["shapes"]), state["retraces"]
        elif self.policy.compile is True and state["retraces"]:
            self.retraces = state["retraces"]
            self._do_not_compile(state["not_compiled_because"])

    def _why_plain(self, untraceable: str | None) -> str | None:
        if self.policy.compile is False:
            return "compile=False"
        if untraceable is not None:
            return untraceable
        if not self.policy.traces:
            return f"a trace does not pay for {self.policy.calls} {self.policy.what}"
        return None

    def _run_plain(self, arguments: Arguments) -> Results:
        with self.inside():
            return self.function(arguments)

    def _run_traced(self, arguments: Arguments) -> Results:
        if self._state is not None and (changed := self._state.changes()):
            self._forget_traces(changed[0])
        kinds = tuple(map(self._kind, arguments))
        trace = self.traces.get(kinds)
        if trace is None and self._is_worth_a_trace(repr(kinds), arguments):
            trace = self._trace(repr(kinds), arguments)
            if trace is not None:
                self.traces[kinds] = trace
        if trace is None:
            return self._run_plain(arguments)
        with torch.no_grad():
            given = iter(trace.run(*self._inputs(arguments)))
        return [next(given) if is_given else None for is_given in trace.is_given]

    def _kind(self, argument: object) -> Hashable:
        """What of an argument a trace depends on."""
        if isinstance(argument, Tensor):
            return argument.shape, argument.stride(), argument.dtype
        if isinstance(argument, PLAIN):
            return type(argument), argument
        if self.policy.watched:
            raise NotTraceableError(
                f"an argument is of type {type(argument).__name__}, not a tensor, number or text"
            )
        return (type(argument),)

    def _inputs(self, arguments: Arguments) -> list[Tensor]:
        # Those that stay where they are in memory first.
        return [*self._held, *self.steady(), *(a for a in arguments if isinstance(a, Tensor))]

    # What is traced, and what of it is compiled

    def _is_worth_a_trace(self, shape: str, arguments: Arguments) -> bool:
        """Whether a trace pays for the calls that are to come of a shape; it may as long as no call was counted.

        Raises:
            NotTraceableError: nothing is to be traced.

        """
        if self.policy.one_shape and self.traces:
            return False
        # What was traced once is traced again where a training is resumed, so that it ends in the same numbers.
        if self.policy.compile is True or shape in self._shapes:
            return True
        is_rare = self.is_rare(arguments)
        calls = self.policy.rare_calls if is_rare else self.policy.calls
        if calls < self.policy.fewest_calls:
            return False
        if self._work is None:
            return True
        # The shapes seen so far are taken to share the calls, and traces to last as long as those before.
        calls //= 1 + self.retraces + (0 if is_rare else len(self._shapes))
        on_gpu = self.policy.in_cuda_graph and self.device.type == "cuda"
        pays = tracing_pays_off(self._work, calls, in_cuda_graph=on_gpu)
        if not (pays or is_rare or self.traces):
            raise NotTraceableError(
                f"a trace of {self._work.operations} operations does not pay for {calls} {self.policy.what}"
            )
        return pays

    def _forget_traces(self, changed: str) -> None:
        self.traces.clear()
        self._shapes.clear()
        self._state = None
        self.retraces += 1
        if self.retraces > MAX_RETRACES:
            raise NotTraceableError(
                f"{changed} changes again and again: a number could be traced as a buffer that is changed in place"
            )
        if self.outcome.compiled is not False:
            self._do_not_compile(f"{changed} has changed, and may do so again")

    def _trace(self, shape: str, arguments: Arguments) -> _Trace | None:
        """The trace of a call; None where it turns out not to pay."""
        state = self._state
        if state is None:
            state = ProgramState(self.pair)
            self._held = [*self.pair.parameters(), *self.pair.buffers()]
        inputs, is_given = self._inputs(arguments), list[bool]()
        first_moving = len(inputs) - sum(isinstance(a, Tensor) for a in arguments)

        def function(*inputs: Tensor) -> list[Tensor]:
            moving = iter(inputs[first_moving:])
            results = self.function([next(moving) if isinstance(a, Tensor) else a for a in arguments])
            is_given[:] = [result is not None for result in results]
            return [result for result in results if result is not None]

        with self.inside():
            reference = Reference(function, inputs, self.policy.tolerance)
            self._work = reference.work
            if not self._is_worth_a_trace(shape, arguments):
                return None
            self._count_shape(shape)
            graph = verified_trace(reference, state)
        if self.policy.watched:
            self._state = state
        run = graph.forward if self.is_rare(arguments) else self._sped_up(graph, reference, first_moving)
        return _Trace(run, is_given)

    def _count_shape(self, shape: str) -> None:
        if shape not in self._shapes:
            self._shapes.append(shape)
        if len(self._shapes) > MAX_SHAPES:
            raise NotTraceableError(f"batches come in more than {MAX_SHAPES} shapes")

    def _sped_up(self, graph: GraphModule, reference: Reference, first_moving: int) -> Run:
        """Compiled where that pays, and on a GPU as one CUDA graph."""
        run: Run = graph.forward
        in_cuda_graph = self.policy.in_cuda_graph and self.device.type == "cuda"
        if self.outcome.compiled is None:
            may_pay = self.policy.in_cuda_graph or self.device.type == "cpu"
            before = compiled_before(graph, reference.inputs)
            pays = may_pay and pays_off(graph, self.policy.calls, before)
            self.outcome = replace(self.outcome, compiled=pays)
        if self.outcome.compiled:
            run, why_not = faster(run, lambda: compiled(graph, reference.inputs), reference)
            if why_not is None:
                remember(graph, reference.inputs)
            else:
                self._do_not_compile(why_not)
        if not in_cuda_graph:
            return run
        whole, why_not = faster(run, lambda: cuda_graphed(run, reference.inputs, first_moving), reference)
        self.outcome = replace(self.outcome, graphed=why_not is None, not_graphed_because=why_not)
        return whole

    def _do_not_compile(self, reason: str | None) -> None:
        self.outcome = replace(self.outcome, compiled=False, not_compiled_because=reason)
        self._tell(f"are traced but not compiled: {reason}")

    def _use_plain(self, reason: str) -> None:
        self.outcome = replace(self.outcome, plain_because=reason)
        self.traces.clear()
        self._tell(f"run as plain Pyro: {reason}")

    def _tell(self, what: str) -> None:
        if self.policy.compile is True:
            warnings.warn(f"{self.policy.what} {what}.", stacklevel=2)
        else:
            _LOG.info("%s %s", self.policy.what, what)
