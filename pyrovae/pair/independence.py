"""Whether rows stand alone: each must be scored and drawn the same whatever the other rows of its batch are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.layout import Layout
from pyrovae.pair.matching import check_same_sites
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed

# Of the rows of a batch, so many are seen beside others, too: a large one may hide what a single row does to the rest.
KEPT = 2


def check_rows_stand_alone(
    model: Program,
    guide: Program,
    batch: Batch,
    latents: Mapping[str, Tensor],
    guide_sites: Mapping[str, Site],
    layout: Layout,
) -> None:
    """Raise where a site's density in one row depends on the other rows.

    Raises:
        ValueError: the site, and what to do.

    """
    if len(batch) < 2 or layout.enumerated:
        return
    _check_densities("model", model, batch, latents)
    if not _draws_stand_alone(guide, batch):
        _check_densities("guide", guide, batch, {name: site.value for name, site in guide_sites.items()})


def _draws_stand_alone(guide: Program, batch: Batch) -> bool:
    """Whether the last rows are drawn the same, from the same random numbers, beside other rows.

    They may not be although they stand alone, where a sampler takes as many random numbers as it needs.
    """
    kept = min(KEPT, len(batch) - 1)
    other = batch.changed(lambda tensor: torch.cat([tensor[-1:].expand_as(tensor[:-kept]), tensor[-kept:]]))
    draws = []
    for given in (batch, other):
        with fixed_seed(0, batch.device):
            draws.append(sites_of(guide, given))
    check_same_sites("guide", draws[1], draws[0])
    for name, site in draws[0].items():
        a, b = (_of_rows(site, drawn[name].value, slice(-kept, None)) for drawn in draws)
        if not same(a, b):
            return False
    return True


def _check_densities(which: str, program: Program, batch: Batch, values: Mapping[str, Tensor]) -> None:
    """Score the same draws without the first row, and with few rows left: theirs must not change."""
    together = sites_of(program, batch, values)
    check_same_sites(which, together, {*together, *values})
    for left in (slice(1, None), slice(-min(KEPT, len(batch) - 1), None)):
        given = {
            name: _of_rows(together[name], value, left)
            for name, value in values.items()
            if not together[name].observed
        }
        alone = sites_of(program, batch[left], given)
        check_same_sites(which, alone, together)
        for name, site in together.items():
            whole = site.log_density()
            if whole.dim() and whole.shape[-1] > 1 and not same(whole[..., left], alone[name].log_density()):
                _refuse_noise(which, name, whole, sites_of(program, batch, values))
                raise ValueError(
                    f"the density of site '{name}' of the {which} in one row depends on the other rows of the batch. "
                    "Rows are independent given the parameters: take no means, norms, sums or orders over dimension 0."
                )


def _refuse_noise(which: str, name: str, density: Tensor, again: Mapping[str, Site]) -> None:
    """Raise where the same rows have another density each time."""
    if name in again and same(density, again[name].log_density()):
        return
    raise ValueError(
        f"the density of site '{name}' of the {which} is another each time, of the same rows and latents: the {which} "
        "draws random numbers that are no site, as np.random, random, torch.randn or dropout as a function do. Draw "
        "them with pyro.sample, as a latent or infer={'is_auxiliary': True}, or once, outside the program; dropout as "
        "a module, nn.Dropout, is off in evaluation."
    )


def _of_rows(site: Site, value: Tensor, rows: slice) -> Tensor:
    row_dim = value.dim() - 1 - site.event_dim
    return value[(slice(None),) * row_dim + (rows,)]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two runs gave the same, to rounding."""
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-3, equal_nan=True)
