"""Discrete latents that a model enumerates, summed out of a trace by Pyro's own variable elimination."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from pyrovae.pair.layout import Layout, by_row
from pyrovae.pair.sites import SAMPLES_PLATE, Site, log_density, sample_sites, sites_of


def sites_summed_out(trace: Any, num_samples: int, layout: Layout, broadcasts: bool) -> dict[str, Site]:
    """The sites of a trace run under enumeration.

    Latents that no enumerated one bears on keep a site of their own. The others are one site, log p of them
    all with the enumerated ones summed out; the observations are another, log p(x|z) = log p(x, z) - log p(z).
    """
    trace.symbolize_dims()
    traced = dict(sample_sites(trace))
    terms = {name: log_density(site) for name, site in traced.items()}

    def summed_out(names: Iterable[str]) -> Tensor:
        joint = _sum_out(trace, {name: (traced[name], terms[name]) for name in names})
        return by_row(joint, num_samples, layout, broadcasts)

    free = {n for n in layout.latents if terms[n].dim() <= -layout.sample_dim}
    sites = sites_of({name: traced[name] for name in free}, num_samples, layout, broadcasts)
    coupled = [name for name in layout.latents if name not in free]
    hidden = [name for name, site in traced.items() if not site["is_observed"] and name not in free]
    log_joint = summed_out(name for name in traced if name not in free)
    if coupled:
        log_prior = summed_out(hidden)
        first = sites["+".join(coupled)] = _joint_site(coupled, traced, log_prior)
        log_joint = log_joint - first.log_prob
    observed = list(layout.observed)
    sites["+".join(observed)] = _joint_site(observed, traced, log_joint)
    return sites


def _joint_site(names: list[str], traced: Mapping[str, Any], log_prob: Tensor) -> Site:
    first = traced[names[0]]
    return Site("+".join(names), first["is_observed"], first["value"], None, log_prob, None)


def _sum_out(trace: Any, chosen: Mapping[str, tuple[Any, Tensor]]) -> Tensor:
    """log of the sum over enumerated values of the product of some sites' densities, in Pyro's layout."""
    terms_by_plates: OrderedDict[frozenset[str], list[Any]] = OrderedDict()
    kept: set[str] = set()
    summed: set[str] = set()
    for site, log_prob in chosen.values():
        term = packed.pack(log_prob.clone(), site["infer"]["_dim_to_symbol"])
        # Packed tensors drop dimensions of size 1.
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.size > 1]
        symbols = {frame: trace.plate_to_symbol[frame.name] for frame in frames}
        kept |= {symbols[frame] for frame in frames if frame.dim == -1 or frame.name == SAMPLES_PLATE}
        terms_by_plates.setdefault(frozenset(symbols.values()), []).append(term)
        if site["infer"].get("_enumerate_dim") is not None:
            summed.add(site["infer"]["_enumerate_symbol"])
    # Pyro's contraction: sums over values inside products over inner plates, in a good order.
    joint = contract_to_tensor(terms_by_plates, summed, target_ordinal=frozenset(kept))
    return torch.atleast_1d(packed.unpack(joint, trace.symbol_to_dim))
