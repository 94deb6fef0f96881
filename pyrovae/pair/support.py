"""Whether observed values lie in their distributions' support, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pyro
import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor
from torch.distributions import Distribution

from pyrovae.data import Batch
from pyrovae.pair.layout import Layout, as_the_program_takes, by_row
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import ScoredSite, Site, Term, base_constraint
from pyrovae.pair.traces import sites_of


def check_support(model: Program, batch: Batch, first_row: int = 0) -> None:
    """Raise for the first row whose observed value lies outside its distribution's support.

    A program that gives a distribution `validate_args=False` is taken at its word. Latents are drawn from the prior;
    `first_row` is the place of these rows in the data set.
    """
    try:
        sites = sites_of(model, batch)
    except ValueError as error:
        last = first_row + len(batch) - 1
        raise ValueError(
            f"{error}\n  (among rows {first_row} to {last} of the data, counted from the first of them)"
        ) from error
    for name, site in sites.items():
        if not site.observed or site.factor:
            continue
        outside = site.outside
        if not bool(outside.any()) or _lets_pass(name, sites, model, batch):
            continue
        by_row = outside.reshape(-1, outside.shape[-1]).any(0)
        row = int(by_row.nonzero()[0, 0])
        raise ValueError(
            f"row {first_row + row} of the data lies outside the support of site '{name}': "
            f"{site.family} takes {_allowed(site)}, and this row "
            f"holds {_offending(site, row)}. {_support_advice(site)}"
        )


def zero_outside(sites: Mapping[str, Term], layout: Layout, broadcasts: bool) -> dict[str, Term]:
    """The sites, with log density -inf where a given latent lies outside its distribution's support.

    With Pyro's validation on, such values have been refused already; without it, as in a trace, a family's formula
    goes on beyond its support.
    """
    if is_validation_enabled():
        return dict(sites)
    return {
        name: _zero_outside(site, layout, broadcasts)
        if isinstance(site, ScoredSite) and name in layout.latents
        else site
        for name, site in sites.items()
    }


def _zero_outside(site: ScoredSite, layout: Layout, broadcasts: bool) -> ScoredSite:
    (value,) = as_the_program_takes(layout, {site.name: site.value}, broadcasts).values()
    terms = replace(site, value=value).outside.to(site.log_prob.dtype)
    outside = by_row(terms, len(site.log_prob), layout, broadcasts) > 0
    return replace(site, log_prob=site.log_prob.masked_fill(outside, -math.inf))


def _lets_pass(name: str, sites: Mapping[str, Site], model: Program, batch: Batch) -> bool:
    """Whether the program itself says `validate_args=False` of a site's distribution."""
    if not _is_unchecked(sites[name].distribution):
        return False
    if Distribution._validate_args:
        return True
    # Where validation is off as a whole, expanded distributions say so too.
    try:
        with pyro.validation_enabled(True):
            return _is_unchecked(sites_of(model, batch)[name].distribution)
    except ValueError:
        return False


def _is_unchecked(distribution: Distribution) -> bool:
    """Whether it, or what it is around, has checks of its own switched off."""
    if vars(distribution).get("_validate_args") is False:
        return True
    return hasattr(distribution, "base_dist") and _is_unchecked(distribution.base_dist)


def _allowed(site: Site) -> str:
    """The constraint in words; bounds as numbers where all entries have the same."""
    constraint = base_constraint(site.support)
    bounds = [getattr(constraint, name, None) for name in ("lower_bound", "upper_bound")]
    if not any(isinstance(bound, Tensor) and bound.numel() > 1 for bound in bounds):
        return f"{constraint} values"
    whole = "whole numbers" if "nteger" in type(constraint).__name__ else "numbers"
    low, high = (torch.as_tensor(math.nan if bound is None else bound).reshape(-1) for bound in bounds)
    if bool((low == low[0]).all()) and bool((high == high[0]).all()):
        return f"{whole} from {float(low[0]):g} to {float(high[0]):g}"
    return f"{whole} within bounds that differ between entries"


def _offending(site: Site, row: int) -> str:
    entries = site.value.select(site.row_dim, row)
    inside = base_constraint(site.support).check(site.value)
    if inside.shape == site.value.shape:  # of each entry by itself
        entries = entries[~inside.select(site.row_dim, row)]
    return ", ".join(f"{entry:.4g}" for entry in entries.reshape(-1)[:3].tolist())


def _support_advice(site: Site) -> str:
    advice = {
        "Bernoulli": "Binarize the data, e.g. (x > 0.5).float(), or grey pixels from 0 to 1 afresh in each batch, "
        "fit(..., transform=torch.bernoulli); or use a continuous likelihood such as Normal. A program that scores "
        "them all the same says so, Bernoulli(..., validate_args=False); that is no density of x then.",
        "Poisson": "Counts are whole and not negative.",
    }
    return advice.get(site.family, "Transform the data or choose a likelihood that covers them.")
