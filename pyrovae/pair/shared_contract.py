"""Which latents of a model stand above its rows, and whether model and guide agree on them.

Shared is a latent outside of the plate in which the model observes rows, alone or in plates of groups, whose shape is
the same whatever rows there are. One whose shape follows the batch is a latent of rows that has lost its plate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.auxiliary import check_auxiliary
from pyrovae.pair.guide_density import without_density
from pyrovae.pair.independence import same
from pyrovae.pair.latent_supports import check_supports
from pyrovae.pair.layout import SharedLayout
from pyrovae.pair.matching import check_log_prob
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of


@dataclass(frozen=True)
class SharedOfPair:
    """What one run of each program showed of the latents above its rows.

    `values` are by statement of the guide, auxiliary ones among them; `dims` those of the plates they stand in.
    """

    layouts: Mapping[str, SharedLayout]
    values: Mapping[str, Tensor]
    dims: tuple[int, ...]
    without_density: str


def shared_of(program: Program, sites: Mapping[str, Site], batch: Batch) -> dict[str, Site]:
    """The latents of a model that stand above its rows."""
    plates_of_rows = {
        site.row_plate.name
        for site in sites.values()
        if site.observed and not site.factor and site.row_plate is not None
    }
    return _alike_without_the_last(
        program,
        {
            name: site
            for name, site in sites.items()
            if not site.observed and (site.row_plate is None or site.row_plate.name not in plates_of_rows)
        },
        batch,
    )


def refuse_shared_summed_out(shared: Mapping[str, Site]) -> None:
    """Raise ValueError for a shared latent that the program has summed out."""
    for name, site in shared.items():
        if site.to_be_enumerated:
            raise ValueError(
                f"the latent '{name}' stands above the rows and is to be summed out, infer={{'enumerate': "
                "'parallel'}: given its sum rows are not independent, and log p(x) is no sum over rows. Give it a "
                "continuous family, or let it be a latent of each row."
            )


def check_shared(
    model: Program,
    guide: Program,
    of_model: Mapping[str, Site],
    guide_sites: Mapping[str, Site],
    batch: Batch,
) -> SharedOfPair:
    """What the guide draws above the rows, once it fits the model's shared latents `of_model`.

    Raises:
        ValueError: the site, and what to do.

    """
    above = {name: site for name, site in guide_sites.items() if name in of_model or site.auxiliary}
    of_guide = _alike_without_the_last(guide, above, batch)
    for name, site in of_model.items():
        _check_place(name, site, of_guide.get(name))
    for site in (*of_model.values(), *of_guide.values()):
        check_log_prob(site)
    values = {name: site.value for name, site in of_guide.items()}
    taken = {name: values[name] for name in of_model}
    try:
        replayed = sites_of(model, batch, taken)
    except ValueError:  # a value outside its support may be why
        check_supports(of_model, of_guide, of_model)
        raise
    check_supports(replayed, of_guide, of_model)
    check_auxiliary(of_model, of_guide, of_rows=False)
    _check_rows_have_no_say("model", model, taken, batch)
    _check_rows_have_no_say("guide", guide, values, batch)
    return SharedOfPair(
        {name: _layout(site) for name, site in of_model.items()},
        values,
        tuple(plate.dim or 0 for site in (*of_model.values(), *of_guide.values()) for plate in site.plates),
        without_density(of_model, of_guide),
    )


def _alike_without_the_last(program: Program, sites: Mapping[str, Site], batch: Batch) -> dict[str, Site]:
    """Those of some sites that have the same shape without the last row."""
    if not sites or len(batch) < 2:
        return dict(sites)
    fewer = sites_of(program, batch[:-1])
    return {
        name: site
        for name, site in sites.items()
        if name in fewer and fewer[name].value.shape == site.value.shape and not _has_rows(site, fewer[name])
    }


def _has_rows(site: Site, fewer: Site) -> bool:
    """Whether a plate of it, of values that are broadcast, shrinks with the batch."""
    sizes = {plate.name: plate.size for plate in fewer.plates}
    return any(sizes.get(plate.name, plate.size) != plate.size for plate in site.plates)


def _check_place(name: str, of_model: Site, of_guide: Site | None) -> None:
    if of_guide is None:
        raise ValueError(
            f"site '{name}' of the model stands outside a row plate at dim -1, so that all rows share it, and the "
            'guide draws it for each row. Put it inside `with pyro.plate("rows", len(x)):` of the model if it is a '
            "row's own; else draw it outside of that in the guide, from a distribution that does not depend on x."
        )
    if of_guide.value.shape != of_model.value.shape:
        raise ValueError(
            f"the guide draws the shared latent '{name}' in shape {list(of_guide.value.shape)}: in the model a draw "
            f"has {list(of_model.value.shape)}. Give it the same plates, and the same event."
        )


def _check_rows_have_no_say(which: str, program: Program, values: Mapping[str, Tensor], batch: Batch) -> None:
    """Raise where the density of a shared latent is another beside other rows."""
    if len(batch) < 2:
        return
    together, apart = (sites_of(program, rows, values) for rows in (batch, batch[len(batch) // 2 :]))
    for name in values:
        if not same(together[name].log_density(), apart[name].log_density()):
            raise ValueError(
                f"the density of '{name}' in the {which}, which all rows share, depends on the rows at hand: each "
                "batch would have a posterior of its own. Use parameters in place of x there, and no sums or means "
                "over rows."
            )


def _layout(site: Site) -> SharedLayout:
    plates = sorted(site.plates, key=lambda plate: plate.dim or 0)
    return SharedLayout(
        site.distribution.event_shape,
        tuple(plate.dim or 0 for plate in plates),
        tuple(plate.size for plate in plates),
        site.family,
    )
