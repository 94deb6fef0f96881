"""One computation on chunk after chunk of a shape: by its traced operations without Pyro, compiled where that pays.

Pyro's handlers and checks cost as much as the arithmetic of a small chunk, and a log density over many
observed numbers takes several passes over memory, of which a compiler makes one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyrovae.data import Batch
from pyrovae.pair.label_advice import labels_explained
from pyrovae.pair.parameters import PairParameters
from pyrovae.traced.compilation import Compile
from pyrovae.traced.policy import Policy
from pyrovae.traced.traced import Arguments, Results, Traced

# For fewer it is not even asked whether a trace pays.
CALLS_TO_TRACE = 200
# Of the largest entry: how far rounding may take results from Pyro's.
TOLERANCE = 1e-5


class Repeated:
    """A function of tensors that runs a pair's programs, made faster over many calls.

    A trace replaces the function where inputs have the shapes of the first call; all else runs as before.

    Args:
        pair: its parameters and buffers stay as they are between calls, and so does its programs' state.
        function: from tensors, numbers and containers of them to tensors. What is neither must be the same at
            each call.
        calls: how many are to come.
        compile: see `pyrovae.traced.policy.Policy`.

    """

    def __init__(
        self, pair: PairParameters, function: Callable[..., Sequence[Tensor]], calls: int, compile: Compile
    ) -> None:
        self.function = function
        self._structure: TreeSpec | None = None
        policy = Policy("chunks", compile, calls, CALLS_TO_TRACE, TOLERANCE, one_shape=True)
        self._traced = Traced(pair, functools.partial(_of_parts, function), policy)

    @torch.no_grad()
    def __call__(self, *inputs: object) -> Sequence[Tensor]:
        """The function's results."""
        if self._traced.outcome.plain_because is not None:
            return self.function(*inputs)
        leaves, structure = tree_flatten(inputs)
        if self._structure is None:
            self._structure = structure
        if structure != self._structure:
            return self.function(*inputs)
        batch = next((given for given in inputs if isinstance(given, Batch)), Batch(()))
        with labels_explained("model or guide", batch):
            return [result for result in self._traced([structure, *leaves]) if result is not None]


def _of_parts(function: Callable[..., Sequence[Tensor]], parts: Arguments) -> Results:
    structure, *leaves = parts
    assert isinstance(structure, TreeSpec)
    return list(function(*tree_unflatten(leaves, structure)))
