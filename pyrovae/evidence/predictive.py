"""The predictive density of rows that share latents, log E_q(theta)[p(x|theta)], by nested sampling.

    p_r(x) = 1/K sum_k w_rk,  E[w_rk] = p(x|theta_r),  theta_r ~ q(theta),  r = 1, ..., R

Each p_r(x) is an unbiased estimate of the predictive density whatever K, and the R of them are independent: so their
mean and its error over r are those of importance sampling with weights p_r(x), and contain both levels. All rows have
the same draws of theta, so that their errors go together: that of a sum over rows is taken from sums over rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pyrovae.data import Batch, Rows
from pyrovae.evidence.discrete_dimensions import discrete_dimensions
from pyrovae.evidence.importance import PROBE_ROWS, Method, Weigh
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.shared_draws import SharedDraws
from pyrovae.evidence.shared_results import SharedSampling
from pyrovae.evidence.weights import (
    WITHOUT_DENSITY,
    Estimates,
    Tally,
    estimates,
    refuse_rows,
    rounding_of,
    without_density,
)
from pyrovae.pair.row_keys import Draws, RowKeys
from pyrovae.pair.running import row_terms
from pyrovae.progress import Bar
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE


def predictive_density(
    vae: VAE,
    data: Rows,
    method: Method,
    num_samples: int,
    row_samples: int,
    limits: Limits,
    seed: int | None,
    bar: Bar,
) -> LogMarginal:
    """R = `num_samples` draws of theta, K = `row_samples` of each row at each."""
    seeds = seeds_from(seed)
    shared = SharedDraws(vae, data, num_samples, next(seeds))
    held = shared.vae
    if not held.layout.latents and not held.layout.hidden:
        row_samples = 1  # p(x|theta) itself
    weigh = method.weigher(held, data, row_samples, replace(limits, repeats=num_samples))
    with held.evaluating(), fixed_seed(0, vae.device):
        rounding = rounding_of(row_terms(held, data.take(slice(0, PROBE_ROWS), vae.device), 1))
    keys = RowKeys(data, next(seeds))
    blocks, sums = [], torch.zeros(num_samples, dtype=torch.float64)
    for first, batch in data.in_blocks(vae.device):
        densities, draws = [], keys.of(slice(first, first + len(batch)), vae.device)
        for _ in shared:
            densities.append(log_density_given(weigh, batch, draws))
            bar.update(row_samples * len(batch))
        log_densities = torch.stack(densities)
        tally = Tally(num_samples, num_samples)
        tally.add(log_densities)
        refuse_rows(without_density([tally]), first, WITHOUT_DENSITY)
        blocks.append(estimates([tally], rounding))
        # By the delta method each draw of theta moves the sum over rows by its shares of their means.
        sums += (log_densities.softmax(0) * num_samples).sum(1).cpu()
    error = float(sums.std()) / math.sqrt(num_samples) if num_samples > 1 else math.nan
    return LogMarginal(
        **vars(Estimates.joined(blocks)),
        num_samples=num_samples,
        dimensions=discrete_dimensions(held, data),
        shared=SharedSampling(tuple(vae.layout.shared), row_samples, error),
    )


def log_density_given(weigh: Weigh, batch: Batch, draws: Iterator[Draws]) -> Tensor:
    """An estimate of log p(x|theta) at the theta at which the VAE of `weigh` is held, [B] in float64."""
    weights = torch.cat([log_weights.double() for _, log_weights in weigh(batch, draws)])
    return weights.logsumexp(0) - math.log(len(weights))
