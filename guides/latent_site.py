"""A latent site of a model as a derived guide sees it: from a head's numbers to the site's value, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NoReturn

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.transforms import Transform

from pyrovae.guides.prior_head import CIRCULAR, PriorHead, family_of_prior
from pyrovae.models.sequences import MarkovSequence
from pyrovae.pair.bijections import bijection_to, is_real, of_rows, on_device, slow_bijection_to
from pyrovae.pair.sites import Site, base_constraint, has_masks, innermost

JOINT = "_latents"

# Families whose independent entries are told by a location and a scale.
_OF_ENTRIES = (dist.Normal, dist.StudentT)

_DISCRETE: dict[str, Callable[[Tensor], TorchDistribution]] = {
    "Bernoulli": lambda logits: dist.Bernoulli(logits=logits),
    "Categorical": lambda logits: dist.Categorical(logits=logits),
    "OneHotCategorical": lambda logits: dist.OneHotCategorical(logits=logits),
}


@dataclass(frozen=True)
class LatentSite:
    """A latent site of the model: what its head must give, and how it becomes the site's value."""

    name: str
    event_shape: torch.Size
    support: constraints.Constraint
    plates: tuple[tuple[str, int, int], ...]  # name, size and dim of those inside the rows
    depth: int  # how many plate dimensions the model has inside the rows
    discrete: str = ""  # the family's name, if it is discrete
    num_options: int = 0
    masked_entries: bool = False  # whether a mask inside the distribution tells its entries apart
    prior: str = ""  # the family of its prior, where a head can have it (`pyrovae.guides.prior_head`)

    @property
    def unconstrained_shape(self) -> torch.Size:
        """Of one draw of one row, before the map to the support; of the logits, if it is discrete."""
        if self.discrete == "Categorical":
            return torch.Size([*self.event_shape, self.num_options])
        if self.discrete:
            return self.event_shape
        return torch.Size(bijection_to(self.support).inverse_shape(self.event_shape))

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """Batch dimensions between samples and rows, outermost first; 1 where the site is in no plate."""
        sizes = {dim: size for _, size, dim in self.plates}
        return tuple(sizes.get(dim, 1) for dim in range(-1 - self.depth, -1))

    @property
    def size(self) -> int:
        """Numbers that a head gives for one row: unconstrained coordinates, or logits."""
        return math.prod(self.unconstrained_shape) * math.prod(self.inner_shape)

    @property
    def numel(self) -> int:
        """Numbers of the latent itself in one row."""
        return math.prod(self.event_shape) * math.prod(self.inner_shape)

    @property
    def circular(self) -> bool:
        """Whether its values are angles."""
        return self.prior == CIRCULAR

    @property
    def num_features(self) -> int:
        """Numbers that it hands to the heads below it; of an angle the cosine and the sine."""
        return 2 * self.numel if self.circular else self.size

    def sample(self, head: nn.Module, inputs: list[Tensor], counted: Tensor | None = None) -> Tensor:
        """Draw the site from its head; returns the unconstrained draw as features [..., B, F].

        `counted` are the entries that the model's distribution leaves in, [*plates, *event], where it has masks.
        """
        if self.discrete:
            return self._sample_labels(head(*inputs), counted)
        if isinstance(head, PriorHead):
            return self._sample_as_prior(head, inputs, counted)
        posterior = head(*inputs)
        event_dim = len(self.unconstrained_shape)
        if self.masked_entries:
            return self._sample_masked(posterior, counted)
        if not self.depth and self.unconstrained_shape == posterior.event_shape:
            base = posterior  # as it is: its KL has a closed form
        elif isinstance(posterior, dist.Independent) and isinstance(posterior.base_dist, _OF_ENTRIES):
            base = self._entries(posterior).to_event(event_dim)
        else:
            draw = pyro.sample(f"{JOINT}_{self.name}", posterior, infer={"is_auxiliary": True})
            return self.place(draw)
        if is_real(self.support):
            return self._gather(self._in_plates(base), event_dim)
        bijection = _map_for(base)(on_device(self.support, inputs[0].device))
        value = self._in_plates(dist.TransformedDistribution(base, [bijection]))
        return self._gather(bijection.inv(value), event_dim)

    def _sample_labels(self, numbers: Tensor, counted: Tensor | None) -> Tensor:
        logits = self._spread(numbers, self.unconstrained_shape)
        labels = _DISCRETE[self.discrete](logits)
        if self.masked_entries and counted is not None:
            labels = labels.mask(counted[..., 0] if labels.event_shape else counted)
        value = self._in_plates(labels.to_event(len(self.event_shape) - len(labels.event_shape)))
        if self.discrete == "Categorical":
            value = nn.functional.one_hot(value, self.num_options)
        return self._gather(value.to(logits.dtype), len(self.unconstrained_shape))

    def _sample_masked(self, posterior: dist.Independent, counted: Tensor | None) -> Tensor:
        """Entry by entry, each with its own mask and its own map to the support."""
        entries = self._entries(posterior)
        bijection = _map_for(entries)(
            base_constraint(on_device(self.support, posterior.base_dist.loc.device))
        )
        if not is_real(self.support):
            entries = dist.TransformedDistribution(entries, [bijection])
        assert counted is not None
        event_dim = len(self.event_shape)
        value = self._in_plates(entries.mask(counted).to_event(event_dim))
        return self._gather(bijection.inv(value), event_dim)

    def _sample_as_prior(self, head: PriorHead, inputs: list[Tensor], counted: Tensor | None) -> Tensor:
        """In the family of the prior, on the support itself."""
        support = on_device(self.support, inputs[0].device)
        raw = [self._spread(parameter, self.event_shape) for parameter in head(*inputs)]
        entries = head.distribution(raw, support)
        if self.masked_entries:
            entries = entries.mask(counted)
        event_dim = len(self.event_shape)
        value = self._in_plates(entries.to_event(event_dim - len(entries.event_shape)))
        if self.circular:
            return torch.cat([self._gather(part, event_dim) for part in (value.cos(), value.sin())], -1)
        return self._gather(bijection_to(support).inv(value), len(self.unconstrained_shape))

    def _entries(self, posterior: dist.Independent) -> TorchDistribution:
        """Independent entries of a location and a scale, in the layout of the site."""
        base = posterior.base_dist
        location, scale = (self._spread(p, self.unconstrained_shape) for p in (base.loc, base.scale))
        if isinstance(base, dist.StudentT):
            return dist.StudentT(self._spread(base.df, self.unconstrained_shape), location, scale)
        return dist.Normal(location, scale)

    def place(self, draw: Tensor) -> Tensor:
        """Put unconstrained numbers [..., B, size] at the site, their density being counted already."""
        unconstrained = self._spread(draw, self.unconstrained_shape)
        bijection = bijection_to(on_device(self.support, draw.device))
        value = bijection(unconstrained)
        log_density = -bijection.log_abs_det_jacobian(unconstrained, value)
        extra = log_density.dim() - (value.dim() - len(self.event_shape))
        if extra > 0:
            log_density = log_density.flatten(-extra).sum(-1)
        self._in_plates(dist.Delta(value, log_density=log_density, event_dim=len(self.event_shape)))
        return draw

    def _in_plates(self, distribution: TorchDistribution) -> Tensor:
        plates = [pyro.plate(name, size, dim=dim) for name, size, dim in self.plates]
        with ExitStack() as stack:
            for plate in plates:
                stack.enter_context(plate)
            return pyro.sample(self.name, distribution)

    def _spread(self, numbers: Tensor, shape: torch.Size) -> Tensor:
        """From [..., B, size] to Pyro's layout [..., *inner, B, *shape]."""
        inner = self.inner_shape
        numbers = numbers.reshape(*numbers.shape[:-1], *inner, *shape)
        row_dim = numbers.dim() - len(shape) - len(inner) - 1
        return numbers.movedim(row_dim, row_dim + len(inner))

    def _gather(self, value: Tensor, event_dim: int) -> Tensor:
        """From Pyro's layout [..., *inner, B, *event] to [..., B, F]; the inverse of `_spread`."""
        missing = self.depth + 1 - (value.dim() - event_dim)
        value = value.reshape((1,) * missing + value.shape)
        row_dim = value.dim() - event_dim - 1
        value = value.movedim(row_dim, row_dim - self.depth)
        return value.reshape(*value.shape[: row_dim - self.depth + 1], -1)


