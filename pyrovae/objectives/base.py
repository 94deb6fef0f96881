"""What every objective on the row-wise waist is: a loss by row, and around it what Pyro asks of an ELBO.

An objective writes `evaluate` alone: the loss of each row of a batch, in nats, without any scale. What belongs
to `pyro.infer.SVI` is here, once: finding the layout of a pair, summing over rows, and the row plate's N/B.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import NoReturn

import pyro
import pyro.infer
import torch
from pyro import poutine
from pyro.util import warn_if_nan
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.objectives.schedules import Scheduled
from pyrovae.pair import contract
from pyrovae.pair.layout import Layout
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.reachable import modules_of
from pyrovae.pair.sites import shared_row_plate_scale
from pyrovae.pair.terms import RowTerms
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import same_random_state


@dataclass(frozen=True)
class RowLosses:
    """What an objective says of a batch; in nats, without any scale.

    `value` is each row's loss, [B]; `surrogate` is what is differentiated, [B], the same tensor where the
    loss's own gradient is wanted. `log_likelihood` and `rate` are log p(x|z) and the rate of the draws that were
    used, [S,B], without gradients: whatever the loss, the ELBO is mean_s(log_likelihood - rate).

    `shared` is what latents above the rows add to the loss, a number for the whole data set: against it rows count N/B
    times in a batch of B. `shared_rate` is log q - log p of their draws without gradients. None where there are none.
    """

    value: Tensor
    surrogate: Tensor
    log_likelihood: Tensor
    rate: Tensor
    shared: Tensor | None = None
    shared_rate: Tensor | None = None

    @classmethod
    def of(
        cls, terms: RowTerms, value: Tensor, surrogate: Tensor | None = None, rate: Tensor | None = None
    ) -> RowLosses:
        """With the parts of the draws that `terms` are about; the rate as it was sampled, unless it is given.

        What the guide adds by `pyro.factor` is added here, averaged over draws, to loss and surrogate.
        """
        if rate is None:
            rate = terms.log_guide - terms.log_prior
        if terms.guide_factors:
            added = terms.added_loss.mean(0)
            value, surrogate = value + added, None if surrogate is None else surrogate + added
        return cls(
            value, value if surrogate is None else surrogate, terms.log_likelihood.detach(), rate.detach()
        )

    @classmethod
    def over_shared(
        cls, parts: Sequence[tuple[RowTerms, RowLosses]], weight: Tensor | float = 1.0
    ) -> RowLosses:
        """The mean over draws of the shared latents, given each of which a part is; their rate weighs `weight`.

        Of a pair without shared latents the only part.
        """
        shared = [terms.shared.rate for terms, _ in parts if terms.shared is not None]
        losses = [part for _, part in parts]
        if not shared:
            (only,) = losses
            return only
        rate = torch.stack(shared).mean()
        value = torch.stack([part.value for part in losses]).mean(0)
        alone = all(part.surrogate is part.value for part in losses)
        return cls(
            value,
            value if alone else torch.stack([part.surrogate for part in losses]).mean(0),
            torch.cat([part.log_likelihood for part in losses]),
            torch.cat([part.rate for part in losses]),
            (weight * rate).to(rate.dtype),
            rate.detach(),
        )

    def total(self, scale: float) -> Tensor:
        """The loss of a batch whose rows count `scale` times."""
        of_rows = scale * self.value.sum()
        return of_rows if self.shared is None else of_rows + self.shared

    def total_surrogate(self, scale: float) -> Tensor:
        """What is differentiated of it."""
        of_rows = scale * self.surrogate.sum()
        return of_rows if self.shared is None else of_rows + self.shared


@dataclass(eq=False, repr=False)
class RowObjective(pyro.infer.ELBO):
    """A loss by row, as an objective for `pyrovae.fit` and for `pyro.infer.SVI`.

    For those who write one: a dataclass (`@dataclass(eq=False, repr=False)`) whose fields are its settings, with
    the method `evaluate`. `docs/objectives.md` says what it may read, with examples. Settings with a schedule are
    `Scheduled`s in `self._scheduled`, made in `__post_init__`, and `evaluate` reads their tensors. Where a row's loss
    depends on the other rows of its batch, `__post_init__` sets `self.mixes_rows`: several processes, each of which
    sees its own part of a batch, cannot train by it.

    Of a pair with shared latents `row_terms` draws these once, so that several draws are several calls, put together
    by `RowLosses.over_shared`; `refuse_shared` is for objectives that do not cover them.

    Under SVI the loss is N/B times the sum over rows, N/B being the scale of a subsampled row plate and 1
    of any other, and what shared latents add; each call of `loss_and_grads` and each of `differentiable_loss` counts
    as a step.

    Raises:
        ValueError: at a first call, a pair that breaks the contract (`pyrovae.pair.contract`), or one that scales
            its densities by `poutine.scale`: objectives by row read densities, not scales.
        TypeError: at a call, keyword arguments: a pair takes `(x, *context)`.

    Example:
        >>> @dataclass(eq=False, repr=False)
        ... class LogLikelihood(RowObjective):
        ...     num_samples: int = 1
        ...
        ...     def evaluate(self, pair, batch):
        ...         terms = row_terms(pair, batch, self.num_samples)
        ...         return RowLosses.of(terms, -terms.log_likelihood.mean(0))
        >>> LogLikelihood(num_samples=3)
        LogLikelihood(num_samples=3)

    """

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mixes_rows = False
        self._scheduled: tuple[Scheduled, ...] = ()
        self._steps = 0
        # Under SVI: pairs on Pyro's global parameters, and the row plate's N/B by pair and B.
        self._pairs: list[Pair] = []
        self._scales: dict[tuple[Pair, int], float] = {}

    @abstractmethod
    def evaluate(self, pair: Pair, batch: Batch) -> RowLosses:
        """The loss of each row of a batch. Run it under the pair's parameters.

        It is traced into a graph: no branches on values, coefficients as tensors.
        """

    def describe(self) -> str:
        """Its kind and settings, the same in every process."""
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self))

    @property
    def coefficients(self) -> tuple[Tensor, ...]:
        """The tensors of no dimensions that `advance` changes in place."""
        return tuple(scheduled.tensor for scheduled in self._scheduled)

    def advance(self, step: int, epoch: float | None) -> None:
        """Set the coefficients for the step about to be taken, with `step` steps and `epoch` epochs behind it."""
        for scheduled in self._scheduled:
            scheduled.advance(step, epoch)

    def to(self, device: torch.device) -> None:
        """Keep the coefficients on a device, for a graph that shall not wait for the CPU."""
        for scheduled in self._scheduled:
            scheduled.to(device)

    def __repr__(self) -> str:
        settings = ", ".join(f"{f.name}={_setting(getattr(self, f.name))}" for f in fields(self))
        return f"{type(self).__qualname__}({settings})"

    # What pyro.infer.SVI calls

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *arguments: object, **keywords: object) -> float:
        """The loss of a batch: N/B times the sum over its rows, in nats."""
        losses, scale = self._run(model, guide, Batch.of(arguments), keywords)
        return _told(losses, scale)

    def loss_and_grads(self, model: Program, guide: Program, *arguments: object, **keywords: object) -> float:
        """The loss of a batch, its gradients added to those of the parameters."""
        self._next_step()
        losses, scale = self._run(model, guide, Batch.of(arguments), keywords)
        surrogate = losses.total_surrogate(scale)
        if surrogate.requires_grad:
            surrogate.backward()
        return _told(losses, scale)

    def differentiable_loss(
        self, model: Program, guide: Program, *arguments: object, **keywords: object
    ) -> Tensor:
        """The loss of a batch as a tensor whose gradients are the objective's."""
        self._next_step()
        losses, scale = self._run(model, guide, Batch.of(arguments), keywords)
        if losses.surrogate is losses.value:
            return losses.total(scale)
        surrogate = losses.total_surrogate(scale)
        return losses.total(scale).detach() + surrogate - surrogate.detach()

    def _next_step(self) -> None:
        self.advance(self._steps, None)
        self._steps += 1

    def _run(
        self, model: Program, guide: Program, batch: Batch, keywords: dict[str, object]
    ) -> tuple[RowLosses, float]:
        if keywords:
            raise TypeError(
                f"got the keyword arguments {sorted(keywords)}: model and guide take (x, *context) by position."
            )
        pair = next((p for p in self._pairs if p.model == model and p.guide == guide), None)
        if pair is None:
            pair = Pair(model, guide, _inspect(model, guide, batch))
            self._pairs.append(pair)
        case = (pair, len(batch))
        if case not in self._scales:
            with _leaving_no_trace(model, guide, batch):
                sites = sites_of(model, batch)
            of_rows = {name: site for name, site in sites.items() if name not in pair.layout.shared}
            self._scales[case] = shared_row_plate_scale(of_rows)
        return self.evaluate(pair, batch), self._scales[case]

    def _get_trace(self, *arguments: object) -> NoReturn:
        raise NotImplementedError(f"{type(self).__name__} reads densities by row and hands out no traces.")


