"""When a function is traced, and what is done with its traces."""

from __future__ import annotations

from dataclasses import dataclass

from pyrovae.traced.compilation import Compile


@dataclass(frozen=True)
class Policy:
    """What is known of the calls to come, and what they may be computed by.

    Args:
        what: one call computes, in the plural, for messages.
        compile: True traces and compiles, and warns where that cannot be; "auto" does each where it saves time over
            the calls (`pyrovae.traced.account`), and tells the log "pyrovae.traced" (at level INFO) why something
            could not be; False does neither.
        calls: how many are to come.
        fewest_calls: for fewer it is not even asked whether a trace pays, which takes as long as some calls.
        tolerance: how far rounding may take results from Pyro's, relative to the largest entry of each.
        rare_calls: how many of the calls are of shapes that come seldom; traces of these are not compiled.
        one_shape: calls of other shapes than the first run as plain Pyro, instead of `MAX_SHAPES` traces.
        watched: the programs' Python state, and which parameters train, may change between calls; then traces are made
            anew, and none is compiled again, for another change may come, and compiling takes longer than many calls.
            Arguments must be tensors or plain values.
        in_cuda_graph: on a GPU a call becomes one CUDA graph, and the next call overwrites its results. What does
            not become one is compiled there only where `compile` is True.

    """

    what: str
    compile: Compile
    calls: int
    fewest_calls: int
    tolerance: float
    rare_calls: int = 0
    one_shape: bool = False
    watched: bool = False
    in_cuda_graph: bool = False

    @property
    def traces(self) -> bool:
        """Whether anything is traced, if it can be."""
        return self.compile is True or (self.compile == "auto" and self.calls >= self.fewest_calls)