def _map_for(posterior: Distribution) -> Callable[[constraints.Constraint], Transform]:
    """What makes the map to a support: from Student's t one that does not make its tails exponentials."""
    return slow_bijection_to if isinstance(innermost(posterior), dist.StudentT) else bijection_to


def _masked_dims(name: str, fn: Distribution) -> int:
    """Over how many dimensions of the event masks inside a distribution go.

    Raises:
        ValueError: a mask below a transform, whose entries are others than those of the latent.

    """
    dims, batch_dim = 0, len(fn.batch_shape)
    while hasattr(fn, "base_dist"):
        if isinstance(fn, dist.MaskedDistribution):
            dims = max(dims, len(fn.batch_shape) - batch_dim)
        inside = fn.base_dist
        if isinstance(fn, torch.distributions.TransformedDistribution) and has_masks(inside):
            _refuse_mask(name)
        fn = inside
    return dims


def _refuse_mask(name: str) -> NoReturn:
    raise ValueError(
        f"the latent '{name}' is masked inside its distribution, .mask(...), by numbers that have no density of their "
        "own: mask single entries, Gamma(...).mask(m).to_event(1), or put the whole statement under `with "
        "pyro.poutine.mask(mask=...)`."
    )


def _refuse_moving_support(name: str) -> NoReturn:
    raise ValueError(
        f"the support of the latent '{name}' differs between rows, or depends on parameters: a derived guide maps "
        "to one support that stays. Declare the latent on a fixed one, scaled in the model, or write the guide."
    )


