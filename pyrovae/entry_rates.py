"""The rate of every entry of a latent, where both q and p let it be told apart from the others'."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent

from pyrovae.layout import as_the_program_takes, canonical, rows_first
from pyrovae.rows import RowTerms, analytic_kl
from pyrovae.sites import Site


def entry_rates(terms: RowTerms, name: str) -> Tensor | None:
    """The rate of every entry of one latent site, [S, B, *inner plates, *event], in nats; None where there is none.

    A site's rate is the sum of its entries' where q and p both make them independent: then each entry has a
    closed form (given what was drawn before, see `RowTerms.rate`) or log q - log p at its draws. Where either has a
    covariance, a flow or a mixture over the whole event, only the site as a whole has a rate.
    """
    q, p = terms.guide_sites[name], terms.model_sites.get(name)
    if p is None or p.distribution is None:
        return None  # enumeration couples it with other sites
    site = terms.layout.latents[name]
    q_entries, p_entries = (_entries(s.distribution) for s in (q, p))
    if q_entries.event_shape or p_entries.event_shape:
        return None
    event_dim = len(site.event_shape)
    split_q, split_p = (_split(s, entries, event_dim) for s, entries in ((q, q_entries), (p, p_entries)))
    rates = analytic_kl(split_q, split_p) if terms.given_before(name) else None
    if rates is None:
        value = as_the_program_takes(terms.layout, {name: q.value}, terms.broadcasts)[name]
        rates = _log_prob(split_q, value) - _log_prob(split_p, value)
    S, B = q.log_prob.shape
    inside = canonical(rates, S, terms.layout, event_dim, broadcasts=terms.broadcasts)
    by_row = rows_first(inside, site)
    return by_row.expand(S, B, *site.inner_sizes, *site.event_shape)


def _entries(distribution: Any) -> Any:
    """What is independent within an event, taken apart."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _split(site: Site, entries: Any, event_dim: int) -> Site:
    """The site with each entry of its event in the batch."""
    mask = site.mask
    if isinstance(mask, Tensor):
        mask = mask.reshape(mask.shape + (1,) * event_dim)
    return dataclasses.replace(site, distribution=entries, mask=mask)


def _log_prob(site: Site, value: Tensor) -> Tensor:
    terms: Tensor = site.distribution.log_prob(value)
    if site.mask is None:
        return terms
    return torch.where(torch.as_tensor(site.mask, device=terms.device), terms, 0.0)
