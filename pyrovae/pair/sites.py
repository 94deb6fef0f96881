"""The sites of a program's run: what each sample statement gave, and all that is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.runtime import InferDict
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from pyrovae.pair.absence import IndependentSteps, PresentMixture, PresentNormal
from pyrovae.pair.handlers import Frame, Mask
from pyrovae.pair.layout import Layout, by_row, canonical, rows_first
from pyrovae.pair.true_support import true_support


@runtime_checkable
class Ragged(Protocol):
    """A distribution over sequences of T steps, of which a row may have fewer: the rest is padding.

    Steps lie along the first dimension of its event. The sequences of `pyrovae.models` are ragged; any distribution
    becomes so by this attribute, and its padding then counts nowhere.
    """

    real_steps: Tensor | None
    """Which steps of a row are no padding, [*batch, T]; None where all rows are full."""


@dataclass(frozen=True, eq=False)
class Site:
    """One sample statement of a program, as one run left it; densities and values are in Pyro's layout.

    Attributes:
        name: of the statement.
        observed: whether it was given its value.
        value: [*plates, *event].
        distribution: of batch shape [*plates].
        mask: of the statement, [*plates] or a constant; None where it has none.
        plates: those that it stands in and that have a dimension.
        infer: what the program says of how to infer it.
        scale: of its density in Pyro's objectives.
        args, kwargs: what its distribution was called with.

    """

    name: str
    observed: bool
    value: Tensor
    distribution: Distribution
    mask: Mask = None
    plates: tuple[Frame, ...] = ()
    infer: InferDict = field(default_factory=InferDict)
    scale: Tensor | float = 1.0
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)

    # Its distribution

    @property
    def family(self) -> str:
        """The innermost distribution's class name."""
        return family_name(self.distribution)

    @property
    def support(self) -> constraints.Constraint:
        """Where its values may lie (see `pyrovae.pair.true_support`)."""
        return true_support(self.distribution)

    @property
    def discrete(self) -> bool:
        """Whether it has a probability; else a density."""
        return bool(self.support.is_discrete)

    @property
    def factor(self) -> bool:
        """Whether it is a `pyro.factor`: a term and no observation, of a model's density, or of a guide's loss."""
        return type(self.distribution).__name__ == "Unit"

    @property
    def event_dim(self) -> int:
        """How many dimensions its event has."""
        return len(self.distribution.event_shape)

    @property
    def row_dim(self) -> int:
        """The dimension of its value along which rows lie."""
        return self.value.dim() - 1 - self.event_dim

    @property
    def real_steps(self) -> Tensor | None:
        """Which steps of a sequence are no padding, [*plates, T]; None where it is none, or has none."""
        inside = _without_masks(self.distribution)
        return inside.real_steps if isinstance(inside, Ragged) else None

    @property
    def sequence(self) -> bool:
        """Whether its event is a sequence, which other rows may have padded to another number of steps."""
        return isinstance(_without_masks(self.distribution), Ragged)

    # Its place in the program

    @property
    def row_plate(self) -> Frame | None:
        """The plate over rows, at dim -1."""
        return next((plate for plate in self.plates if plate.dim == -1), None)

    @property
    def inner_plates(self) -> list[Frame]:
        """The plates inside the rows, outermost first."""
        return sorted((plate for plate in self.plates if plate.dim != -1), key=lambda plate: plate.dim or 0)

    @property
    def row_plate_scale(self) -> float:
        """N/B of the row plate: 1 where it is not subsampled."""
        plate = self.row_plate
        assert plate is not None
        return 1.0 if plate.full_size is None else float(plate.full_size / plate.size)

    @property
    def auxiliary(self) -> bool:
        """Whether it is a guide's own: a number that the model does not know."""
        return bool(self.infer.get("is_auxiliary")) and not self.factor

    @property
    def to_be_enumerated(self) -> bool:
        """Whether the program has it summed out."""
        return self.infer.get("enumerate") == "parallel"

    @property
    def marked(self) -> bool:
        """Whether Pyro's enumerating objective goes through its values, at once or one after another."""
        return self.infer.get("enumerate") in ("parallel", "sequential") and bool(
            getattr(self.distribution, "has_enumerate_support", False)
        )

    @property
    def enumerated(self) -> bool:
        """Whether this run holds all its values in place of a draw."""
        return self.infer.get("_enumerate_dim") is not None

    # Its density, and which of its numbers have one

    def log_density(self) -> Tensor:
        """Of its value, with its mask and without any scale: [*plates], in nats."""
        score = self.distribution.log_prob
        # Some distributions of users' own take arguments.
        terms: Tensor = score(self.value, *self.args, **self.kwargs)
        masked: Tensor = scale_and_mask(terms, mask=self.mask)
        return masked

    @property
    def unmasked(self) -> Tensor:
        """The entries that no mask leaves out, the statement's or its distribution's, [*plates, *event]."""
        shape = self.distribution.batch_shape + self.distribution.event_shape
        kept = torch.ones(shape, dtype=torch.bool, device=self.value.device)
        masks, distribution = [(self.mask, len(self.distribution.batch_shape))], self.distribution
        while isinstance(distribution, Independent | MaskedDistribution):
            if isinstance(distribution, MaskedDistribution):
                masks.append((distribution._mask, len(distribution.batch_shape)))
            distribution = distribution.base_dist
        if (
            isinstance(distribution, PresentNormal | PresentMixture | IndependentSteps)
            and distribution.present is not None
        ):
            kept = kept & distribution.present
        for mask, end in masks:
            if mask is not None:
                kept = kept & _over(torch.as_tensor(mask, device=kept.device), len(shape) - end)
        return kept

    @property
    def counted(self) -> Tensor:
        """The entries that are neither masked nor padding, [*plates, *event]."""
        if self.real_steps is None:
            return self.unmasked
        sequence = _without_masks(self.distribution).event_shape
        return self.unmasked & _over(self.real_steps, len(sequence) - 1)

    @property
    def outside(self) -> Tensor:
        """Where its value lies outside the support and no mask of the statement leaves it out, [*plates]."""
        outside: Tensor = ~self.support.check(self.value)
        return outside if self.mask is None else outside & torch.as_tensor(self.mask)

    @property
    def mask_of_entries(self) -> Mask:
        """Its mask with a dimension of one for each dimension of its event."""
        return _over(self.mask, self.event_dim) if isinstance(self.mask, Tensor) else self.mask


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredSite(Site):
    """A site for S samples of B rows, with its density by row.

    The value of a latent is [S, *inner plates, B, *event], that of an observation as the program gave it. The
    distribution has the batch shape in which the program ran; `log_prob` is [S,B], in nats.
    """

    log_prob: Tensor

    def in_rows(self, entries: Tensor, layout: Layout, broadcasts: bool) -> Tensor:
        """What the run gives of each entry of a latent, as [S, B, *inner plates, *event]."""
        (S, B), site = self.log_prob.shape, layout.latents[self.name]
        inside = canonical(entries, S, layout, self.event_dim, broadcasts=broadcasts)
        # Of a sequence the event is as long as this batch's, which other batches need not be.
        event = self.value.shape[self.value.dim() - self.event_dim :]
        return rows_first(inside, site).expand(S, B, *site.inner_sizes, *event)


