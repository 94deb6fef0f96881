"""Whether observed values lie in their distributions' support, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyro
import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor
from torch.distributions import Distribution

from pyrovae.data import Batch
from pyrovae.frames import Columns, in_words
from pyrovae.pair.absence import PartlyAbsent
from pyrovae.pair.dtype_advice import as_binary
from pyrovae.pair.label_advice import labels_explained
from pyrovae.pair.layout import Layout, as_the_program_takes, by_row
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import ScoredSite, Site, Term, base_constraint
from pyrovae.pair.traces import sites_of


def check_support(
    model: Program,
    batch: Batch,
    places: Sequence[int] | None = None,
    columns: Sequence[Columns | None] = (),
) -> None:
    """Raise for the first row whose observed value lies outside its distribution's support, or that lacks too much.

    A program that gives a distribution `validate_args=False` is taken at its word. Latents are drawn from the prior;
    `places` are those of these rows in the data set, the first ones if None, `columns` the names of the arguments'
    columns where they were data frames.
    """
    places = range(len(batch)) if places is None else places
    partly = PartlyAbsent()
    program = partly(model) if batch.absent else model
    try:
        with labels_explained("the model", batch):
            sites = sites_of(program, batch)
    except ValueError as error:
        raise ValueError(
            f"{error}\n  (among rows {places[0]} to {places[-1]} of the data, counted from the first of them)"
        ) from error
    observed = {name: site for name, site in sites.items() if site.observed and not site.factor}
    for name, family, row in partly.found:
        raise ValueError(
            f"row {places[row]} of the data lacks a part of site '{name}', and no marginals of {family} are known: "
            "what is absent cannot be integrated out. Make the whole event absent in that row (all NaN) or drop the "
            "row, or observe the parts as sites of their own; entries made independent by .to_event() may be absent "
            "one by one."
        )
    if batch.absent:
        _refuse_empty_rows(observed, places)
    for name, site in observed.items():
        outside = site.outside
        if not bool(outside.any()) or _lets_pass(name, sites, model, batch):
            continue
        by_row = outside.reshape(-1, outside.shape[-1]).any(0)
        row = int(by_row.nonzero()[0, 0])
        raise ValueError(
            f"row {places[row]} of the data lies outside the support of site '{name}': "
            f"{site.family} takes {_allowed(site)}, and this row "
            f"holds {_offending(site, row)}{_in_column(site, row, batch, columns)}. {_support_advice(site)}"
        )


def _refuse_empty_rows(observed: Mapping[str, Site], places: Sequence[int]) -> None:
    """Raise for the first row of which nothing is observed."""
    B = next(iter(observed.values())).distribution.batch_shape[-1]
    counts = torch.zeros(B, dtype=torch.bool)
    for site in observed.values():
        present = site.unmasked.movedim(len(site.distribution.batch_shape) - 1, 0)
        counts |= present.reshape(B, -1).any(1).cpu()
    if not bool(counts.all()):
        empty = (~counts).nonzero()[:, 0]
        raise ValueError(
            f"row {places[int(empty[0])]} of the data has nothing observed: it says nothing. Drop such rows, "
            "e.g. x = x[~x.isnan().all(1)]; draws without data come from "
            "generate()."
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


def _in_column(site: Site, row: int, batch: Batch, columns: Sequence[Columns | None]) -> str:
    """Which column of a frame the first of these entries is, if the model observes columns as they are."""
    inside = base_constraint(site.support).check(site.value)
    if inside.shape != site.value.shape:
        return ""
    by_row = site.value.movedim(site.row_dim, 0).reshape(len(batch), -1)
    inside = inside.movedim(site.row_dim, 0).reshape(len(batch), -1)
    wrong = by_row[:, int((~inside[row]).nonzero()[0, 0])]
    for argument, names in zip(batch.arguments, columns, strict=False):
        if names is None or not isinstance(argument, Tensor):
            continue
        same = (argument == wrong[:, None]).all(0).tolist()
        if found := tuple(name for name, is_same in zip(names, same, strict=False) if is_same):
            return f" in the column {in_words(found)}"
    return ""


def _support_advice(site: Site) -> str:
    advice = {
        "Bernoulli": f"{as_binary(site.value)}; or use a continuous likelihood such as Normal. A program that scores "
        "them all the same says so, Bernoulli(..., validate_args=False); that is no density of x then.",
        "Poisson": "Counts are whole and not negative.",
    }
    return advice.get(site.family, "Transform the data or choose a likelihood that covers them.")
