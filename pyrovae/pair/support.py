"""Whether observed values lie in their distributions' support, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import is_validation_enabled
from pyro.poutine.util import site_is_factor
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data import Batch
from pyrovae.pair.layout import Layout, as_the_program_takes, by_row
from pyrovae.pair.programs import Program
from pyrovae.pair.running import plain_trace
from pyrovae.pair.sites import Site, family_name, sample_sites


def check_support(model: Program, batch: Batch, first_row: int = 0) -> None:
    """Raise for the first row whose observed value lies outside its distribution's support.

    Latents are drawn from the prior; `first_row` is the place of these rows in the data set.
    """
    try:
        trace = plain_trace(model, batch)
    except ValueError as error:
        last = first_row + len(batch) - 1
        raise ValueError(
            f"{error}\n  (among rows {first_row} to {last} of the data, counted from the first of them)"
        ) from error
    for name, site in sample_sites(trace):
        if not site["is_observed"] or site_is_factor(site):
            continue
        value, distribution = site["value"], site["fn"]
        inside = distribution.support.check(value)
        if site["mask"] is not None:
            inside = inside | ~torch.as_tensor(site["mask"])
        if bool(inside.all()):
            continue
        by_row = inside.reshape(-1, inside.shape[-1]).all(0)
        row = int((~by_row).nonzero()[0, 0])
        raise ValueError(
            f"row {first_row + row} of the data lies outside the support of site '{name}': "
            f"{family_name(distribution)} takes {_allowed(distribution)}, and this row "
            f"holds {_offending(distribution, value, row)}. {_support_advice(distribution)}"
        )


def zero_outside(sites: Mapping[str, Site], layout: Layout, broadcasts: bool) -> dict[str, Site]:
    """The sites, with log density -inf where a given latent lies outside its distribution's support.

    With Pyro's validation on, such values have been refused already; without it, as in a trace, a family's formula
    goes on beyond its support.
    """
    if is_validation_enabled():
        return dict(sites)
    return {
        name: _zero_outside(site, layout, broadcasts) if name in layout.latents else site
        for name, site in sites.items()
    }


def _zero_outside(site: Site, layout: Layout, broadcasts: bool) -> Site:
    try:
        support = site.distribution.support
    except (AttributeError, NotImplementedError):  # as torch's own validation, which then lets pass
        return site
    if constraints.is_dependent(support):
        return site
    (value,) = as_the_program_takes(layout, {site.name: site.value}, broadcasts).values()
    outside = ~support.check(value)
    if site.mask is not None:
        outside = outside & site.mask
    outside = by_row(outside.to(site.log_prob.dtype), len(site.log_prob), layout, broadcasts) > 0
    return replace(site, log_prob=site.log_prob.masked_fill(outside, -math.inf))


def base_constraint(distribution: Any) -> Any:
    """What single numbers of a distribution's values must satisfy, without the dims that make an event."""
    constraint = distribution.support
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def _allowed(distribution: Any) -> str:
    """The constraint in words; bounds as numbers where all entries have the same."""
    constraint = base_constraint(distribution)
    bounds = [getattr(constraint, name, None) for name in ("lower_bound", "upper_bound")]
    if not any(isinstance(bound, Tensor) and bound.numel() > 1 for bound in bounds):
        return f"{constraint} values"
    whole = "whole numbers" if "nteger" in type(constraint).__name__ else "numbers"
    low, high = (torch.as_tensor(math.nan if bound is None else bound).reshape(-1) for bound in bounds)
    if bool((low == low[0]).all()) and bool((high == high[0]).all()):
        return f"{whole} from {float(low[0]):g} to {float(high[0]):g}"
    return f"{whole} within bounds that differ between entries"


def _offending(distribution: Any, value: Tensor, row: int) -> str:
    row_dim = value.dim() - 1 - len(distribution.event_shape)
    entries = value.select(row_dim, row)
    inside = base_constraint(distribution).check(value)
    if inside.shape == value.shape:  # of each entry by itself
        entries = entries[~inside.select(row_dim, row)]
    return ", ".join(f"{entry:.4g}" for entry in entries.reshape(-1)[:3].tolist())


def _support_advice(distribution: Any) -> str:
    advice = {
        "Bernoulli": "Binarize the data, e.g. (x > 0.5).float(), or use a continuous likelihood such as Normal.",
        "Poisson": "Counts are whole and not negative.",
    }
    return advice.get(
        family_name(distribution), "Transform the data or choose a likelihood that covers them."
    )
