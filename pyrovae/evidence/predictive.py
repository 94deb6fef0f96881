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
from pyrovae.evidence.escalation import EscalatingSampling
from pyrovae.evidence.importance import PROBE_ROWS, ImportanceSampling, Method, Weigh
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
    widening,
    without_density,
)
from pyrovae.pair.row_keys import Draws, RowKeys
from pyrovae.pair.running import row_terms
from pyrovae.progress import Bar
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

FEWEST_OF_MIXTURE = 4


def predictive_density(
    vae: VAE,
    data: Rows,
    method: Method | EscalatingSampling,
    num_samples: int,
    row_samples: int,
    limits: Limits,
    seed: int | None,
    bar: Bar,
) -> LogMarginal:
    """R = `num_samples` draws of theta, K = `row_samples` of each row at each."""
    seeds = seeds_from(seed)
    shared = SharedDraws(vae, data, num_samples, next(seeds))
    held, alone = shared.vae, ""
    if not held.layout.latents and not held.layout.hidden:
        row_samples = 1  # p(x|theta) itself
    limits = replace(limits, repeats=num_samples)
    if isinstance(method, EscalatingSampling):
        method, alone = first_stage(held, data, method, row_samples, limits)
    weigh = method.weigher(held, data, row_samples, limits)
    rounding = rounding_given(shared, data)
    keys = RowKeys(data, next(seeds))
    blocks, sums = [], SumsOverRows(num_samples)
    for first, batch in data.in_blocks(vae.device):
        densities, draws = [], keys.of(slice(first, first + len(batch)), vae.device)
        for _ in shared:
            densities.append(log_density_given(weigh, batch, draws))
            bar.update(row_samples * len(batch))
        log_densities = torch.stack(densities)
        blocks.append(estimates_of_draws(log_densities, first, rounding))
        sums.add(log_densities)
    return LogMarginal(
        **vars(Estimates.joined(blocks)),
        num_samples=num_samples,
        dimensions=discrete_dimensions(held, data),
        shared=SharedSampling(tuple(vae.layout.shared), num_samples, row_samples, sums.error),
        first_stage_alone=alone,
    )


def first_stage(
    held: VAE, data: Rows, method: EscalatingSampling, row_samples: int, limits: Limits
) -> tuple[Method, str]:
    """Weights of guide and prior, and why no more: a proposal of a row's own would be another at each draw of theta."""
    if not held.layout.latents:
        return ImportanceSampling(), "no latents of rows are drawn"
    if row_samples < FEWEST_OF_MIXTURE:
        raise ValueError(
            f"row_samples is {row_samples}: draws of guide and prior are mixed at each draw of what rows share, "
            f"{FEWEST_OF_MIXTURE} of them at least."
        )
    first = method.first_stage(held, data, limits)
    return first, "a proposal of a row's own would be another at each draw of what rows share"


class SumsOverRows:
    """The error of a sum over rows of log mean_r p_r(x), as blocks of rows come: by the jackknife over r."""

    def __init__(self, num_draws: int) -> None:
        self._changes = torch.zeros(num_draws, dtype=torch.float64)

    def add(self, log_densities: Tensor) -> None:
        """Take the estimates p_r(x) of a block of rows, [R,B]: what each sum changes by without draw r."""
        R = len(log_densities)
        if R > 1:
            change = ((1 - R * log_densities.softmax(0)) / (R - 1)).clamp(min=-1 + 2**-53)
            self._changes += change.log1p().sum(1).cpu()

    @property
    def error(self) -> float:
        """Widened as that of a row is: a sum knows no more of theta than one row does. NaN for a single draw."""
        R = len(self._changes)
        if R == 1:
            return math.nan
        degrees = torch.tensor(R - 1, dtype=torch.float64)
        return (R - 1) / math.sqrt(R) * float(self._changes.std()) * float(widening(degrees))


def estimates_of_draws(log_densities: Tensor, first_row: int, rounding: float) -> Estimates:
    """What independent estimates of p(x|theta_r) say of E[p(x|theta)], [R,B] of rows that begin at a place."""
    tally = Tally(len(log_densities), len(log_densities))
    tally.add(log_densities)
    refuse_rows(without_density([tally]), first_row, WITHOUT_DENSITY)
    return estimates([tally], rounding)


def rounding_given(shared: SharedDraws, data: Rows) -> float:
    """The rounding error of the densities of rows given theta."""
    held = shared.vae
    with held.evaluating(), fixed_seed(0, held.device):
        return rounding_of(row_terms(held, data.take(slice(0, PROBE_ROWS), held.device), 1))


def log_density_given(weigh: Weigh, batch: Batch, draws: Iterator[Draws]) -> Tensor:
    """An estimate of log p(x|theta) at the theta at which the VAE of `weigh` is held, [B] in float64."""
    weights = torch.cat([log_weights.double() for _, log_weights in weigh(batch, draws)])
    return weights.logsumexp(0) - math.log(len(weights))
