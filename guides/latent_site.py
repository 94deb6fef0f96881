"""A latent site of a model as a derived guide sees it: from a head's numbers to the site's value, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.models.sequences import MarkovSequence
from pyrovae.pair.bijections import bijection_to, is_real
from pyrovae.pair.sites import Site, base_constraint

JOINT = "_latents"

_DISCRETE: dict[str, Callable[[Tensor], TorchDistribution]] = {
    "Bernoulli": lambda logits: dist.Bernoulli(logits=logits.squeeze(-1)),
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

    @property
    def unconstrained_shape(self) -> torch.Size:
        """Of one draw of one row, before the map to the support; of the logits, if it is discrete."""
        if self.discrete:
            return torch.Size([self.num_options])
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
    def num_features(self) -> int:
        """Numbers that it hands to the heads below it."""
        return self.size

    def sample(self, head: nn.Module, inputs: list[Tensor]) -> Tensor:
        """Draw the site from its head; returns the unconstrained draw as features [..., B, F]."""
        if self.discrete:
            logits = self._spread(head(*inputs), self.unconstrained_shape)
            value = self._in_plates(_DISCRETE[self.discrete](logits))
            if self.discrete == "Categorical":
                value = nn.functional.one_hot(value, self.num_options)
            return self._gather(
                value.to(logits.dtype), len(self.unconstrained_shape) * (self.discrete != "Bernoulli")
            )
        posterior = head(*inputs)
        event_dim = len(self.unconstrained_shape)
        if not self.depth and self.unconstrained_shape == posterior.event_shape:
            base = posterior  # as it is: its KL has a closed form
        elif isinstance(posterior, dist.Independent) and isinstance(posterior.base_dist, dist.Normal):
            location, scale = (
                self._spread(p, self.unconstrained_shape)
                for p in (posterior.base_dist.loc, posterior.base_dist.scale)
            )
            base = dist.Normal(location, scale).to_event(event_dim)
        else:
            draw = pyro.sample(f"{JOINT}_{self.name}", posterior, infer={"is_auxiliary": True})
            return self.place(draw)
        bijection = bijection_to(self.support)
        if is_real(self.support):
            return self._gather(self._in_plates(base), event_dim)
        value = self._in_plates(dist.TransformedDistribution(base, [bijection]))
        return self._gather(bijection.inv(value), event_dim)

    def place(self, draw: Tensor) -> Tensor:
        """Put unconstrained numbers [..., B, size] at the site, their density being counted already."""
        unconstrained = self._spread(draw, self.unconstrained_shape)
        bijection = bijection_to(self.support)
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


def _refuse_inner_mask(name: str, fn: object) -> None:
    """A mask inside the distribution cannot be seen from outside, and the guide would count what it leaves out."""
    while fn is not None:
        if isinstance(fn, dist.MaskedDistribution):
            raise ValueError(
                f"the latent '{name}' is masked inside its distribution, .mask(...), where no guide can see it: put "
                "the sample statement under `with pyro.poutine.mask(mask=...)` instead."
            )
        fn = getattr(fn, "base_dist", None)


def _refuse_moving_support(name: str, support: constraints.Constraint) -> None:
    bounds = [getattr(base_constraint(support), side, None) for side in ("lower_bound", "upper_bound")]
    tensors = [bound for bound in bounds if isinstance(bound, Tensor)]
    if any(b.requires_grad or bool((b != b.reshape(-1)[0]).any()) for b in tensors if b.numel()):
        raise ValueError(
            f"the support of the latent '{name}' differs between rows, or depends on parameters: a derived guide maps "
            "to one support that stays. Declare the latent on a fixed one, scaled in the model, or write the guide."
        )


def latent_site(site: Site, depth: int) -> LatentSite:
    """A latent site of a model whose plates inside the rows have so many dimensions.

    Raises:
        ValueError: a discrete family without a head, or a support without a bijection.

    """
    name, fn, family, support = site.name, site.distribution, site.family, site.support
    plates = tuple((f.name, f.size, f.dim) for f in site.plates if f.dim is not None and f.dim != -1)
    _refuse_inner_mask(name, fn)
    _refuse_moving_support(name, support)
    if family == "VonMises":
        support = constraints.interval(
            -math.pi, math.pi
        )  # torch says "real", over which it does not normalize
    if getattr(support, "is_discrete", False):
        if family == "Bernoulli" and not fn.event_shape:
            options = 1
        elif family in _DISCRETE and isinstance(fn, dist.Categorical | dist.OneHotCategorical):
            options = int(fn.probs.shape[-1])
        else:
            raise ValueError(
                f"the latent '{name}' is discrete ({family}, event shape {tuple(fn.event_shape)}) and has no head: "
                "have it summed out with infer={'enumerate': 'parallel'} if its support is finite, put it into a plate "
                "of single sites, or write the guide."
            )
        return LatentSite(name, fn.event_shape, support, plates, depth, family, options)
    if isinstance(fn, MarkovSequence):
        support = constraints.independent(constraints.real, 2)
    try:
        bijection_to(support)
    except NotImplementedError:
        raise ValueError(
            f"the latent '{name}' has the support {support}, to which no bijection is known: write its guide, or "
            "register one with torch.distributions.biject_to."
        ) from None
    return LatentSite(name, fn.event_shape, support, plates, depth)
