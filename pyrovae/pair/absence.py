"""What a row does not have is integrated out of it: a NaN that reaches `obs=` does not count.

Where the entries of an event are independent (`.to_event()`), the absent ones are masked. Those of a multivariate
normal are integrated out by its marginal, and mixtures are those of their components' marginals. Sequences of
independent steps are those of their steps' marginals. All other events count as a whole or not at all.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol, TypeAlias, cast, runtime_checkable

import torch
from pyro.distributions import Independent, MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import (
    Distribution,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
)
from torch.distributions.constraints import Constraint

from pyrovae.data import Batch
from pyrovae.pair.bijections import bijection_to
from pyrovae.pair.handlers import Message, subsampling
from pyrovae.pair.true_support import true_support

Observation: TypeAlias = tuple[Distribution, Tensor]
"""A distribution, and a value of it without NaN: what an observation with absent entries stands for."""


@runtime_checkable
class IndependentSteps(Protocol):
    """A sequence whose steps are independent, such as `pyrovae.models.sequences.PaddedSequence`.

    `steps` is what they are drawn from, of batch [..., T]; `present` is None until absent entries are left out.
    """

    steps: TorchDistribution
    present: Tensor | None

    def marginal(self, steps: TorchDistribution, present: Tensor) -> TorchDistribution:
        """The distribution of what is present, [..., T, *step], given that of the steps' present parts."""


class AbsentEntries(Messenger):
    """Observations of NaN are integrated out of a program's density."""

    def _pyro_sample(self, msg: Message) -> None:
        value = msg["value"]
        if not msg["is_observed"] or subsampling(msg) or not isinstance(value, Tensor):
            return
        # A factor has no entries.
        if value.is_floating_point() and value.numel():
            msg["fn"], msg["value"] = present_part(msg["fn"], value)


