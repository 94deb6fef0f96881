"""Rates in closed form where torch or Pyro has one, and of every entry of a latent where entries can be told apart."""

from __future__ import annotations

import dataclasses

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import (
    Distribution,
    HalfCauchy,
    HalfNormal,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyrovae.pair.sites import ScoredSite, family_name


def analytic_kl(q: ScoredSite, p: ScoredSite, value: Tensor) -> Tensor | None:
    """KL(q || p) in Pyro's batch layout where torch or Pyro registers a closed form that is right.

    Where q and p mask different entries inside their distributions, these are log q - log p at the value, as the
    program takes it.
    """
    if q.mask is not None or p.mask is not None:
        return None  # masks act on the sampled terms, site by site
    if q.family == "Delta":
        return None  # its registered KL leaves out the log density that it carries
    shape = torch.broadcast_shapes(q.distribution.batch_shape, p.distribution.batch_shape)
    return _kl(q.distribution.expand(shape), p.distribution.expand(shape), value)


def _kl(q: Distribution, p: Distribution, value: Tensor) -> Tensor | None:
    if isinstance(q, Independent) and isinstance(p, Independent):
        shared = min(q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims)
        kl = _kl(_without_event_dims(q, shared), _without_event_dims(p, shared), value)
        return None if kl is None else sum_rightmost(kl, shared)
    if isinstance(q, MaskedDistribution) and isinstance(p, MaskedDistribution):
        kl = _kl(q.base_dist, p.base_dist, value)
        if kl is None:
            return None
        in_q, in_p = (torch.as_tensor(d._mask, device=kl.device) for d in (q, p))
        sampled = q.log_prob(value) - p.log_prob(value)
        return torch.where(in_q == in_p, torch.where(in_q, kl, 0.0), sampled)
    if _folds(q) or _folds(p):
        return None
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _without_event_dims(distribution: Independent[Distribution], number: int) -> Distribution:
    rest = distribution.reinterpreted_batch_ndims - number
    base: Distribution = distribution.base_dist
    return Independent(base, rest) if rest else base


def _folds(distribution: Distribution) -> bool:
    """Whether several points become one, so that the divergence is not that of what was folded.

    It is that where both are symmetric, as half-normal and half-Cauchy distributions are before.
    """
    while hasattr(distribution, "base_dist") and not isinstance(distribution, HalfNormal | HalfCauchy):
        if any(not transform.bijective for transform in getattr(distribution, "transforms", ())):
            return True
        distribution = distribution.base_dist
    return False


def split(site: ScoredSite) -> ScoredSite | None:
    """The site with each entry of its event in the batch; None where entries are not independent."""
    entries = site.distribution
    while isinstance(entries, Independent):
        entries = entries.base_dist
    if entries.event_shape or family_name(entries) == "Delta":
        return None  # the density of a point is that of what it follows from
    return dataclasses.replace(site, distribution=entries, mask=site.mask_of_entries)


def with_own_marginals(site: ScoredSite) -> ScoredSite | None:
    """A normal site with covariances as if its numbers were independent, each with its own marginal; else None."""
    normal = site.distribution
    if not isinstance(normal, MultivariateNormal | LowRankMultivariateNormal):
        return None
    margins = Independent(Normal(normal.mean, normal.variance.sqrt()), 1)
    return dataclasses.replace(site, distribution=margins)


def entry_log_ratio(q: ScoredSite, p: ScoredSite, value: Tensor) -> Tensor:
    """log q - log p of every entry of a value, for sites that are `split`."""
    log_q, log_p = (dataclasses.replace(site, value=value).log_density() for site in (q, p))
    return log_q - log_p