def refuse_shared(pair: Pair, objective: RowObjective) -> None:
    """Raise ValueError where a pair has latents above its rows, which an objective does not cover."""
    if pair.layout.shared:
        raise ValueError(
            f"the objective is {objective!r}, which trains latents by row, and "
            f"{', '.join(map(repr, pair.layout.shared))} are shared by all rows. Use pyro.infer.Trace_ELBO(), "
            "objectives.ELBO() without sticking_the_landing, or objectives.IWAE(K) without doubly_reparameterized."
        )


def _told(losses: RowLosses, scale: float) -> float:
    loss = losses.total(scale).detach()
    warn_if_nan(loss, "loss")  # as Pyro's own do
    return float(loss)


def _inspect(model: Program, guide: Program, batch: Batch) -> Layout:
    # A guide that is built from data draws its first weights, as it would when it runs.
    build = getattr(guide, "build", None)
    if build is not None:
        build(*batch.arguments)
    with _leaving_no_trace(model, guide, batch):
        return contract.inspect_pair(model, guide, batch)


@contextmanager
def _leaving_no_trace(model: Program, guide: Program, batch: Batch) -> Iterator[None]:
    """Run programs in evaluation mode, without handlers seeing it, random state and param store as they were."""
    modes = [(m, m.training) for part in modules_of(model, guide) for m in part.modules()]
    store = pyro.get_param_store()
    try:
        for module, _ in modes:
            module.training = False
        with (
            torch.no_grad(),
            poutine.block(),
            same_random_state(batch.device),
            store.scope(store.get_state()),
        ):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _setting(value: object) -> str:
    """A setting as text that is the same in every process."""
    name = getattr(value, "__qualname__", None)
    return repr(value) if name is None else f"{value.__module__}.{name}"
