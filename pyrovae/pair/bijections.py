"""Which bijection a support has: from real numbers of its unconstrained coordinates to values in it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transforms
from torch.distributions.mixture_same_family import MixtureSameFamilyConstraint  # type: ignore[attr-defined]
from torch.distributions.transforms import Transform

_BOUNDS = ("lower_bound", "upper_bound")


def bijection_to(support: constraints.Constraint) -> Transform:
    """What `torch.distributions.biject_to` has for a support, and for that of a mixture what it has for a component's.

    Raises:
        NotImplementedError: no bijection is known.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> parts = dist.Beta(torch.ones(3), 1.0)
        >>> bijection_to(dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), parts).support)
        SigmoidTransform()

    """
    bijection: Transform = biject_to(_without_mixtures(support))
    return bijection


def slow_bijection_to(support: constraints.Constraint) -> Transform:
    """As `bijection_to`, but to half-lines by a softplus, which grows as its argument and not as its exponential.

    What is drawn far out then stays of its size: under Student's t the mean of an exponential is infinite.

    Example:
        >>> bijection = slow_bijection_to(constraints.greater_than(1.0))
        >>> bijection(torch.tensor([-100.0, 100.0]))
        tensor([  1., 101.])

    """
    if isinstance(support, constraints.independent):
        return transforms.IndependentTransform(
            slow_bijection_to(support.base_constraint), support.reinterpreted_batch_ndims
        )
    support = _without_mixtures(support)
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        return _softplus_from(support.lower_bound, 1.0)
    if isinstance(support, constraints.less_than):
        return _softplus_from(support.upper_bound, -1.0)
    return bijection_to(support)


def _softplus_from(end: Tensor | float, sign: float) -> Transform:
    if sign > 0 and isinstance(end, float | int) and end == 0:
        return _Softplus()
    return transforms.ComposeTransform([_Softplus(), transforms.AffineTransform(end, sign)])


class _Softplus(transforms.SoftplusTransform):
    """Positive also where the softplus of a number is below all others of its dtype."""

    def _call(self, x: Tensor) -> Tensor:
        return torch.nn.functional.softplus(x).clamp(min=torch.finfo(x.dtype).tiny)


def is_real(support: constraints.Constraint) -> bool:
    """Whether a support is all real numbers, so that nothing is to be mapped.

    By the kind of the constraint: that of a copied or unpickled site is another object than torch's own.
    """
    if isinstance(support, MixtureSameFamilyConstraint | constraints.independent):
        return is_real(support.base_constraint)
    return isinstance(support, type(constraints.real))


def of_rows(support: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    """A support whose bounds are the same in all rows, without their dimension over rows; numbers where all are one.

    Raises:
        ValueError: bounds that differ between rows, or that have gradients.

    """

    def of_one(bound: Tensor) -> Tensor | float:
        row_dim = bound.dim() - 1 - event_dim
        if bound.requires_grad:
            raise ValueError
        if row_dim >= 0:
            first = bound.narrow(row_dim, 0, 1)
            if bool((bound != first).any()):
                raise ValueError
            bound = first
        while bound.dim() > event_dim and len(bound) == 1:
            bound = bound[0]
        # A number is on every device.
        return bound.reshape(-1)[0].item() if bool((bound == bound.reshape(-1)[:1]).all()) else bound

    return _with_bounds(support, of_one)


def on_device(support: constraints.Constraint, device: torch.device) -> constraints.Constraint:
    """A support whose bounds are where they are needed."""
    return _with_bounds(support, lambda bound: bound.to(device))


def _with_bounds(
    support: constraints.Constraint, change: Callable[[Tensor], Tensor | float]
) -> constraints.Constraint:
    if isinstance(support, constraints.independent):
        inside = _with_bounds(support.base_constraint, change)
        return constraints.independent(inside, support.reinterpreted_batch_ndims)
    bounds = {side: getattr(support, side, None) for side in _BOUNDS}
    changed = {side: change(bound) for side, bound in bounds.items() if isinstance(bound, Tensor)}
    if changed:
        support = copy.copy(support)
        vars(support).update(changed)
    return support


def _without_mixtures(support: constraints.Constraint) -> constraints.Constraint:
    if isinstance(support, constraints.independent):
        base = _without_mixtures(support.base_constraint)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    if isinstance(support, MixtureSameFamilyConstraint):
        return _of_one_component(_without_mixtures(support.base_constraint), support.event_dim)
    return support


def _of_one_component(support: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    """What all components have in common; bounds have a dimension over components left of those of the event."""
    if isinstance(support, constraints.independent):
        base = _of_one_component(support.base_constraint, event_dim)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    of_one = copy.copy(support)
    for side in _BOUNDS:
        bound = getattr(support, side, None)
        if isinstance(bound, Tensor) and bound.dim() > event_dim:
            first = bound.narrow(-1 - event_dim, 0, 1)
            if bool((bound != first).any()):
                raise NotImplementedError("the components of a mixture have different supports")
            setattr(of_one, side, first.squeeze(-1 - event_dim))
    return of_one
