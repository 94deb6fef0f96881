"""Rates in closed form where torch or Pyro has one, and of every entry of a latent where entries can be told apart."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyrovae.pair.sites import ScoredSite, family_name


def analytic_kl(q: ScoredSite, p: ScoredSite) -> Tensor | None:
    """KL(q || p) in Pyro's batch layout where torch or Pyro registers a closed form."""
    if q.mask is not None or p.mask is not None:
        return None  # masks act on the sampled terms, site by site
    if q.family == "Delta":
        return None  # its registered KL leaves out the log density that it carries
    shape = torch.broadcast_shapes(q.distribution.batch_shape, p.distribution.batch_shape)
    try:
        kl: Tensor = kl_divergence(q.distribution.expand(shape), p.distribution.expand(shape))
    except NotImplementedError:
        return None
    return kl


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
