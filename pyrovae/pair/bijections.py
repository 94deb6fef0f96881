"""Which bijection a support has: from real numbers of its unconstrained coordinates to values in it."""

from __future__ import annotations

import copy

from torch import Tensor
from torch.distributions import biject_to, constraints
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


def is_real(support: constraints.Constraint) -> bool:
    """Whether a support is all real numbers, so that nothing is to be mapped.

    By the kind of the constraint: that of a copied or unpickled site is another object than torch's own.
    """
    if isinstance(support, MixtureSameFamilyConstraint | constraints.independent):
        return is_real(support.base_constraint)
    return isinstance(support, type(constraints.real))


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
