"""Discrete latents that a model enumerates, summed out of a trace by Pyro's own variable elimination."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from pyro.distributions import MaskedDistribution
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.poutine import Trace
from torch import Tensor

from pyrovae.pair.layout import Layout, by_row
from pyrovae.pair.sites import JointTerm, Site, Term, scored_sites
from pyrovae.pair.traces import sites_in

SAMPLES_PLATE = "_pyrovae_samples"


def sites_summed_out(trace: Trace, num_samples: int, layout: Layout, broadcasts: bool) -> dict[str, Term]:
    """The sites of a trace run under enumeration.

    Latents that no enumerated one bears on keep a site of their own. The others are one term, log p of them
    all with the enumerated ones summed out; the observations are another, log p(x|z) = log p(x, z) - log p(z).
    """
    trace.symbolize_dims()
    sites = sites_in(trace)
    densities = {name: _log_density(site) for name, site in sites.items()}

    def summed_out(names: Iterable[str]) -> Tensor:
        joint = _sum_out(trace, {name: (sites[name], densities[name]) for name in names})
        return by_row(joint, num_samples, layout, broadcasts)

    free = [n for n in layout.latents if densities[n].dim() <= -layout.sample_dim]
    terms: dict[str, Term] = {
        **scored_sites({name: sites[name] for name in free}, num_samples, layout, broadcasts)
    }
    coupled = [name for name in layout.latents if name not in free]
    hidden = [name for name, site in sites.items() if not site.observed and name not in free]
    log_joint = summed_out(name for name in sites if name not in free)
    if coupled:
        prior = JointTerm("+".join(coupled), False, summed_out(hidden))
        terms[prior.name] = prior
        log_joint = log_joint - prior.log_prob
    likelihood = JointTerm("+".join(layout.observed), True, log_joint)
    return {**terms, likelihood.name: likelihood}


def parts_summed_out(trace: Trace) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) of a trace run under enumeration, each summed over its rows."""
    trace.symbolize_dims()
    every = {name: (site, _log_density(site)) for name, site in sites_in(trace).items()}
    log_joint = _sum_out(trace, every).sum()
    hidden = {name: chosen for name, chosen in every.items() if not chosen[0].observed}
    if all(site.enumerated for site, _ in hidden.values()):
        return log_joint, torch.zeros_like(log_joint)
    log_prior = _sum_out(trace, hidden).sum()
    return log_joint - log_prior, log_prior


def _log_density(site: Site) -> Tensor:
    """As the site has it; of one that is summed out without its masks.

    Where a mask leaves it out and nothing depends on it, its probabilities sum to 1. With the mask each of its k
    values would count 1, and their sum k.
    """
    if not site.enumerated:
        return site.log_density()
    distribution = site.distribution
    while isinstance(distribution, MaskedDistribution):
        distribution = distribution.base_dist
    return replace(site, mask=None, distribution=distribution).log_density()


def _sum_out(trace: Trace, chosen: Mapping[str, tuple[Site, Tensor]]) -> Tensor:
    """log of the sum over enumerated values of the product of some sites' densities, in Pyro's layout."""
    terms_by_plates: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    kept: set[str] = set()
    summed: set[str] = set()
    for site, log_prob in chosen.values():
        term = packed.pack(log_prob.clone(), site.infer["_dim_to_symbol"])
        # Packed tensors drop dimensions of size 1.
        symbols = {plate: trace.plate_to_symbol[plate.name] for plate in site.plates if plate.size > 1}
        kept |= {symbols[plate] for plate in symbols if plate.dim == -1 or plate.name == SAMPLES_PLATE}
        terms_by_plates.setdefault(frozenset(symbols.values()), []).append(term)
        if site.enumerated:
            summed.add(site.infer["_enumerate_symbol"])
    # Pyro's contraction: sums over values inside products over inner plates, in a good order.
    joint = contract_to_tensor(terms_by_plates, summed, target_ordinal=frozenset(kept))
    return torch.atleast_1d(packed.unpack(joint, trace.symbol_to_dim))
