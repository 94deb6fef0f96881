"""The evidence lower bound of each row, ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z)), with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrovae.block_sizes import counts, draws_at_once
from pyrovae.checks import check_count
from pyrovae.data import Rows
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.results import Elbo, Figures
from pyrovae.evidence.shared_draws import SharedDraws
from pyrovae.evidence.shared_results import SharedRate
from pyrovae.evidence.weights import rounding_of
from pyrovae.pair.row_keys import RowKeys
from pyrovae.pair.row_noise import DrawnByRow
from pyrovae.pair.running import row_terms
from pyrovae.pair.terms import RowTerms
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE


def elbo(vae: VAE, x: object, *context: object, num_samples: int = 10, seed: int | None = None) -> Elbo:
    """Estimate the evidence lower bound of each row, with its reconstruction and rate.

    Kingma & Welling, "Auto-Encoding Variational Bayes" (2013), https://arxiv.org/abs/1312.6114, eq. 3:
    reconstruction = E_q[log p(x|z)] and rate = KL(q(z|x) || p(z)), the latter in closed form for each latent
    site where torch or Pyro has one, by sampling where not.

    Where rows share latents theta, these are of the rows given theta, averaged over S draws of q(theta), and theta has
    a rate of its own, KL(q(theta) || p(theta)), paid once for all rows: `Elbo.shared`, and `Elbo.total` for the bound
    of the evidence where `x` is all that theta was trained on. Of held-out rows the sum is a bound of
    E_q(theta)[log p(x|theta)].

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError, TypeError: data that do not fit the pair, or lie outside a likelihood's support (with
            the row); `num_samples` below 1; a guide without a density, such as a `Delta` (see
            `pyrovae.pair.guide_density`).

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> pv.elbo(vae, torch.zeros(5, 64)).to_frame().columns.tolist()
        ['elbo', 'reconstruction', 'rate']

    """
    check_count("num_samples", num_samples)
    data = checked_data(vae, x, *context, covers_shared=True)
    refuse_without_density(vae)
    return elbo_of(vae, data, num_samples, seed)


def elbo_of(vae: VAE, data: Rows, num_samples: int, seed: int | None) -> Elbo:
    """`elbo` of checked data, whatever the guide."""
    if vae.layout.shared:
        return _over_shared(vae, data, num_samples, seed)
    numbers = max(math.prod(data.x.shape[1:]), vae.layout.latent_numbers)
    blocks, keys = [], RowKeys(data, seed)
    for first, batch in data.in_blocks(vae.device):
        sums, draws = _Sums.of_none(len(batch)), keys.of(slice(first, first + len(batch)), vae.device)
        for count in counts(num_samples, draws_at_once(numbers)):
            drawn = next(draws)
            with vae.evaluating(), fixed_seed(drawn.seed, vae.device), DrawnByRow(drawn.keys):
                terms = row_terms(vae, batch, count)
                sums, rounding = sums.with_draws(terms), rounding_of(terms)
        blocks.append(sums)
    return _summed_up(_Sums.joined(blocks), num_samples, rounding)


def _over_shared(vae: VAE, data: Rows, num_samples: int, seed: int | None) -> Elbo:
    """Each draw of rows given a draw of their own of what they share, the same for all rows."""
    seeds = seeds_from(seed)
    shared = SharedDraws(vae, data, num_samples, next(seeds))
    totals, blocks = torch.zeros(num_samples, dtype=torch.float64), []
    for _, batch in data.in_blocks(vae.device):
        sums, before = _Sums.of_none(len(batch)), 0.0
        for s, held in enumerate(shared):
            with held.evaluating(), fixed_seed(next(seeds), vae.device):
                terms = row_terms(held, batch, 1)
                sums, rounding = sums.with_draws(terms), rounding_of(terms)
            now = float(sums.bound.sum())
            totals[s] += now - before
            before = now
        blocks.append(sums)
    rates = torch.stack([draw.rate for draw in shared.draws]).double().cpu()
    if vae.layout.shared_without_density:
        rates = torch.full_like(rates, math.nan)
    found = _summed_up(_Sums.joined(blocks), num_samples, rounding)
    costs = SharedRate(tuple(vae.layout.shared), *_mean_with_error(rates), *_mean_with_error(totals - rates))
    return replace(found, shared=costs)


def _mean_with_error(values: Tensor) -> tuple[float, float]:
    """NaN for the error of a single value."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _summed_up(total: _Sums, num_samples: int, rounding: float) -> Elbo:
    bound, reconstruction, rate = (s / num_samples for s in (total.bound, total.reconstruction, total.rate))
    variance = (total.square / num_samples - bound**2).clamp(min=0.0)
    std_error = (variance / (num_samples - 1)).sqrt() if num_samples > 1 else torch.full_like(bound, math.nan)
    std_error = torch.maximum(std_error, rounding * bound.abs())
    return Elbo(bound, reconstruction, rate, std_error, num_samples)


@dataclass(frozen=True)
class _Sums(Figures):
    """Sums over the draws of each row, [B]: of the ELBO, its parts and its square."""

    bound: Tensor
    reconstruction: Tensor
    rate: Tensor
    square: Tensor

    @classmethod
    def of_none(cls, num_rows: int) -> _Sums:
        return cls(*(torch.zeros(num_rows, dtype=torch.float64) for _ in range(4)))

    def with_draws(self, terms: RowTerms) -> _Sums:
        """With some draws more."""
        reconstruction, rate = terms.log_likelihood.double().cpu(), terms.rate.double().cpu()
        bound = reconstruction - rate
        return _Sums(
            self.bound + bound.sum(0),
            self.reconstruction + reconstruction.sum(0),
            self.rate + rate.sum(0),
            self.square + (bound**2).sum(0),
        )
