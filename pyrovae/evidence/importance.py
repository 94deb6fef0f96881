"""Importance weights whose mean is p(x): drawn from the guide, from the prior, or from a mixture of both.

A method of `pyrovae.log_marginal` says how weights come about and nothing of what is made of them. It draws
block by block, each row from noise of its own, and how large a block is depends on the pair and the kind of device
alone: the memory at hand decides only what is scored at once, and so never changes a figure.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from pyrovae.block_sizes import (
    BYTES_OF_A_BLOCK,
    ROWS_AT_ONCE,
    bytes_at_once,
    counts,
    draws_at_once,
    power_of_two,
)
from pyrovae.checks import is_number
from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import refuse_without_density
from pyrovae.evidence.memory import Footprint, Limits, Pieces
from pyrovae.evidence.psis import tail_length
from pyrovae.evidence.weights import KEPT
from pyrovae.pair.draws import run_prior
from pyrovae.pair.layout import slice_latents
from pyrovae.pair.row_keys import Draws
from pyrovae.pair.row_noise import DrawnByRow
from pyrovae.pair.running import run_guide, run_model
from pyrovae.pair.sites import ScoredSite, Term, stacked_sum
from pyrovae.pair.support import zero_outside
from pyrovae.random_state import fixed_seed
from pyrovae.traced.repeated import Repeated
from pyrovae.vae import VAE

PROBE_ROWS = 7

# Log weights of a block of rows, [s,B] at a time with the stratum they belong to, given what draws come from.
Weigh: TypeAlias = Callable[[Batch, Iterator[Draws]], Iterator[tuple[int, Tensor]]]


class Method(Protocol):
    """How importance weights of a row come about, each of mean p(x)."""

    def strata(self, num_samples: int) -> tuple[int, ...]:
        """Sizes of the parts of S draws; within one part they are independent and of one distribution."""

    def weigher(self, vae: VAE, data: Rows, num_samples: int, limits: Limits) -> Weigh:
        """Check that the method applies, before any work starts, and say how it weighs a block of rows."""


@dataclass(frozen=True)
class ImportanceSampling:
    """Importance sampling from the guide, from the prior, or from a mixture of the two.

    A share a of the S draws comes from the prior, the rest from the guide, in exact numbers (S a rounded, at
    least two of each), and every draw is weighed as one of the mixture:

        w = p(x, z) / ((1 - a) q(z|x) + a p(z))

    which is unbiased for p(x): the deterministic mixture of Hesterberg, "Weighted Average Importance Sampling
    and Defensive Mixture Distributions" (1995), https://doi.org/10.1080/00401706.1995.10484303. No weight is
    above max p(x|z) / a, so that their variance is finite also where the guide's tails are too light, at the cost
    of few draws in a hundred. With a = 0 (the default) it is importance sampling from the guide, with a = 1
    plain Monte Carlo from the prior, w = p(x|z).

    For a refined guide take the refined VAE: `pv.log_marginal(pv.refine(vae, x).vae, x)`.

    Args:
        prior_share: a, from 0 to 1.

    Raises:
        ValueError: `prior_share` out of its range. When used with draws of the guide: one without a density (see
            `pyrovae.pair.guide_density`). When used with draws of the prior: a `batch_size` or `chunk_size`
            below what is drawn and scored at once; for a mixture, fewer than four samples, or a guide with auxiliary
            sites, whose density at draws of the prior is unknown.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> defensive = pv.ImportanceSampling(prior_share=0.1)
        >>> bool((pv.log_marginal(vae, torch.zeros(5, 64), method=defensive).khat < 0.7).all())
        True

    """

    prior_share: float = 0.0

    def __post_init__(self) -> None:
        if not (is_number(self.prior_share) and 0 <= self.prior_share <= 1):
            raise ValueError(f"prior_share is {self.prior_share!r}: expected a number from 0 to 1.")

    def strata(self, num_samples: int) -> tuple[int, ...]:
        """How many draws come from the guide, and from the prior."""
        if self.prior_share in (0, 1):
            return (num_samples,)
        if num_samples < 4:
            raise ValueError(
                f"num_samples is {num_samples}: a mixture of guide and prior needs at least two draws of each."
            )
        from_prior = min(max(2, round(self.prior_share * num_samples)), num_samples - 2)
        return (num_samples - from_prior, from_prior)

    def check(self, vae: VAE, few: Batch, num_samples: int) -> None:
        """Raise ValueError where draws of the guide, or of the prior beside them, have no known density."""
        if self.prior_share < 1:
            refuse_without_density(vae)
        if len(self.strata(num_samples)) == 2:
            refuse_auxiliary_sites(
                vae,
                few,
                "draws of the prior, which a mixture needs, is unknown. Use ImportanceSampling() or "
                "ImportanceSampling(prior_share=1).",
            )

    def weigher(self, vae: VAE, data: Rows, num_samples: int, limits: Limits) -> Weigh:
        """Weights of draws from the mixture."""
        share, num_rows = self.prior_share, min(ROWS_AT_ONCE, len(data))
        sizes = self.strata(num_samples)
        few = data.take(slice(0, PROBE_ROWS), vae.device)
        self.check(vae, few, num_samples)
        if len(sizes) == 2:
            share = sizes[1] / num_samples
        model = measured(vae, lambda S: draws_of_prior(vae, few, S), few)
        at_once, taken = [], [0]
        if share < 1:
            guide = measured(vae, lambda S: run_guide(vae, few, S), few)
            at_once.append(_guide_draws_at_once(vae, guide))
            of_block = (num_rows, min(at_once[0], sizes[0]))
            taken.append(guide.of_run(*of_block) + bytes_of_weights(*of_block, num_samples))
        if share > 0:
            at_once.append(_prior_draws_at_once(vae, model))
            of_block = (num_rows, min(at_once[-1], sizes[-1]))
            limits.check_whole(*of_block)
            taken.append(model.of_run(*of_block) + bytes_of_weights(*of_block, num_samples))
        pieces = limits.pieces(model, max(taken), num_rows, vae.device)
        sources: list[Callable[[Batch, int, Tensor], Tensor]] = []
        if share < 1:
            calls = limits.calls(sizes[0] * len(data), pieces.samples * pieces.rows)
            score = Repeated(vae, functools.partial(_score, vae), calls, limits.compile)
            calls = limits.calls(sizes[0] * len(data), at_once[0] * num_rows)
            draw = Repeated(vae, functools.partial(_draw_of_guide, vae), calls, limits.compile)
            sources.append(_FromGuide(vae, share, pieces, draw, score))
        if share > 0:
            calls = limits.calls(sizes[-1] * len(data), at_once[-1] * num_rows)
            draw = Repeated(vae, functools.partial(_draw_of_prior, vae, share < 1), calls, limits.compile)
            sources.append(_FromPrior(share, draw))

        def weigh(batch: Batch, draws: Iterator[Draws]) -> Iterator[tuple[int, Tensor]]:
            for stratum, (source, size, most) in enumerate(zip(sources, sizes, at_once, strict=True)):
                for count in counts(size, most):
                    drawn = next(draws)
                    with vae.evaluating(), fixed_seed(drawn.seed, vae.device):
                        log_weights = source(batch, count, drawn.keys)
                    yield stratum, log_weights

        return weigh


@dataclass(frozen=True)
class _FromGuide:
    """Draws of the guide, weighed against the guide or against its mixture with a share of the prior."""

    vae: VAE
    share: float
    pieces: Pieces
    draw: Repeated
    score: Repeated

    def __call__(self, batch: Batch, count: int, keys: Tensor) -> Tensor:
        log_guide, *values = self.draw(count, batch, keys)
        latents = dict(zip(self.vae.layout.latents, values, strict=True))
        shape = (count, len(batch))
        log_prior = torch.empty(shape, dtype=torch.float64, device=self.vae.device)
        log_likelihood = torch.empty_like(log_prior)
        for samples, some in self.pieces(*shape):
            given = slice_latents(latents, self.vae.layout, samples, some)
            few = batch[some]
            scores = self.score(samples.stop - samples.start, few, given)
            log_prior[samples, some], log_likelihood[samples, some] = scores
        return log_likelihood + log_prior - log_mixture(log_guide, log_prior, self.share)


@dataclass(frozen=True)
class _FromPrior:
    """Draws of the prior, weighed likewise."""

    share: float
    draw: Repeated

    def __call__(self, batch: Batch, count: int, keys: Tensor) -> Tensor:
        log_prior, log_likelihood, *log_guide = self.draw(count, batch, keys)
        if not log_guide:
            return log_likelihood
        return log_likelihood + log_prior - log_mixture(log_guide[0], log_prior, self.share)


def _draw_of_guide(vae: VAE, num_samples: int, batch: Batch, keys: Tensor) -> list[Tensor]:
    """log q(z|x) of draws of the guide, [S,B] in float64, and these by site."""
    with DrawnByRow(keys):
        sites = run_guide(vae, batch, num_samples)
    return [_total(sites), *(sites[name].value for name in vae.layout.latents)]


def _score(vae: VAE, num_samples: int, batch: Batch, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x|z) of given draws, [S,B] each in float64."""
    sites = run_model(vae, batch, latents, num_samples)
    return prior_and_likelihood(zero_outside(sites, vae.layout, vae.layout.model_broadcasts))


