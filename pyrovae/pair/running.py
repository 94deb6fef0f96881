"""The narrow waist: row-wise log densities of a pair of Pyro programs.

For S samples and B rows every consumer of a pair (objectives, importance sampling, diagnostics, ArviZ)
needs only

    log p(x|z) [S,B]    log p(z) [S,B]    log q(z|x) [S,B]    the latents by site    each site's own terms

and this module runs the programs to get them, with `layout` (shapes), `traces` (one run), `sites` (what is asked of
it), `terms` (their sums) and `enumeration` (discrete latents summed out), in this room. Densities are those
of the *program*: masks are kept (a latent that is summed out has one value where it is masked, not k), while scales (a
subsampled plate's N/B, `poutine.scale`) are left out, because a scale belongs outside any logarithm of a mean and is no
part of a density.

Latents that rows share are drawn once for all samples of a run, and `row_terms` has their terms beside those of rows
given them (`shared`, in this room). The other functions run pairs of rows alone: hold shared latents at values first.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pyro
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.enumeration import SAMPLES_PLATE, sites_summed_out
from pyrovae.pair.label_advice import labels_explained
from pyrovae.pair.layout import Layout, as_the_program_takes
from pyrovae.pair.matching import check_same_sites
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.shared import SharedRun
from pyrovae.pair.sites import ScoredSite, Site, Term, scored_sites
from pyrovae.pair.terms import RowTerms as RowTerms
from pyrovae.pair.traces import given, sites_in, trace_of


def row_terms(pair: Pair, batch: Batch, num_samples: int) -> RowTerms:
    """Trace the guide once, replay the model against it once, and sum each site's density by row.

    Of a pair with shared latents these are S draws of each row given one draw of these.
    """
    if not pair.layout.shared:
        return _terms_of_rows(pair, batch, num_samples)
    run = SharedRun(pair)
    terms = _terms_of_rows(run.pair, batch, num_samples)
    return replace(terms, shared=run.terms)


def _terms_of_rows(pair: Pair, batch: Batch, num_samples: int) -> RowTerms:
    broadcasts = pair.layout.guide_broadcasts and pair.layout.model_broadcasts
    guide_sites, factors = run_guide_with_factors(pair, batch, num_samples, broadcasts=broadcasts)
    latents = {name: guide_sites[name].value for name in pair.layout.latents}
    model_sites = run_model(pair, batch, latents, num_samples, broadcasts=broadcasts)
    return RowTerms(model_sites, guide_sites, latents, pair.layout, broadcasts, factors)


def run_guide(
    pair: Pair,
    batch: Batch,
    num_samples: int,
    *,
    latents: Mapping[str, Tensor] | None = None,
    broadcasts: bool | None = None,
) -> dict[str, ScoredSite]:
    """Draw S samples of each latent for each row, with log q(z|x) by site; or score given `latents` instead.

    Sites of the guide that `latents` does not name are drawn, auxiliary ones among them. Its factors are left out: they
    belong to the loss that is trained, and to no density.
    """
    return run_guide_with_factors(pair, batch, num_samples, latents=latents, broadcasts=broadcasts)[0]


def run_guide_with_factors(
    pair: Pair,
    batch: Batch,
    num_samples: int,
    *,
    latents: Mapping[str, Tensor] | None = None,
    broadcasts: bool | None = None,
) -> tuple[dict[str, ScoredSite], dict[str, ScoredSite]]:
    """As `run_guide`, and beside it what the guide adds by `pyro.factor`."""
    if broadcasts is None:
        broadcasts = pair.layout.guide_broadcasts
    program = pair.guide
    if latents is not None:
        program = given(program, as_the_program_takes(pair.layout, latents, broadcasts))
    sites = sites_in(trace_of_samples(program, batch, num_samples, pair.layout, broadcasts))
    _check_names("guide", sites, {*pair.layout.latents})
    scored = scored_sites(sites, num_samples, pair.layout, broadcasts)
    factors = {name: site for name, site in scored.items() if site.factor}
    return {name: site for name, site in scored.items() if name not in factors}, factors


def run_model(
    pair: Pair,
    batch: Batch,
    latents: Mapping[str, Tensor],
    num_samples: int,
    *,
    broadcasts: bool | None = None,
) -> dict[str, Term]:
    """Score given latents: log p(z) and log p(x|z) by site.

    Where discrete latents are enumerated, all that depends on them is one term of the observed sites: the
    logarithm of its sum over their values.
    """
    if broadcasts is None:
        broadcasts = pair.layout.model_broadcasts
    program = pair.model
    if pair.layout.enumerated:
        program = poutine.enum(program, first_available_dim=pair.layout.sample_dim - 1)
    replayed = given(program, as_the_program_takes(pair.layout, latents, broadcasts))
    trace = trace_of_samples(replayed, batch, num_samples, pair.layout, broadcasts)
    sites = sites_in(trace)
    _check_names("model", sites, {*pair.layout.latents, *pair.layout.enumerated, *pair.layout.observed})
    if pair.layout.enumerated:
        return sites_summed_out(trace, num_samples, pair.layout, broadcasts)
    return {**scored_sites(sites, num_samples, pair.layout, broadcasts)}


def trace_of_samples(
    program: Program, batch: Batch, num_samples: int, layout: Layout, broadcasts: bool
) -> Trace:
    """One run for S samples of each row, under a samples plate or on repeated rows."""
    with labels_explained("model or guide", batch), samples_plate(num_samples, layout, broadcasts):
        return trace_of(program, batch if broadcasts else batch.repeated(num_samples))


def samples_plate(num_samples: int, layout: Layout, broadcasts: bool) -> AbstractContextManager[object]:
    """The plate of samples, left of all others; nothing where rows are repeated."""
    if not broadcasts:
        return nullcontext()
    plate: AbstractContextManager[object] = pyro.plate(SAMPLES_PLATE, num_samples, dim=layout.sample_dim)
    return plate


def _check_names(which: str, sites: Mapping[str, Site], expected: set[str]) -> None:
    found = {name for name, site in sites.items() if not site.factor}
    found -= {name for name in found - expected if sites[name].auxiliary}
    check_same_sites(which, found, expected)
