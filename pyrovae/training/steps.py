"""A training step: loss statistics and gradients of one batch, by plain Pyro, traced, or compiled.

All three give the same numbers from the same random state, to rounding; `pyrovae.traced.traced` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.label_advice import labels_explained
from pyrovae.traced.compilation import Compile
from pyrovae.traced.outcome import Outcome
from pyrovae.traced.policy import Policy
from pyrovae.traced.traced import Arguments, Results, State, Traced
from pyrovae.training.batch_loss import NO_INFLUENCE, BatchLoss
from pyrovae.vae import VAE

Gradients: TypeAlias = list[Tensor | None]

# For fewer it is not even asked whether a trace pays, which takes as long as two or three of them.
MIN_STEPS = 200
# Of the largest entry: how far rounding may take a traced loss or gradient from Pyro's.
TOLERANCE = 1e-4


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
        arithmetic: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        # Also what is frozen now: a callback may free it, or freeze others.
        self.parameters: list[Tensor] = [p for p in vae.parameters() if can_train(p)]
        self.loss_scale = torch.ones((), device=vae.device)
        scale = self.loss_scale
        self.traced = Traced(
            vae,
            _Step(loss, divisor, self.parameters, scale),
            Policy(
                "steps",
                compile,
                steps,
                MIN_STEPS,
                TOLERANCE,
                rare_calls=ragged_steps,
                watched=True,
                in_cuda_graph=True,
            ),
            steady=lambda: (*loss.coefficients, scale),
            inside=lambda: _inside(vae, arithmetic),
            is_rare=lambda arguments: len(_batch(arguments)) != rows,
            untraceable=loss.untraceable,
        )

    @property
    def outcome(self) -> Outcome:
        """How steps are computed, and why not faster."""
        return self.traced.outcome

    @property
    def engine(self) -> str:
        """The same in words."""
        return str(self.outcome)

    def state_dict(self) -> State:
        """What a resumed training needs to compute its steps as this one would have."""
        return self.traced.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Go on like the steps that gave this state, as far as `compile` leaves a choice."""
        self.traced.load_state_dict(state)

    def __call__(self, batch: Batch) -> tuple[Tensor, Gradients]:
        """The `STATISTICS` [4], sums over the batch's rows, and the gradients, scaled by `loss_scale`."""
        with labels_explained("model or guide", batch):
            statistics, *gradients = self.traced((batch.absent, *batch.arguments))
        assert statistics is not None
        return statistics, gradients


def _batch(arguments: Arguments) -> Batch:
    absent, *rest = arguments
    return Batch(tuple(rest), bool(absent))


@dataclass(frozen=True)
class _Step:
    """Of a batch, as whether entries are absent and its arguments: statistics, and the gradients of all parameters.

    None where one has no gradient.
    """

    loss: BatchLoss
    divisor: float
    parameters: list[Tensor]
    loss_scale: Tensor

    def __call__(self, arguments: Arguments) -> Results:
        factor = self.loss_scale / self.divisor
        trained = [p for p in self.parameters if p.requires_grad]
        if not trained:
            raise ValueError(NO_INFLUENCE)
        batch = _batch(arguments)
        statistics, gradients = self.loss.statistics_and_gradients(batch, trained, factor)
        given = iter(_apart(gradients))
        return [statistics, *(next(given) if p.requires_grad else None for p in self.parameters)]


@contextmanager
def _inside(vae: VAE, arithmetic: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    with vae.scope(), arithmetic():
        yield


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
