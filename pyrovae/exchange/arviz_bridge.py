"""What ArviZ's functions expect, from draws of an amortized guide.

ArviZ has two generations in use: 0.x with `InferenceData` and 1.x with `xarray.DataTree`. Groups are xarray
Datasets here (`pyrovae.exchange.named_arrays`) and are wrapped in what the installed `arviz` uses. What ArviZ's figures
mean for such draws, and what they do not, is told in docs/arviz.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import xarray as xr
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.data import Rows
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.sequential import SequentialMonteCarlo, refuse_other_than_sequential
from pyrovae.evidence.smoothed_draws import smoothed_draws
from pyrovae.evidence.weighted_draws import weighted_draws
from pyrovae.exchange.arviz_groups import Groups, drawn_groups, groups_over_shared, joined_rows
from pyrovae.exchange.named_arrays import Names
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import arviz

Tree: TypeAlias = "arviz.InferenceData | xr.DataTree"


def to_arviz(
    vae: VAE,
    x: object,
    *context: object,
    num_samples: int = 200,
    resample_from: int | None = None,
    method: SequentialMonteCarlo | None = None,
    row_samples: int = 100,
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

    Where rows share latents theta, a draw is one of theta, and of each row given it. `log_likelihood` is then
    log p(x_n|theta_s), with the rows' own latents integrated out by `row_samples` draws: of the rows that theta was
    trained on these are what `az.loo`, `az.waic` and `az.compare` expect, leave-one-out for draws of q(theta).
    `log_weight` is log p(x, theta_s) - log q(theta_s) of all rows together, and `resample_from` takes draws of theta by
    it, with one `khat`: for few numbers of theta, or no weight but one remains.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S, draws for each row; the groups hold S * N times the size of a row.
        resample_from: M, at least S; None takes the guide's draws as they are.
        method: None draws from the guide. Of chains `pyrovae.SequentialMonteCarlo` draws from p(z|x), in place of
            `resample_from`; `log_weight` is then 0 and `khat` NaN.
        row_samples: K, draws of each row at each draw of shared latents; not used where there are none.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        coords: labels by dim, e.g. {"row": names}.
        dims: names of the dims after the row by site, e.g. {"z": ["component"]}; also of "context_1", ...

    Returns:
        A site whose name files cannot hold or that is a dim's (chain, draw, row) goes by another: "/" becomes
        ".", "row" becomes "row_".

    Raises:
        ValueError, TypeError: data that do not fit the pair, or the method; both `resample_from` and `method`; counts
            below 1; `dims` or `coords` of sites or dims
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
    check_count("row_samples", row_samples)
    if resample_from is not None:
        check_count("resample_from", resample_from)
        if resample_from < num_samples:
            raise ValueError(
                f"resample_from is {resample_from}: expected at least num_samples = {num_samples}, better ten times "
                "as many, or draws repeat."
            )
    if method is not None:
        refuse_other_than_sequential(method)
    if method is not None and resample_from is not None:
        raise ValueError(
            "resample_from weighs the guide's draws, and method= draws otherwise: give one of the two."
        )
    data = checked_data(vae, x, *context, covers_shared=True)
    if method is None:
        refuse_without_density(vae)
    constant = {f"context_{i}": a for i, a in enumerate(data.arguments[1:], 1)}
    names = Names(vae.layout, constant, coords or {}, dims or {}, len(data))
    seeds = seeds_from(seed)
    if vae.layout.shared:
        if method is not None:
            raise ValueError(
                "method= draws chains of rows alone, and this model has latents that its rows share: leave it out."
            )
        found = groups_over_shared(vae, data, num_samples, resample_from, row_samples, seeds)
    else:
        found = _groups_of_rows(vae, data, num_samples, resample_from, method, seeds)
    groups = {group: names.dataset(group, values) for group, values in found.items()}
    groups["posterior"].attrs["draws_of"] = _drawn_from(vae, resample_from, method)
    if constant:
        groups["constant_data"] = names.dataset("constant_data", constant)
    return _wrap(groups)


def _drawn_from(vae: VAE, resample_from: int | None, method: SequentialMonteCarlo | None) -> str:
    if method is not None:
        return "p(z|x), chains traced back through a particle filter"
    guide = "q(theta) q(z|x,theta)" if vae.layout.shared else "q(z|x)"
    if resample_from is None:
        return guide
    return f"Pareto smoothed importance resampling of {resample_from} draws of {guide}"


def _groups_of_rows(
    vae: VAE,
    data: Rows,
    num_samples: int,
    resample_from: int | None,
    method: SequentialMonteCarlo | None,
    seeds: Iterator[int],
) -> dict[str, dict[str, Tensor]]:
    blocks: list[Groups] = []
    for first, batch in data.in_blocks(vae.device):
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            if method is not None:
                drawn = smoothed_draws(vae, batch, method, num_samples, first)
            else:
                drawn = weighted_draws(vae, batch, resample_from or num_samples)
            if resample_from is not None:
                drawn = drawn.resampled(vae, num_samples, first)
            stats = {"log_weight": drawn.log_weights.cpu(), "khat": drawn.khat.cpu()}
            likelihood = {name: value.cpu() for name, value in drawn.log_likelihood.items()}
            blocks.append(
                {**drawn_groups(vae, batch, drawn.latents, num_samples), "log_likelihood": likelihood}
            )
            blocks[-1]["sample_stats"] = stats
    order = (
        "posterior",
        "posterior_predictive",
        "log_likelihood",
        "sample_stats",
        "prior",
        "prior_predictive",
    )
    return {group: joined_rows([b[group] for b in blocks], group) for group in (*order, "observed_data")}


def _wrap(groups: dict[str, xr.Dataset]) -> Tree:
    import arviz  # not at the top: it takes a second

    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(**groups)
    return xr.DataTree.from_dict(groups)
