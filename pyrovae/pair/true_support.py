"""Where a distribution's values may lie, also where it states too much of that, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution, constraints
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

End: TypeAlias = Tensor | float | None
"""Of a range; None where it has none."""

Range: TypeAlias = tuple[End, End]


def true_support(distribution: Distribution) -> constraints.Constraint:
    """The support that a distribution states, with two exceptions.

    Of a transformed distribution torch states what its last transform can give. Where it is given a part of the
    numbers alone, as an affine map of a beta distribution is, and maps entry by entry, the part's ends are mapped. A
    distribution that states none, as Pyro's wrapper of zuko's, is taken to cover all real numbers.

    Example:
        >>> import pyro.distributions as dist
        >>> shifted = dist.TransformedDistribution(dist.Beta(2.0, 2.0), [dist.transforms.AffineTransform(-1, 2)])
        >>> shifted.support, true_support(shifted)
        (Real(), Interval(lower_bound=-1.0, upper_bound=1.0))

    """
    if isinstance(distribution, Independent):
        inside = true_support(distribution.base_dist)
        return constraints.independent(inside, distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, MaskedDistribution):
        return true_support(distribution.base_dist)
    event_dim = len(distribution.event_shape)
    try:
        stated = cast("object", distribution.support)
    except (AttributeError, NotImplementedError):
        stated = None
    if not isinstance(stated, constraints.Constraint) or constraints.is_dependent(stated):
        return _of_events(constraints.real, event_dim)
    if not isinstance(distribution, TransformedDistribution) or not _as_torch_has_it(distribution):
        return stated
    found = _range_of(_of_entries(true_support(distribution.base_dist)))
    for transform in _parts(distribution.transforms):
        found = None if found is None else _mapped(transform, found)
    return stated if found is None else _of_events(_between(*found), event_dim)


def _as_torch_has_it(distribution: Distribution) -> bool:
    """Whether a transformed distribution's support is torch's, and not stated by a class of its own."""
    own = next(
        (vars(kind)["support"] for kind in type(distribution).__mro__ if "support" in vars(kind)), None
    )
    return own is vars(TransformedDistribution)["support"]


def _mapped(transform: Transform, given: Range) -> Range | None:
    """What an increasing or decreasing function of single numbers makes of a range; None of any other."""
    if not transform.bijective or transform.domain.event_dim or transform.codomain.event_dim:
        return None
    domain, codomain = _range_of(transform.domain), _range_of(transform.codomain)
    if domain is None or codomain is None:
        return None
    if all(_same(a, b) for a, b in zip(given, domain, strict=True)):
        return codomain
    try:
        of_ends = transform.with_cache(0)  # a flow's cache is of the numbers that it was drawn from
    except NotImplementedError:
        return None
    low, high = (None if end is None else of_ends(torch.as_tensor(end)) for end in given)
    if low is not None and high is not None:
        return torch.minimum(low, high), torch.maximum(low, high)
    sign = torch.as_tensor(transform.sign)
    if bool((sign > 0).all()):
        return codomain[0] if low is None else low, codomain[1] if high is None else high
    if bool((sign < 0).all()):
        return codomain[0] if high is None else high, codomain[1] if low is None else low
    return None


def _parts(transforms: Sequence[Transform]) -> list[Transform]:
    """Transforms one after another, none of them a composition, or one of a larger event than it needs."""
    found: list[Transform] = []
    for transform in transforms:
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        found += _parts(transform.parts) if isinstance(transform, ComposeTransform) else [transform]
    return found


def _range_of(constraint: constraints.Constraint) -> Range | None:
    """The ends of a constraint of single numbers; None of other constraints."""
    if constraint.is_discrete or constraint.event_dim:
        return None
    if isinstance(constraint, type(constraints.real)):
        return None, None
    if not hasattr(constraint, "lower_bound") and not hasattr(constraint, "upper_bound"):
        return None
    return getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)


def _between(low: End, high: End) -> constraints.Constraint:
    low, high = (_as_number(end) for end in (low, high))
    if low is None:
        return constraints.real if high is None else constraints.less_than(high)
    return constraints.greater_than(low) if high is None else constraints.interval(low, high)


def _as_number(end: End) -> End:
    return end.item() if isinstance(end, Tensor) and end.numel() == 1 and not end.requires_grad else end


def _same(a: End, b: End) -> bool:
    if a is None or b is None:
        return a is b
    return not any(isinstance(end, Tensor) and end.requires_grad for end in (a, b)) and bool(
        (torch.as_tensor(a) == torch.as_tensor(b)).all()
    )


def _of_entries(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _of_events(constraint: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    return constraints.independent(constraint, event_dim) if event_dim else constraint