def _discrete(site: Site) -> tuple[str, int]:
    """The family of a discrete latent that has a head, and its number of options.

    Raises:
        ValueError: no head for it.

    """
    inside = innermost(site.distribution)
    if site.family == "Bernoulli":
        return site.family, 1
    if site.family in _DISCRETE and isinstance(inside, dist.Categorical | dist.OneHotCategorical):
        return site.family, int(inside.probs.shape[-1])
    raise ValueError(
        f"the latent '{site.name}' is discrete ({site.family}, event shape {tuple(site.distribution.event_shape)}) and "
        "has no head: have it summed out with infer={'enumerate': 'parallel'} if its support is finite, or write the "
        "guide."
    )


def latent_site(site: Site, depth: int) -> LatentSite:
    """A latent site of a model whose plates inside the rows have so many dimensions.

    Raises:
        ValueError: a discrete family without a head, or a support without a bijection.

    """
    name, fn, event = site.name, site.distribution, site.distribution.event_shape
    plates = tuple((f.name, f.size, f.dim) for f in site.plates if f.dim is not None and f.dim != -1)
    masked = _masked_dims(name, fn)
    if site.discrete:
        family, options = _discrete(site)
        labels = len(event) - (family == "OneHotCategorical")
        if masked not in (0, labels):
            _refuse_mask(name)
        return LatentSite(name, event, site.support, plates, depth, family, options, masked > 0)
    try:
        support = of_rows(site.support, len(event))
    except ValueError:
        _refuse_moving_support(name)
    if site.family == "VonMises":
        # torch says "real", over which it does not normalize
        support = constraints.interval(-math.pi, math.pi)
    if isinstance(fn, MarkovSequence):
        support = constraints.independent(constraints.real, 2)
    try:
        by_entry = bijection_to(base_constraint(support)).domain.event_dim == 0
        bijection_to(support)
    except NotImplementedError:
        raise ValueError(
            f"the latent '{name}' has the support {support}, to which no bijection is known: write its guide, or "
            "register one with torch.distributions.biject_to."
        ) from None
    if masked and not (by_entry and masked == len(event)):
        _refuse_mask(name)
    prior = family_of_prior(fn)
    return LatentSite(name, event, support, plates, depth, masked_entries=masked > 0, prior=prior)