@dataclass(frozen=True, eq=False)
class JointTerm:
    """The density of several sites together, [S,B] in nats, where enumeration couples them."""

    name: str
    observed: bool
    log_prob: Tensor


Term: TypeAlias = ScoredSite | JointTerm


def scored_sites(
    sites: Mapping[str, Site], num_samples: int, layout: Layout, broadcasts: bool
) -> dict[str, ScoredSite]:
    """Each site with its value in canonical layout and its density by row."""
    return {name: _scored(site, num_samples, layout, broadcasts) for name, site in sites.items()}


def _scored(site: Site, num_samples: int, layout: Layout, broadcasts: bool) -> ScoredSite:
    value = site.value
    if not site.observed:
        value = canonical(value, num_samples, layout, site.event_dim, broadcasts=broadcasts)
    log_prob = by_row(site.log_density(), num_samples, layout, broadcasts)
    return ScoredSite(**{**vars(site), "value": value}, log_prob=log_prob)


def shared_row_plate_scale(sites: Mapping[str, Site]) -> float:
    """The row plate's N/B, where densities have no other scale.

    Raises:
        ValueError: a density with another scale than its plates give it.

    """
    scale = 1.0
    for name, site in sites.items():
        scale = site.row_plate_scale
        if isinstance(site.scale, Tensor) or float(site.scale) != scale:
            raise ValueError(
                f"site '{name}' is scaled by {site.scale} where its plate says {scale}: objectives by row weigh no "
                "site. Leave poutine.scale out (beta= weighs the rate), or use Pyro's own pyro.infer.Trace_ELBO()."
            )
    return scale


def stacked_sum(terms: list[Tensor], like: Tensor) -> Tensor:
    """The sum of some terms; zeros of the given shape if there are none."""
    return torch.stack(terms).sum(0) if terms else torch.zeros_like(like)


def innermost(distribution: Distribution) -> Distribution:
    """What a distribution's wrappers and transforms are around."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def has_masks(distribution: Distribution) -> bool:
    """Whether a distribution is masked itself, `.mask(...)`, in whole or inside."""
    if isinstance(distribution, MaskedDistribution):
        return True
    return hasattr(distribution, "base_dist") and has_masks(distribution.base_dist)


def family_name(distribution: Distribution) -> str:
    """The innermost distribution's class name, for messages."""
    return type(innermost(distribution)).__name__


def base_constraint(support: constraints.Constraint) -> constraints.Constraint:
    """What single numbers in a support must satisfy, without the dims that make an event."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _without_masks(distribution: Distribution) -> Distribution:
    while isinstance(distribution, Independent | MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def _over(entries: Tensor, event_dim: int) -> Tensor:
    """With so many dimensions of one behind."""
    return entries.reshape(entries.shape + (1,) * event_dim)
