"""What ArviZ's functions expect, from draws of an amortized guide.

ArviZ has two generations in use: 0.x with `InferenceData` and 1.x with `xarray.DataTree`. Groups are xarray
Datasets here and are wrapped in what the installed `arviz` uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyrovae import rows
from pyrovae.evidence import row_blocks, seeds_from
from pyrovae.layout import Arguments, SiteLayout, rows_first
from pyrovae.psis import pareto_k
from pyrovae.support import check_support
from pyrovae.vae import VAE, check_count


def to_arviz(
    vae: VAE,
    x: Any,
    *context: Any,
    num_samples: int = 200,
    seed: int | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
) -> Any:
    """Draws, densities and data as ArviZ's InferenceData (arviz 0.x) or DataTree (arviz 1.x).

    Groups, with dims (chain, draw, row, ...): `posterior` (draws of q(z|x)), `posterior_predictive`,
    `log_likelihood` (log p(x|z) by observed site), `sample_stats` (`log_weight` = log p(x, z) - log q(z|x),
    and `khat` by row), `prior`, `prior_predictive`; with dims (row, ...): `observed_data`, `constant_data`
    (tensors of context). There is one chain: draws of a guide are independent, so R-hat and the effective
    sample size say nothing about it; look at `khat`.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: draws for each row; the groups hold num_samples * N times the size of a row.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        coords: labels by dim, e.g. {"row": names}.
        dims: names of the event dims by site, e.g. {"z": ["component"]}.

    Raises:
        ValueError, TypeError: data that do not fit the pair; `dims` of another number than the site's.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> idata = pv.to_arviz(vae, torch.zeros(5, 64), num_samples=20)
        >>> dict(idata.posterior["z"].sizes)
        {'chain': 1, 'draw': 20, 'row': 5, 'z_dim_0': 2}

    """
    check_count("num_samples", num_samples)
    data = vae.rows(x, *context)
    blocks: list[dict[str, dict[str, Tensor]]] = []
    seeds = seeds_from(seed)
    for first, arguments in row_blocks(vae, data):
        with vae.evaluating(), rows.fixed_seed(next(seeds), vae.device):
            check_support(vae.model, arguments, first)
            blocks.append(_groups(vae, arguments, num_samples))
    names = _Names(coords or {}, dims or {})
    groups = {}
    for group, sites in blocks[0].items():
        joined = {
            site: torch.cat([b[group][site] for b in blocks], 0 if group in _WITHOUT_DRAWS else 1)
            for site in sites
        }
        groups[group] = names.dataset(group, joined)
    groups["sample_stats"]["khat"] = (
        "row",
        pareto_k(_stacked(blocks, "sample_stats", "log_weight")).cpu().numpy(),
    )
    constant = {f"context_{i}": a for i, a in enumerate(data.arguments[1:], 1) if isinstance(a, Tensor)}
    if constant:
        groups["constant_data"] = names.dataset("constant_data", constant)
    return _wrap(groups)


_BY_ROW = ("log_likelihood", "sample_stats")
_WITHOUT_DRAWS = ("observed_data", "constant_data")


def _groups(vae: VAE, arguments: Arguments, num_samples: int) -> dict[str, dict[str, Tensor]]:
    """All groups for one block of rows, by site: [S, B, ...], observed data [B, ...]."""
    layout = vae.layout
    hidden = {**layout.latents, **layout.enumerated}
    guide_sites = rows.run_guide(vae, arguments, num_samples)
    latents = {name: guide_sites[name].value for name in layout.latents}
    model_sites = rows.run_model(vae, arguments, latents, num_samples)
    everything = {**latents, **rows.enumerated_draws(vae, arguments, latents, num_samples)}
    _, predictive = rows.run_predictive(vae, arguments, everything)
    prior, prior_predictive = rows.run_prior(vae, arguments, num_samples)
    terms = rows.RowTerms(model_sites, guide_sites, latents, layout, broadcasts=False)

    def users(values: Mapping[str, Tensor], sites: Mapping[str, SiteLayout]) -> dict[str, Tensor]:
        return {name: rows_first(values[name], site) for name, site in sites.items()}

    return {
        "posterior": users(everything, hidden),
        "posterior_predictive": users(predictive, layout.observed),
        "log_likelihood": {name: site.log_prob for name, site in model_sites.items() if site.observed},
        "sample_stats": {"log_weight": terms.log_weights},
        "prior": users(prior, hidden),
        "prior_predictive": users(prior_predictive, layout.observed),
        "observed_data": {
            n: v[0] for n, v in users(rows.observations(vae, arguments), layout.observed).items()
        },
    }


def _stacked(blocks: list[dict[str, dict[str, Tensor]]], group: str, name: str) -> Tensor:
    return torch.cat([block[group][name] for block in blocks], 1)


class _Names:
    """Dims and coords of every variable."""

    def __init__(self, coords: Mapping[str, Any], dims: Mapping[str, list[str]]) -> None:
        self.coords, self.dims = coords, dims

    def dataset(self, group: str, values: Mapping[str, Tensor]) -> xr.Dataset:
        leading = ["row"] if group in _WITHOUT_DRAWS else ["chain", "draw", "row"]
        variables = {}
        for site, value in values.items():
            array = value.detach().cpu().numpy()
            array = array if group in _WITHOUT_DRAWS else array[None]
            event = [] if group in _BY_ROW else self._event_dims(site, array.ndim - len(leading))
            variables[site] = ([*leading, *event], array)
        dataset = xr.Dataset(variables, attrs={"inference_library": "pyrovae"})
        labels = {dim: np.arange(size) for dim, size in dataset.sizes.items()}
        labels |= {dim: self.coords[str(dim)] for dim in dataset.sizes if dim in self.coords}
        return dataset.assign_coords(labels)

    def _event_dims(self, site: str, count: int) -> list[str]:
        names = self.dims.get(site, [f"{site}_dim_{i}" for i in range(count)])
        if len(names) != count:
            raise ValueError(f"dims names {len(names)} dims for '{site}': it has {count} beside the rows.")
        return list(names)


def _wrap(groups: dict[str, xr.Dataset]) -> Any:
    import arviz  # not at the top: it takes a second

    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(**groups)
    return xr.DataTree.from_dict(groups)
