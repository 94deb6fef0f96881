"""Draws of guide and prior with their weights, and draws of these that come nearer to the posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pyrovae.block_sizes import counts, draws_at_once
from pyrovae.data import Batch
from pyrovae.evidence.importance import (
    ImportanceSampling,
    draws_of_prior,
    log_guide_at_prior,
    log_mixture,
    prior_and_likelihood,
)
from pyrovae.evidence.psis import pareto_k, smoothed
from pyrovae.evidence.weights import refuse_rows
from pyrovae.pair.resampling import systematic_places
from pyrovae.pair.running import row_terms
from pyrovae.pair.sites import Term
from pyrovae.vae import VAE

GUIDE = ImportanceSampling()

# Latents, the model's sites at them, log weights [S,B].
_Drawn: TypeAlias = tuple[Mapping[str, Tensor], Mapping[str, Term], Tensor]


@dataclass(frozen=True)
class WeightedDraws:
    """Latents of one block of rows in Pyro's layout; log p(x|z) by site and log weights [S,B]; Pareto k [B]."""

    latents: dict[str, Tensor]
    log_likelihood: dict[str, Tensor]
    log_weights: Tensor
    khat: Tensor

    def weights(self, first_row: int, advice: str) -> Tensor:
        """Pareto smoothed weights, [S,B], of sum 1 over the draws of each row.

        Raises:
            ValueError: rows all of whose weights are zero or not finite; `advice` says what to do.

        """
        finite = self.log_weights < math.inf  # false for NaN as well
        bad = ~finite.all(0) | (self.log_weights == -math.inf).all(0)
        refuse_rows(bad, first_row, advice)
        return smoothed(self.log_weights).softmax(0)

    def taken(self, vae: VAE, places: Tensor) -> WeightedDraws:
        """For each row the draws at these places, [S,B]."""
        taken = {}
        for name, value in self.latents.items():
            after = len(vae.layout.latents[name].event_shape)
            inner = value.dim() - 2 - after
            index = places.reshape(len(places), *[1] * inner, places.shape[1], *[1] * after)
            taken[name] = value.gather(0, index.expand(len(places), *value.shape[1:]))
        likelihood = {name: value.gather(0, places) for name, value in self.log_likelihood.items()}
        return WeightedDraws(taken, likelihood, self.log_weights.gather(0, places), self.khat)

    def resampled(self, vae: VAE, num_samples: int, first_row: int) -> WeightedDraws:
        """Draw S of these for each row, with replacement, by their Pareto smoothed weights.

        Raises:
            ValueError: rows all of whose weights are zero or not finite.

        """
        weights = self.weights(
            first_row,
            "there is nothing to resample. Take the guide's draws, resample_from=None, and look at log_weight.",
        )
        return self.taken(vae, torch.multinomial(weights.T, num_samples, replacement=True).T)


def spread_places(weights: Tensor, num_samples: int) -> Tensor:
    """S places among M draws for each row, [S,B], each as often as its weight says, up to rounding (by chance).

    Systematic resampling: equal weights take each of M = S draws once. In random order.

    Args:
        weights: [M,B], of sum 1.
        num_samples: S.

    """
    places = systematic_places(weights.T.double(), num_samples)
    order = torch.rand(weights.shape[1], num_samples, device=weights.device).argsort(1)
    return places.gather(1, order).T


def weighted_draws(
    vae: VAE, batch: Batch, num_samples: int, method: ImportanceSampling = GUIDE
) -> WeightedDraws:
    """Draws of q(z|x), or by a method of the prior too, and their weights, in pieces whose size the data alone decide.

    One stratum of the method comes after the other.
    """
    row_numbers = math.prod(batch.x.shape[1:]) + vae.layout.latent_numbers
    sizes = method.strata(num_samples)
    share = sizes[1] / num_samples if len(sizes) == 2 else float(method.prior_share)
    sources = [_of_prior] if share == 1 else [_of_guide, _of_prior][: len(sizes)]
    pieces = []
    for source, size in zip(sources, sizes, strict=True):
        for count in counts(size, draws_at_once(row_numbers)):
            latents, sites, log_weights = source(vae, batch, count, share)
            observed = {name: site.log_prob for name, site in sites.items() if site.observed}
            pieces.append((dict(latents), observed, {"log_weight": log_weights.double()}))
    latents, likelihood, weights = (
        {name: torch.cat([one[name] for one in part]) for name in part[0]}
        for part in zip(*pieces, strict=True)
    )
    return WeightedDraws(latents, likelihood, weights["log_weight"], pareto_k(weights["log_weight"]))


def _of_guide(vae: VAE, batch: Batch, count: int, share: float) -> _Drawn:
    terms = row_terms(vae, batch, count)
    if share == 0:
        return terms.latents, terms.model_sites, terms.log_weights
    log_prior, log_likelihood = prior_and_likelihood(terms.model_sites)
    mixture = log_mixture(terms.log_guide.double(), log_prior, share)
    return terms.latents, terms.model_sites, log_likelihood + log_prior - mixture


def _of_prior(vae: VAE, batch: Batch, count: int, share: float) -> _Drawn:
    latents, sites = draws_of_prior(vae, batch, count)
    log_prior, log_likelihood = prior_and_likelihood(sites)
    if share == 1:
        return latents, sites, log_likelihood
    log_guide = log_guide_at_prior(vae, batch, count, latents)
    return latents, sites, log_likelihood + log_prior - log_mixture(log_guide, log_prior, share)