def _draw_of_prior(
    vae: VAE, score_guide: bool, num_samples: int, batch: Batch, keys: Tensor
) -> tuple[Tensor, ...]:
    """log p(z) and log p(x|z) of draws of the prior, and log q(z|x) if wanted."""
    with DrawnByRow(keys):
        latents, sites = draws_of_prior(vae, batch, num_samples)
    parts = prior_and_likelihood(sites)
    del sites
    return (*parts, log_guide_at_prior(vae, batch, num_samples, latents)) if score_guide else parts


def log_guide_at_prior(vae: VAE, batch: Batch, num_samples: int, latents: Mapping[str, Tensor]) -> Tensor:
    """log q(z|x) of draws of the prior, [S,B] in float64.

    Raises:
        ValueError: they lie outside of the guide's support.

    """
    try:
        sites = run_guide(vae, batch, num_samples, latents=latents)
    except ValueError as error:
        raise ValueError(
            f"the guide cannot score draws of the prior: {error}\n  A mixture with the prior needs a guide "
            "whose support is the prior's."
        ) from error
    return _total(zero_outside(sites, vae.layout, vae.layout.guide_broadcasts))


def _guide_draws_at_once(vae: VAE, guide: Footprint) -> int:
    most = draws_at_once(vae.layout.latent_numbers)
    # A guide that runs on repeated rows holds its networks' activations for every draw.
    return min(power_of_two(most), power_of_two(BYTES_OF_A_BLOCK // (ROWS_AT_ONCE * guide.by_draw)))


def _prior_draws_at_once(vae: VAE, model: Footprint) -> int:
    at_once = min(bytes_at_once(vae.device), BYTES_OF_A_BLOCK)
    return power_of_two(at_once // (ROWS_AT_ONCE * model.by_draw))


def bytes_of_weights(num_rows: int, count: int, num_samples: int) -> int:
    """What log densities of a block of draws take, and the sums and the tail that are kept of them."""
    return num_rows * (128 * count + 32 * max(KEPT, tail_length(num_samples)))


def measured(vae: VAE, run: Callable[[int], object], batch: Batch) -> Footprint:
    """What a run of a program on these rows takes of memory."""
    with vae.evaluating(), fixed_seed(0, vae.device):
        return Footprint.of(run, len(batch))


def draws_of_prior(vae: VAE, batch: Batch, num_samples: int) -> tuple[dict[str, Tensor], dict[str, Term]]:
    """Draws of the latents from p(z), by site, and the model's sites at them.

    Where a latent depends on earlier observations it is drawn given those of the data, as its density is.
    """
    if vae.layout.enumerated:
        drawn, _ = run_prior(vae, batch, num_samples)
        latents = {name: drawn[name] for name in vae.layout.latents}
        return latents, run_model(vae, batch, latents, num_samples)
    sites = run_model(vae, batch, {}, num_samples)
    drawn = {name: site.value for name, site in sites.items() if isinstance(site, ScoredSite)}
    return {name: drawn[name] for name in vae.layout.latents}, sites


def prior_and_likelihood(sites: Mapping[str, Term]) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x|z) of a model's sites, [S,B] each in float64."""
    log_likelihood = torch.stack([site.log_prob.double() for site in sites.values() if site.observed]).sum(0)
    terms = [site.log_prob.double() for site in sites.values() if not site.observed]
    return stacked_sum(terms, like=log_likelihood), log_likelihood


def _total(sites: Mapping[str, Term]) -> Tensor:
    """log q(z|x), [S,B] in float64."""
    terms = [site.log_prob.double() for site in sites.values()]
    return torch.stack(terms).sum(0) if terms else torch.zeros((), dtype=torch.float64)


def log_mixture(log_guide: Tensor, log_prior: Tensor, share: float) -> Tensor:
    """log((1 - a) q + a p), a being the prior's share."""
    if share == 0:
        return log_guide
    return torch.logaddexp(log_guide + math.log1p(-share), log_prior + math.log(share))


def refuse_auxiliary_sites(vae: VAE, batch: Batch, why: str) -> None:
    """Raise where the guide draws more than the latents; `why` ends the message's sentence and says what to do."""
    with vae.evaluating(), fixed_seed(0, vae.device):
        auxiliary = sorted(set(run_guide(vae, batch, 1)) - set(vae.layout.latents))
    if auxiliary:
        raise ValueError(f"the guide has the auxiliary sites {', '.join(auxiliary)}: its density at {why}")
