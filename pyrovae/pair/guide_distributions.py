"""q(z|x) as distributions: what the guide draws each latent site from, where that is a distribution given x alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn, cast

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.independence import same
from pyrovae.pair.programs import Pair
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed


def guide_distributions(pair: Pair, batch: Batch) -> dict[str, TorchDistribution]:
    """By latent site of the guide, of batch [B] and event [K].

    Raises:
        ValueError: a guide without latents, auxiliary sites, sites drawn given each other, sites in a plate inside the
            rows.

    """
    latents = pair.layout.latents
    if not latents:
        raise ValueError(
            f"the latents {sorted(pair.layout.enumerated)} are discrete and summed out: the guide has none. Draw them "
            "with sample_posterior(): the draws' frequencies are their probabilities."
        )
    with fixed_seed(0, batch.device):
        sites = sites_of(pair.guide, batch)
    for name, site in sites.items():
        if site.auxiliary:
            _refuse(f"the guide draws its latents by way of the auxiliary site '{name}'", "")
        if site.inner_plates and name in latents:
            plates = ", ".join(f"'{plate.name}'" for plate in site.inner_plates)
            _refuse(
                f"the latent '{name}' stands in the plate {plates} inside the rows",
                " Or declare it as one vector of a row, with .to_event(1) in place of the plate.",
            )
    sites = {name: site for name, site in sites.items() if name in latents}
    if len(sites) > 1:
        _refuse_dependent(sites, pair, batch)
    return {name: _over_rows(sites[name], len(batch)) for name in latents}


def _refuse_dependent(sites: Mapping[str, Site], pair: Pair, batch: Batch) -> None:
    """Raise where a site's density of one value is another at other draws of the sites before it."""
    with fixed_seed(1, batch.device):
        others = sites_of(pair.guide, batch)
    for name, site in sites.items():
        if not _same_density(site, others[name]):
            names = list(sites)
            before = names[: names.index(name)]
            come = f"{', '.join(map(repr, before))} {'come' if len(before) > 1 else 'comes'} before it"
            _refuse(
                f"the guide draws the latent '{name}' given others ({come})",
                " Its density given these is in pyrovae.pair.running.row_terms(...).guide_sites.",
            )


def _same_density(site: Site, other: Site) -> bool:
    try:
        return same(site.log_density(), replace(other, value=site.value).log_density())
    except ValueError:  # outside the support that it has there
        return False


def _over_rows(site: Site, num_rows: int) -> TorchDistribution:
    found = cast("TorchDistribution", site.distribution)
    if isinstance(site.mask, Tensor):
        found = found.mask(site.mask)
    return found if found.batch_shape == (num_rows,) else found.expand([num_rows])


def _refuse(why: str, also: str) -> NoReturn:
    raise ValueError(
        f"{why}: q(z|x) is no distribution by site then. Draw from it with sample_posterior(), and take means with "
        f"encode().{also}"
    )
