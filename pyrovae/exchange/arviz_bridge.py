"""What ArviZ's functions expect, from draws of an amortized guide.

ArviZ has two generations in use: 0.x with `InferenceData` and 1.x with `xarray.DataTree`. Groups are xarray
Datasets here (`pyrovae.exchange.named_arrays`) and are wrapped in what the installed `arviz` uses. What ArviZ's figures
mean for such draws, and what they do not, is told in docs/arviz.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
import xarray as xr
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.data import Batch
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.weighted_draws import WeightedDraws, weighted_draws
from pyrovae.exchange.named_arrays import WITHOUT_DRAWS, Names
from pyrovae.pair.draws import enumerated_draws, run_predictive, run_prior
from pyrovae.pair.layout import SiteLayout, rows_first
from pyrovae.pair.observed import observations_of
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import arviz

Tree: TypeAlias = "arviz.InferenceData | xr.DataTree"
Groups = dict[str, dict[str, Tensor]]  # tensors by group and site


def to_arviz(
    vae: VAE,
    x: object,
    *context: object,
    num_samples: int = 200,
    resample_from: int | None = None,
    seed: int | None = None,
    coords: Mapping[str, Collection[object]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Tree:
    """Draws, densities and data as ArviZ's InferenceData (arviz 0.x) or DataTree (arviz 1.x).

    Groups, with dims (chain, draw, row, ...): `posterior`, `posterior_predictive`, `log_likelihood`
    (log p(x|z) by observed site), `sample_stats` (`log_weight` = log p(x, z) - log q(z|x), and `khat` by row),
    `prior`, `prior_predictive`; with dims (row, ...): `observed_data`, `constant_data` (context). There is one
    chain: draws are independent, so R-hat is NaN and the effective sample size says nothing of how good the guide is;
    `khat` does. Entries that a mask or a row's length leaves out are NaN in `observed_data` and in the predictive
    draws for that row: what stands in their place is no observation.

    The posterior draws are the guide's, z_s ~ q(z|x). Given `resample_from` = M they are drawn, for each row
    with replacement, from M draws of the guide with probabilities proportional to their Pareto smoothed
    importance weights, and so come nearer to p(z|x): "Pareto Smoothed Importance Sampling" (Vehtari, Simpson,
    Gelman, Yao, Gabry, 2024), https://jmlr.org/papers/v25/19-556.html; resampling is Rubin's "Using the SIR
    algorithm to simulate posterior distributions" (1988). Where `khat` is above 0.7 do not trust them either.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S, draws for each row; the groups hold S * N times the size of a row.
        resample_from: M, at least S; None takes the guide's draws as they are.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        coords: labels by dim, e.g. {"row": names}.
        dims: names of the dims after the row by site, e.g. {"z": ["component"]}; also of "context_1", ...

    Returns:
        A site whose name files cannot hold or that is a dim's (chain, draw, row) goes by another: "/" becomes
        ".", "row" becomes "row_".

    Raises:
        ValueError, TypeError: data that do not fit the pair; counts below 1; `dims` or `coords` of sites or dims
            that are not there, or of another number than theirs; rows all of whose weights are zero or not
            finite, when resampling.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> idata = pv.to_arviz(vae, torch.zeros(5, 64), num_samples=20, dims={"z": ["component"]})
        >>> dict(idata.posterior["z"].sizes)
        {'chain': 1, 'draw': 20, 'row': 5, 'component': 2}

    """
    check_count("num_samples", num_samples)
    if resample_from is not None:
        check_count("resample_from", resample_from)
        if resample_from < num_samples:
            raise ValueError(
                f"resample_from is {resample_from}: expected at least num_samples = {num_samples}, better ten times "
                "as many, or draws repeat."
            )
    data = checked_data(vae, x, *context)
    refuse_without_density(vae)
    constant = {f"context_{i}": a for i, a in enumerate(data.arguments[1:], 1)}
    names = Names(vae.layout, constant, coords or {}, dims or {}, len(data))
    seeds = seeds_from(seed)
    blocks: list[Groups] = []
    for first, batch in data.in_blocks(vae.device):
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            drawn = weighted_draws(vae, batch, resample_from or num_samples)
            if resample_from is not None:
                drawn = drawn.resampled(vae, num_samples, first)
            blocks.append(_groups(vae, batch, drawn))
    groups = {group: names.dataset(group, _joined(blocks, group)) for group in blocks[0]}
    groups["posterior"].attrs["draws_of"] = (
        "q(z|x)"
        if resample_from is None
        else f"Pareto smoothed importance resampling of {resample_from} draws of q(z|x)"
    )
    if constant:
        groups["constant_data"] = names.dataset("constant_data", constant)
    return _wrap(groups)


def _groups(vae: VAE, batch: Batch, drawn: WeightedDraws) -> Groups:
    """All groups for one block of rows, by site: [S, B, ...], those without draws [B, ...]."""
    layout, latents = vae.layout, drawn.latents
    num_samples = len(drawn.log_weights)
    hidden = layout.hidden
    everything = {**latents, **enumerated_draws(vae, batch, latents, num_samples)}
    _, predictive = run_predictive(vae, batch, everything)
    prior, prior_predictive = run_prior(vae, batch, num_samples)
    observed = observations_of(vae, batch)

    def users(values: Mapping[str, Tensor], sites: Mapping[str, SiteLayout]) -> dict[str, Tensor]:
        return {name: rows_first(values[name], site).cpu() for name, site in sites.items()}

    def where_observed(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        drawn = users(values, layout.observed)
        return {name: observed[name].absent_as_nan(value) for name, value in drawn.items()}

    return {
        "posterior": users(everything, hidden),
        "posterior_predictive": where_observed(predictive),
        "log_likelihood": {name: value.cpu() for name, value in drawn.log_likelihood.items()},
        "sample_stats": {"log_weight": drawn.log_weights.cpu(), "khat": drawn.khat.cpu()},
        "prior": users(prior, hidden),
        "prior_predictive": where_observed(prior_predictive),
        "observed_data": {name: o.absent_as_nan(o.value).cpu() for name, o in observed.items()},
    }


def _joined(blocks: list[Groups], group: str) -> dict[str, Tensor]:
    def row_dim(name: str) -> int:
        return 0 if group in WITHOUT_DRAWS or name == "khat" else 1

    return {name: torch.cat([b[group][name] for b in blocks], row_dim(name)) for name in blocks[0][group]}


def _wrap(groups: dict[str, xr.Dataset]) -> Tree:
    import arviz  # not at the top: it takes a second

    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(**groups)
    return xr.DataTree.from_dict(groups)
