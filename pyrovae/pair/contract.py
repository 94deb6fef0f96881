"""What a pair of Pyro programs must be, found out on a few rows before any work is done.

The contract: `model(x, *context)` and `guide(x, *context)` take the same arguments; rows lie along
dimension 0 of `x` and of every context tensor; one plate over rows at dim -1; the model observes with
`obs=`; the guide samples every latent that the model does not observe. Latents outside that plate, also in plates over
groups, are shared by all rows (`pyrovae.pair.shared_contract`). `inspect_pair` runs both programs
once on a few rows, names whatever breaks these rules and says what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pyrovae.data import Batch
from pyrovae.frames import Columns
from pyrovae.pair.absent_values import check_absent_values_unread
from pyrovae.pair.amortization import check_rows_have_no_place, refuse_automatic_rows
from pyrovae.pair.auxiliary import check_auxiliary
from pyrovae.pair.broadcasting import find_broadcasting
from pyrovae.pair.first_run import absence_advice, first_run
from pyrovae.pair.guide_density import without_density
from pyrovae.pair.independence import check_rows_stand_alone
from pyrovae.pair.latent_supports import check_supports
from pyrovae.pair.layout import Layout, SiteLayout
from pyrovae.pair.matching import (
    check_dtype,
    check_event,
    check_latents,
    check_log_prob,
    check_mask_shape,
    check_masks,
    check_observations,
    check_same_sites,
    enumerated_of,
    latents_of,
)
from pyrovae.pair.plates import check_plates
from pyrovae.pair.programs import Program
from pyrovae.pair.shared import Held
from pyrovae.pair.shared_contract import check_shared, refuse_shared_summed_out, shared_of
from pyrovae.pair.sites import Site
from pyrovae.pair.support import check_support

PROBE_ROWS = 7  # odd and small: unlikely to equal an event size by chance


def inspect_model(model: Program, batch: Batch) -> tuple[dict[str, Site], dict[str, Site]]:
    """Check the model alone on a few rows, and hand back its sites: those of rows, and those above them.

    Raises:
        ValueError, TypeError: as `inspect_pair`.

    """
    batch = batch[:PROBE_ROWS]
    every = first_run("model", model, batch)
    check_observations(every)
    shared = shared_of(model, every, batch)
    refuse_shared_summed_out(shared)
    sites = {name: site for name, site in every.items() if name not in shared}
    if shared:
        model = Held(model, {name: site.value for name, site in shared.items()})
    check_plates("model", model, sites, batch)
    check_rows_have_no_place("model", model, sites, batch)
    for site in sites.values():
        check_mask_shape("model", site)
        if site.observed and not site.factor:
            check_event("observed", site, site.value)
            check_dtype(site, batch)
    return sites, shared


def inspect_pair(
    model: Program,
    guide: Program,
    batch: Batch,
    places: Sequence[int] | None = None,
    columns: Sequence[Columns | None] = (),
) -> Layout:
    """Check a pair on a few rows and find its layout. Run it under the pair's scope, without gradients.

    `places` are those of the rows in the data set, the first ones if None; `columns` are the names of the arguments'
    columns where they were data frames.

    Raises:
        ValueError: what is wrong with which site, what was expected, and what to do.
        TypeError: the arguments have a type that the programs cannot use.

    """
    batch = batch[:PROBE_ROWS]
    model_sites, above = inspect_model(model, batch)
    if not above:
        refuse_automatic_rows(guide, None)
    try:
        guide_sites = first_run("guide", guide, batch)
    except ValueError:
        # Bad data may be why, e.g. labels that the guide cannot embed.
        check_support(model, batch, places, columns)
        raise
    check_support(model, batch, places, columns)
    if above:
        refuse_automatic_rows(guide, model_sites)
    enumerated = enumerated_of(model_sites, guide_sites)
    check_latents({**model_sites, **above}, guide_sites, enumerated)
    if not above:
        return _of_rows(model, guide, batch, model_sites, guide_sites)
    shared = check_shared(model, guide, above, guide_sites, batch)
    model, guide = Held(model, {name: shared.values[name] for name in above}), Held(guide, shared.values)
    guide_sites = {name: site for name, site in guide_sites.items() if name not in shared.values}
    model_sites = first_run("model", model, batch)
    layout = _of_rows(model, guide, batch, model_sites, guide_sites, shared.dims)
    return replace(
        layout,
        shared=shared.layouts,
        shared_statements=tuple(shared.values),
        shared_without_density=shared.without_density,
    )


def _of_rows(
    model: Program,
    guide: Program,
    batch: Batch,
    model_sites: dict[str, Site],
    guide_sites: dict[str, Site],
    dims_above: Iterable[int] = (),
) -> Layout:
    """The layout of a pair whose shared latents are held, once its latents by row fit; `dims_above` are taken."""
    enumerated = enumerated_of(model_sites, guide_sites)
    check_masks(model_sites, guide_sites)
    check_auxiliary(model_sites, guide_sites)
    check_plates("guide", guide, guide_sites, batch)
    for site in guide_sites.values():
        check_mask_shape("guide", site)
    latents = {name: guide_sites[name].value for name in latents_of(model_sites, enumerated)}
    for name, value in latents.items():
        check_event("latent", model_sites[name], value)
    try:
        replayed = first_run("model", model, batch, latents)
    except ValueError:  # a latent outside its support may be why
        check_supports(model_sites, guide_sites, latents)
        raise
    # A support may depend on the latents before it.
    check_supports(replayed, guide_sites, latents)
    check_same_sites("model", replayed, model_sites)
    for site in (*replayed.values(), *guide_sites.values()):
        check_log_prob(site)
    check_rows_have_no_place("guide", guide, guide_sites, batch)
    plates = [plate for site in (*model_sites.values(), *guide_sites.values()) for plate in site.plates]
    layout = Layout(
        sample_dim=min(*(plate.dim or 0 for plate in plates), *dims_above, -1) - 1,
        latents=_layouts(model_sites[name] for name in latents),
        observed=_layouts(site for site in model_sites.values() if site.observed and not site.factor),
        enumerated=_layouts(site for name, site in model_sites.items() if name in enumerated),
        without_density=without_density(model_sites, guide_sites),
        marked=tuple(name for name in latents if guide_sites[name].marked),
        num_steps=num_steps_of(model_sites),
    )
    check_rows_stand_alone(model, guide, batch, latents, guide_sites, layout)
    return find_broadcasting(model, guide, batch, layout)


def check_absence(model: Program, guide: Program, batch: Batch) -> None:
    """Raise ValueError where either program makes NaN of entries that rows lack, or the model reads them elsewhere."""
    for which, program in (("model", model), ("guide", guide)):
        for site in first_run(which, program, batch).values():
            check_log_prob(site)
            if bool(site.log_density().isnan().any()):
                raise ValueError(
                    f"the {which}'s density of site '{site.name}' is NaN. {absence_advice(which, batch)}"
                )
    check_absent_values_unread(model, batch)


def num_steps_of(sites: Mapping[str, Site]) -> int | None:
    """Of the sequences that a model observes, if it observes nothing else and all have as many."""
    found = {
        site.value.shape[site.row_dim + 1] if site.sequence else None
        for site in sites.values()
        if site.observed and not site.factor
    }
    return found.pop() if len(found) == 1 else None


def _layouts(sites: Iterable[Site]) -> dict[str, SiteLayout]:
    return {
        site.name: SiteLayout(
            site.distribution.event_shape,
            tuple(plate.dim or 0 for plate in site.inner_plates),
            tuple(plate.size for plate in site.inner_plates),
            site.family,
        )
        for site in sites
    }
