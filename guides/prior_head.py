"""Heads in the family of a latent's prior, on its own support: what conjugate models have as exact posteriors.

A normal in unconstrained coordinates is lighter than the posteriors of gamma, beta and Dirichlet priors, which fall
there as exponentials: importance weights are then unbounded, and their Pareto k is 1 in the end, although so many
draws as one makes do not show it. Within the prior's own family weights are bounded, or powers of the latent,
of which Pareto k tells the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro.distributions as dist
from pyro.distributions import MaskedDistribution, TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

from pyrovae.models.distributions import WrappedStudentT
from pyrovae.nn import MLP, positive
from pyrovae.pair.sites import base_constraint

CIRCULAR = "VonMises"


def _gamma(parameters: Sequence[Tensor], support: constraints.Constraint) -> TorchDistribution:
    concentration, rate = parameters
    return dist.Gamma(positive(concentration), positive(rate))


def _beta(parameters: Sequence[Tensor], support: constraints.Constraint) -> TorchDistribution:
    first, second = parameters
    entries = dist.Beta(positive(first), positive(second))
    ends = base_constraint(support)
    low, high = getattr(ends, "lower_bound", 0.0), getattr(ends, "upper_bound", 1.0)
    if isinstance(low, float | int) and isinstance(high, float | int) and (low, high) == (0, 1):
        return entries
    return dist.TransformedDistribution(entries, [dist.transforms.AffineTransform(low, high - low)])


def _dirichlet(parameters: Sequence[Tensor], support: constraints.Constraint) -> TorchDistribution:
    return dist.Dirichlet(positive(parameters[0]))


def _wrapped(parameters: Sequence[Tensor], support: constraints.Constraint) -> TorchDistribution:
    location, raw_scale = parameters
    return WrappedStudentT(location, positive(raw_scale))


@dataclass(frozen=True)
class PriorFamily:
    """How many raw parameters an entry has, and the distribution of them, over entries or over a whole simplex."""

    num_parameters: int
    distribution: Callable[[Sequence[Tensor], constraints.Constraint], TorchDistribution]


_FAMILIES = {
    "Gamma": PriorFamily(2, _gamma),
    "Exponential": PriorFamily(2, _gamma),
    "Chi2": PriorFamily(2, _gamma),
    "Beta": PriorFamily(2, _beta),
    "Uniform": PriorFamily(2, _beta),
    "Dirichlet": PriorFamily(1, _dirichlet),
    CIRCULAR: PriorFamily(2, _wrapped),
}


def family_of_prior(prior: Distribution) -> str:
    """The prior's family, if a head can have it; else nothing, as where it is a transformation of one."""
    while isinstance(prior, Independent | MaskedDistribution | dist.ExpandedDistribution):
        prior = prior.base_dist
    name = type(prior).__name__
    return name if name in _FAMILIES and not hasattr(prior, "base_dist") else ""


class PriorHead(nn.Module):
    """From features to the raw parameters of a posterior in the prior's family, and from these to the posterior.

    Args:
        family: as `family_of_prior` names it.
        in_features: of what the head reads.
        size: numbers of the latent in one row.
        hidden: sizes of the hidden layers.

    Example:
        >>> import torch
        >>> head = PriorHead("Gamma", 64, 3)
        >>> head.distribution(head(torch.zeros(5, 64)), constraints.positive).batch_shape
        torch.Size([5, 3])

    """

    def __init__(self, family: str, in_features: int, size: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.family = family
        self.network = MLP(in_features, (size,) * _FAMILIES[family].num_parameters, hidden)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The raw parameters, [..., size] each."""
        raw = self.network(*inputs)
        return (raw,) if isinstance(raw, Tensor) else tuple(raw)

    def distribution(
        self, parameters: Sequence[Tensor], support: constraints.Constraint
    ) -> TorchDistribution:
        """The posterior of raw parameters [..., *event]: over entries, a Dirichlet over the last dimension."""
        return _FAMILIES[self.family].distribution(parameters, support)