class PartlyAbsent(Messenger):
    """Looks for rows that have a part of an event without marginals: `found` are site, family and row in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, int]] = []

    def _pyro_sample(self, msg: Message) -> None:
        value, distribution = msg["value"], msg["fn"]
        if not msg["is_observed"] or subsampling(msg) or not isinstance(value, Tensor):
            return
        distribution = innermost_events(distribution)
        if has_marginals(distribution):
            return
        event_dim = len(distribution.event_shape)
        absent = value.isnan().flatten(-event_dim)
        partly = absent.any(-1) & ~absent.all(-1)
        if bool(partly.any()):
            plates = value.dim() - len(msg["fn"].event_shape)
            by_row = partly.reshape(*partly.shape[:plates], -1).any(-1).reshape(-1, partly.shape[plates - 1])
            row = int(by_row.any(0).nonzero()[0, 0])
            self.found.append((msg["name"], type(distribution).__name__, row))


def integrated_out(batch: Batch) -> AbstractContextManager[object]:
    """Programs run here leave out what is absent in these rows."""
    return AbsentEntries() if batch.absent else nullcontext()


class PresentNormal(MultivariateNormal):
    """The marginal of a multivariate normal over the entries that are present, at a value of them all.

    Absent entries, which `present` [*batch, D] says False of, are independent standard normals here, whose density at
    zero `log_prob` leaves out: log p(x_present), whatever stands in their place.
    """

    arg_constraints = MultivariateNormal.arg_constraints

    def __init__(self, normal: MultivariateNormal | LowRankMultivariateNormal, present: Tensor) -> None:
        present = present.expand(normal.loc.shape)
        both = present[..., None] & present[..., None, :]
        covariance = torch.where(both, normal.covariance_matrix, 0.0)
        covariance = covariance + torch.diag_embed((~present).to(covariance))
        loc = torch.where(present, normal.loc, 0.0)
        super().__init__(loc, covariance, validate_args=False)
        self.present = present

    def log_prob(self, value: Tensor) -> Tensor:
        """Of the present entries, [*batch]."""
        absent = (~self.present).sum(-1)
        log_density: Tensor = super().log_prob(torch.where(self.present, value, 0.0))  # type: ignore[no-untyped-call]
        return log_density + 0.5 * math.log(2 * math.pi) * absent


class PresentMixture(TorchDistribution):
    """The marginal of a mixture over the entries that are present: the mixture of the components' own.

    `present` is [*batch, *event].
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, mixture: MixtureSameFamily, present: Tensor) -> None:
        super().__init__(mixture.batch_shape, mixture.event_shape, validate_args=False)
        self.mixture, self.present = mixture, present.expand(mixture.batch_shape + mixture.event_shape)

    @property
    def support(self) -> Constraint:
        """Of the mixture."""
        return cast("Constraint", self.mixture.support)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of the present entries, [*batch]."""
        of_each = torch.where(self.present, value, torch.nan).unsqueeze(-1 - len(self.event_shape))
        component, filled = present_part(self.mixture.component_distribution, of_each)
        shares = torch.log_softmax(self.mixture.mixture_distribution.logits, -1)
        return torch.logsumexp(shares + component.log_prob(filled), -1)


def has_marginals(distribution: Distribution) -> bool:
    """Whether a part of its event can be absent, the rest being present."""
    if isinstance(distribution, MaskedDistribution | torch.distributions.Independent):
        return has_marginals(distribution.base_dist)
    if isinstance(distribution, MixtureSameFamily):
        return has_marginals(distribution.component_distribution)
    if isinstance(distribution, IndependentSteps):
        return has_marginals(distribution.steps)
    return not distribution.event_shape or isinstance(
        distribution, MultivariateNormal | LowRankMultivariateNormal
    )


def present_part(distribution: Distribution, value: Tensor) -> Observation:
    """The marginal of what is present in a value, [*batch, *event], whose absent entries are NaN."""
    if isinstance(distribution, PresentNormal | PresentMixture):
        return distribution, value  # what is absent has been left out already
    present = ~value.isnan()
    if isinstance(distribution, IndependentSteps):
        if distribution.present is not None:
            return distribution, value
        steps, filled = present_part(distribution.steps, value)
        return distribution.marginal(cast(TorchDistribution, steps), present), filled
    event_dim = len(distribution.event_shape)
    if isinstance(distribution, MaskedDistribution):
        inside, filled = present_part(distribution.base_dist, value)
        return cast(TorchDistribution, inside).mask(distribution._mask), filled
    if isinstance(distribution, torch.distributions.Independent):
        inside, filled = present_part(distribution.base_dist, value)
        return Independent(inside, distribution.reinterpreted_batch_ndims), filled
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal):
        return PresentNormal(distribution, present), value.nan_to_num(0.0)
    if event_dim and isinstance(distribution, MixtureSameFamily) and has_marginals(distribution):
        filled = torch.where(present, value, _inside(distribution, value))
        return PresentMixture(distribution, present), filled
    if event_dim:
        present = present.flatten(-event_dim).all(-1)
    entries = cast(TorchDistribution, distribution).mask(present)
    whole = present.reshape(present.shape + (1,) * event_dim)
    return entries, torch.where(whole, value, _inside(distribution, value))


def innermost_events(distribution: Distribution) -> Distribution:
    """What the entries of an event, or of a step, are drawn from."""
    while True:
        if isinstance(distribution, MaskedDistribution | torch.distributions.Independent):
            distribution = distribution.base_dist
        elif isinstance(distribution, IndependentSteps):
            distribution = distribution.steps
        else:
            return distribution


def _inside(distribution: Distribution, like: Tensor) -> Tensor:
    """A value in the support, so that the density and its gradient at an absent entry are finite.

    A masked term is multiplied by zero in the backward pass, and zero times infinity is not a number.
    """
    support = true_support(distribution)
    if support.is_discrete and not distribution.event_shape:
        return like.new_tensor(0.0) + getattr(support, "lower_bound", 0)
    try:
        bijection = bijection_to(support)
    except NotImplementedError:  # labels, or a support of a user's own
        return distribution.sample().to(like.dtype)
    return bijection(like.new_zeros(bijection.inverse_shape(torch.Size(distribution.event_shape))))
