"""Rates in closed form where torch or Pyro has one, and of every entry of a latent where entries can be told apart."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyrovae.pair.layout import as_the_program_takes, canonical, rows_first
from pyrovae.pair.sites import Site, family_name

if TYPE_CHECKING:
    from pyrovae.pair.terms import RowTerms


def analytic_kl(q: Site, p: Site) -> Tensor | None:
    """KL(q || p) in Pyro's batch layout where torch or Pyro registers a closed form."""
    if p.distribution is None:
        return None  # one of several sites that enumeration couples
    if q.mask is not None or p.mask is not None:
        return None  # masks act on the sampled terms, site by site
    if family_name(q.distribution) == "Delta":
        return None  # its registered KL leaves out the log density that it carries
    shape = torch.broadcast_shapes(q.distribution.batch_shape, p.distribution.batch_shape)
    try:
        kl: Tensor = kl_divergence(q.distribution.expand(shape), p.distribution.expand(shape))
    except NotImplementedError:
        return None
    return kl


def entry_rates(terms: RowTerms, name: str, *, sampled: bool = True) -> Tensor | None:
    """The rate of every entry of one latent site, [S, B, *inner plates, *event], in nats; None where there is none.

    A site's rate is the sum of its entries' where q and p both make them independent: then each entry has a
    closed form (given what was drawn before, see `RowTerms.rate`) or, if `sampled`, log q - log p at its draws. Where
    either has a covariance, a flow or a mixture over the whole event, only the site as a whole has a rate.
    """
    return _rates(terms, terms.guide_sites[name], terms.model_sites.get(name), sampled)


def marginal_rates(terms: RowTerms, name: str) -> Tensor | None:
    """KL(q(z_k|x) || p(z_k)) of every entry's own marginal, for a normal q with covariances; else None.

    They say which entries q moves away from the prior. What entries tell together is missing from their sum.
    """
    q = terms.guide_sites[name]
    normal = q.distribution
    if not isinstance(normal, MultivariateNormal | LowRankMultivariateNormal):
        return None
    margins = Independent(Normal(normal.mean, normal.variance.sqrt()), 1)
    return _rates(terms, dataclasses.replace(q, distribution=margins), terms.model_sites.get(name), True)


def _rates(terms: RowTerms, q: Site, p: Site | None, sampled: bool) -> Tensor | None:
    if p is None or p.distribution is None:
        return None  # enumeration couples it with other sites
    site = terms.layout.latents[q.name]
    event_dim = len(site.event_shape)
    split_q, split_p = (_split(s, event_dim) for s in (q, p))
    if split_q is None or split_p is None:
        return None
    rates = analytic_kl(split_q, split_p) if terms.given_before(q.name) else None
    if rates is None and not sampled:
        return None
    if rates is None:
        value = as_the_program_takes(terms.layout, {q.name: q.value}, terms.broadcasts)[q.name]
        rates = _log_prob(split_q, value) - _log_prob(split_p, value)
    S, B = q.log_prob.shape
    inside = canonical(rates, S, terms.layout, event_dim, broadcasts=terms.broadcasts)
    by_row = rows_first(inside, site)
    return by_row.expand(S, B, *site.inner_sizes, *site.event_shape)


def _split(site: Site, event_dim: int) -> Site | None:
    """The site with each entry of its event in the batch; None where entries are not independent."""
    entries: Any = site.distribution
    while isinstance(entries, Independent):
        entries = entries.base_dist
    if entries.event_shape or family_name(entries) == "Delta":
        return None  # the density of a point is that of what it follows from
    return dataclasses.replace(site, distribution=entries, mask=over_entries(site.mask, event_dim))


def over_entries(mask: Any, event_dim: int) -> Any:
    """A site's mask with a dimension of one for each dimension of its event."""
    return mask.reshape(mask.shape + (1,) * event_dim) if isinstance(mask, Tensor) else mask


def _log_prob(site: Site, value: Tensor) -> Tensor:
    terms: Tensor = site.distribution.log_prob(value)
    if site.mask is None:
        return terms
    return torch.where(torch.as_tensor(site.mask, device=terms.device), terms, 0.0)
