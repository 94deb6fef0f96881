"""The evidence lower bound of each row, ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z)), with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.block_sizes import counts, draws_at_once
from pyrovae.checks import check_count
from pyrovae.data import Rows
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.results import Elbo, Figures
from pyrovae.evidence.weights import rounding_of
from pyrovae.pair.running import row_terms
from pyrovae.pair.terms import RowTerms
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE


def elbo(vae: VAE, x: object, *context: object, num_samples: int = 10, seed: int | None = None) -> Elbo:
    """Estimate the evidence lower bound of each row, with its reconstruction and rate.

    Kingma & Welling, "Auto-Encoding Variational Bayes" (2013), https://arxiv.org/abs/1312.6114, eq. 3:
    reconstruction = E_q[log p(x|z)] and rate = KL(q(z|x) || p(z)), the latter in closed form for each latent
    site where torch or Pyro has one, by sampling where not.

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
    data = checked_data(vae, x, *context)
    refuse_without_density(vae)
    return elbo_of(vae, data, num_samples, seed)


def elbo_of(vae: VAE, data: Rows, num_samples: int, seed: int | None) -> Elbo:
    """`elbo` of checked data, whatever the guide."""
    numbers = max(math.prod(data.x.shape[1:]), vae.layout.latent_numbers)
    blocks, seeds = [], seeds_from(seed)
    for _, batch in data.in_blocks(vae.device):
        sums = _Sums.of_none(len(batch))
        for count in counts(num_samples, draws_at_once(numbers)):
            with vae.evaluating(), fixed_seed(next(seeds), vae.device):
                terms = row_terms(vae, batch, count)
                sums, rounding = sums.with_draws(terms), rounding_of(terms)
        blocks.append(sums)
    total = _Sums.joined(blocks)
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
