"""What ArviZ's groups hold: draws, densities and data by site, of rows and of latents that rows share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from pyrovae.data import Batch, Rows
from pyrovae.evidence.importance import ImportanceSampling
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.predictive import log_density_given
from pyrovae.evidence.psis import pareto_k, smoothed
from pyrovae.evidence.shared_draws import SharedDraws
from pyrovae.evidence.weighted_draws import spread_places
from pyrovae.evidence.weights import refuse_rows
from pyrovae.exchange.named_arrays import WITHOUT_DRAWS
from pyrovae.pair.draws import enumerated_draws, run_predictive, run_prior
from pyrovae.pair.layout import SiteLayout, rows_first
from pyrovae.pair.observed import observations_of
from pyrovae.pair.row_keys import RowKeys
from pyrovae.pair.running import row_terms
from pyrovae.pair.shared import draw_shared_of_prior, for_users
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

# Bytes that densities of a block of rows may take.
MEMORY = 2**31

Groups: TypeAlias = dict[str, dict[str, Tensor]]
"""Tensors by group and site: [S, B, ...], those without draws [B, ...], of shared latents [S, ...]."""


def drawn_groups(vae: VAE, batch: Batch, latents: Mapping[str, Tensor], num_samples: int) -> Groups:
    """The groups of draws for one block of rows, at draws of the guide; and the data."""
    layout = vae.layout
    everything = {**latents, **enumerated_draws(vae, batch, latents, num_samples)}
    prior, prior_predictive = run_prior(vae, batch, num_samples)
    # Where a model has no latents of rows, nothing is given that a draw could be from.
    predictive = run_predictive(vae, batch, everything)[1] if everything else prior_predictive
    observed = observations_of(vae, batch)

    def users(values: Mapping[str, Tensor], sites: Mapping[str, SiteLayout]) -> dict[str, Tensor]:
        return {name: rows_first(values[name], site).cpu() for name, site in sites.items()}

    def where_observed(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        drawn = users(values, layout.observed)
        return {name: observed[name].absent_as_nan(value) for name, value in drawn.items()}

    return {
        "posterior": users(everything, layout.hidden),
        "posterior_predictive": where_observed(predictive),
        "prior": users(prior, layout.hidden),
        "prior_predictive": where_observed(prior_predictive),
        "observed_data": {name: o.absent_as_nan(o.value).cpu() for name, o in observed.items()},
    }


def joined_rows(blocks: list[dict[str, Tensor]], group: str) -> dict[str, Tensor]:
    """One group of all blocks of rows."""

    def row_dim(name: str) -> int:
        return 0 if group in WITHOUT_DRAWS or name == "khat" else 1

    return {name: torch.cat([block[name] for block in blocks], row_dim(name)) for name in blocks[0]}


def groups_over_shared(
    vae: VAE, data: Rows, num_samples: int, resample_from: int | None, row_samples: int, seeds: Iterator[int]
) -> Groups:
    """All groups of a VAE with shared latents, each draw at a draw of its own of these."""
    M = resample_from or num_samples
    shared = SharedDraws(vae, data, M, next(seeds))
    log_likelihood = _log_likelihood(shared, data, row_samples, seeds)
    rates = torch.stack([draw.rate for draw in shared.draws]).double().cpu()
    log_weight = torch.stack(list(log_likelihood.values())).sum((0, 2)) - rates
    places = torch.arange(M)
    if resample_from is not None:
        refuse_rows(~log_weight.isfinite().any(0, keepdim=True), 0, "there is nothing to resample.")
        with fixed_seed(next(seeds), torch.device("cpu")):
            places = spread_places(smoothed(log_weight[:, None]).softmax(0), num_samples)[:, 0]
    drawn: list[Groups] = []
    few = data.take(slice(0, 1), vae.device)
    for place in places.tolist():
        values = shared.draws[place].values
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            of_prior = draw_shared_of_prior(vae, few)
            one = _at(shared.vae, data, values, of_prior)
        for group, of_group in (("posterior", values), ("prior", of_prior)):
            one[group] |= {n: for_users(v, vae.layout, n).cpu()[None] for n, v in of_group.items()}
        drawn.append(one)
    groups = {
        group: {name: torch.cat([one[group][name] for one in drawn]) for name in drawn[0][group]}
        for group in ("posterior", "posterior_predictive", "prior", "prior_predictive")
    }
    groups["log_likelihood"] = {name: value[places] for name, value in log_likelihood.items()}
    khat = pareto_k(log_weight[:, None])[0]
    groups["sample_stats"] = {"log_weight": log_weight[places], "khat": khat}
    groups["observed_data"] = drawn[0]["observed_data"]
    return groups


def _log_likelihood(
    shared: SharedDraws, data: Rows, row_samples: int, seeds: Iterator[int]
) -> dict[str, Tensor]:
    """log p(x|theta) at each draw of theta, [M,N]: by site where rows have no latents of their own, else of all."""
    held = shared.vae
    limits = Limits(MEMORY, repeats=len(shared))
    weigh = ImportanceSampling().weigher(held, data, row_samples, limits) if held.layout.hidden else None
    blocks: list[dict[str, Tensor]] = []
    keys = RowKeys(data, next(seeds))
    for first, batch in data.in_blocks(held.device):
        draws = keys.of(slice(first, first + len(batch)), held.device)
        of_draws: list[dict[str, Tensor]] = []
        for _ in shared:
            if weigh is not None:
                density = log_density_given(weigh, batch, draws)
                of_draws.append({"+".join(held.layout.observed): density.cpu()})
                continue
            with held.evaluating():
                sites = row_terms(held, batch, 1).model_sites
            of_draws.append({n: s.log_prob[0].double().cpu() for n, s in sites.items() if s.observed})
        blocks.append({name: torch.stack([one[name] for one in of_draws]) for name in of_draws[0]})
    return {name: torch.cat([block[name] for block in blocks], 1) for name in blocks[0]}


def _at(vae: VAE, data: Rows, values: Mapping[str, Tensor], of_prior: Mapping[str, Tensor]) -> Groups:
    """The groups of draws at one draw of the shared latents from the guide, and one from the prior."""
    blocks: list[Groups] = []
    for _, batch in data.in_blocks(vae.device):
        vae.hold(values)
        latents = dict(row_terms(vae, batch, 1).latents)
        one = drawn_groups(vae, batch, latents, 1)
        vae.hold(of_prior)
        one |= {
            name: group for name, group in drawn_groups(vae, batch, latents, 1).items() if "prior" in name
        }
        blocks.append(one)
    return {group: joined_rows([block[group] for block in blocks], group) for group in blocks[0]}
