"""What rows lack, drawn from p(x_absent | x_observed) by importance resampling of the guide's draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrovae.block_sizes import draws_at_once, slices
from pyrovae.checks import check_count
from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.discrete_dimensions import discrete_dimensions
from pyrovae.evidence.importance import PROBE_ROWS, ImportanceSampling
from pyrovae.evidence.imputed import Imputation, ImputedSite
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.predictive import SumsOverRows, estimates_of_draws, rounding_given
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.sequential import SequentialMonteCarlo
from pyrovae.evidence.shared_draws import SharedDraws
from pyrovae.evidence.shared_results import SharedSampling
from pyrovae.evidence.smoothed_draws import smoothed_draws
from pyrovae.evidence.weighted_draws import GUIDE, WeightedDraws, spread_places, weighted_draws
from pyrovae.evidence.weights import WITHOUT_DENSITY, Estimates, Tally, estimates, rounding_of
from pyrovae.frames import index_of
from pyrovae.pair.completion import Completion, completions
from pyrovae.pair.draws import enumerated_draws
from pyrovae.pair.layout import slice_latents
from pyrovae.pair.running import row_terms
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

# Of latents that rows share, each with its part of a row's draws.
SHARED_DRAWS = 50

# By block of rows what its sites are, and the evidence of all.
_Found: TypeAlias = tuple[list[dict[str, ImputedSite]], LogMarginal]


def impute(
    vae: VAE,
    x: object,
    *context: object,
    num_samples: int = 500,
    resample_from: int | None = None,
    method: ImportanceSampling | SequentialMonteCarlo = GUIDE,
    seed: int | None = None,
) -> Imputation:
    """Draw what rows lack from p(x_absent | x_observed), by self-normalized importance resampling.

        p(x_absent | x_observed) = int p(x_absent | z, x_observed) p(z | x_observed) dz
        z_m ~ q(z | x_observed),  w_m = p(x_observed, z_m) / q(z_m | x_observed),  m = 1, ..., M

    Means are sums of E[x_absent | z_m, x_observed] w_m / (w_1 + ... + w_M), with Pareto smoothed weights; draws take
    z_m as often as its weight says. Mattei & Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete
    Data Sets" (2019), https://arxiv.org/abs/1812.02633, section 3. So it is the model's posterior that imputes, and the
    guide only proposes, as in `log_marginal`: look at Pareto k, and where it is bad take more draws, `resample_from`,
    or the refined guide, `pv.refine(vae, x).vae`.

    Where rows share latents theta, up to 50 draws of q(theta) take their turn, each with as many of the S draws and of
    the M, and weights are compared given theta: p(x_absent | x_observed, theta), averaged over q(theta) as it is, the
    posterior of which rows that theta was trained on are part. One draw of all rows is at one draw of theta.

    What is absent is NaN where the model observes (`obs=`), or what `obs_mask=` says. Labels under `obs_mask=` have
    exact probabilities given the other latents, whether they are enumerated or sampled by the guide. Absent entries of
    a multivariate normal are drawn given the present ones. Rows that lack nothing come back as they are.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S, draws for each row; the result holds S times the data.
        resample_from: M, draws of the guide that are weighed; 4 S if None.
        method: where the M draws come from: `ImportanceSampling(prior_share)`, the guide, the prior or a mixture. Of
            chains `pyrovae.SequentialMonteCarlo`, which does not fail with their length: S chains traced back (see
            there); `weights` are then those of `log_marginal` by it, of `resample_from` particles, or 100 a run.
            `EscalatingSampling` and `AnnealedImportanceSampling` keep no draws: in their place refine the guide.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError, TypeError: data that do not fit the pair; counts below 1; another method, or one that does not fit
            the pair; draws of a guide without a density (see `pyrovae.pair.guide_density`); rows all of whose weights
            are zero or not finite (named).

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Normal(pv.nn.MLP(2, (4, 4)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder))
        >>> x = torch.randn(5, 4)
        >>> x[3, 1] = torch.nan
        >>> result = pv.impute(vae, x, num_samples=100, seed=0)
        >>> result.draws.shape, result.mean.isfinite().all()
        (torch.Size([100, 5, 4]), tensor(True))
        >>> result.to_frame()[["row", "site", "entry"]].to_numpy().tolist()
        [[3, 'x', 1]]

    """
    check_count("num_samples", num_samples)
    if resample_from is not None:
        check_count("resample_from", resample_from)
    if not isinstance(method, ImportanceSampling | SequentialMonteCarlo):
        raise TypeError(
            f"method is {method!r}: expected ImportanceSampling(prior_share), or of chains SequentialMonteCarlo(); "
            "others keep no draws. Where the guide's weights are poor, take the refined one, pv.refine(vae, x).vae."
        )
    num_weights = resample_from or 4 * num_samples
    data = checked_data(vae, x, *context, covers_shared=method == GUIDE, what="impute(method=)")
    if isinstance(method, SequentialMonteCarlo):
        blocks, evidence = _of_chains(vae, data, method, num_samples, resample_from, seed)
    elif vae.layout.shared:
        refuse_without_density(vae)
        blocks, evidence = _over_shared(vae, data, num_samples, num_weights, seed)
    else:
        blocks, evidence = _of_rows(vae, data, method, num_samples, num_weights, seed)
    sites = {name: _joined([block[name] for block in blocks]) for name in blocks[0]}
    return Imputation(sites, evidence, index_of(x[0] if isinstance(x, tuple) and x else x))


def _of_rows(
    vae: VAE, data: Rows, method: ImportanceSampling, num_samples: int, num_weights: int, seed: int | None
) -> _Found:
    """By draws of a row's own, weighed and drawn again."""
    sizes = method.strata(num_weights)
    method.check(vae, data.take(slice(0, PROBE_ROWS), vae.device), num_weights)
    with vae.evaluating(), fixed_seed(0, vae.device):
        rounding = rounding_of(row_terms(vae, data.take(slice(0, PROBE_ROWS), vae.device), 1))
    seeds, blocks, figures = seeds_from(seed), [], []
    for first, batch in data.in_blocks(vae.device):
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            drawn = weighted_draws(vae, batch, num_weights, method)
            weights = drawn.weights(first, WITHOUT_DENSITY)
            blocks.append(_sites([_imputed(vae, batch, drawn, weights, num_samples)]))
        tallies = [Tally(size, num_weights) for size in sizes]
        for tally, log_weights in zip(tallies, drawn.log_weights.split(sizes), strict=True):
            tally.add(log_weights)
        figures.append(estimates(tallies, rounding))
    evidence = LogMarginal(
        **vars(Estimates.joined(figures)), num_samples=num_weights, dimensions=discrete_dimensions(vae, data)
    )
    return blocks, evidence


def _of_chains(
    vae: VAE,
    data: Rows,
    method: SequentialMonteCarlo,
    num_samples: int,
    num_particles: int | None,
    seed: int | None,
) -> _Found:
    """By equally weighted chains traced back through a particle filter."""
    seeds, blocks = seeds_from(seed), []
    of_evidence = next(seeds)
    for first, batch in data.in_blocks(vae.device):
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            drawn = smoothed_draws(vae, batch, method, num_samples, first)
            weights = drawn.log_weights.softmax(0)
            blocks.append(_sites([_imputed(vae, batch, drawn, weights, num_samples)]))
    num_particles = num_particles or 100 * method.num_runs
    return blocks, log_marginal(vae, data, num_samples=num_particles, method=method, seed=of_evidence)


def _over_shared(vae: VAE, data: Rows, num_samples: int, num_weights: int, seed: int | None) -> _Found:
    """At one draw of what rows share after the other, each with its part of draws and weights."""
    seeds = seeds_from(seed)
    R = min(num_samples, SHARED_DRAWS)
    sizes = [len(part) for part in torch.arange(num_samples).tensor_split(R)]
    shared, K = SharedDraws(vae, data, R, next(seeds)), max(1, num_weights // R)
    rounding = rounding_given(shared, data)
    blocks, figures, sums = [], [], SumsOverRows(R)
    for first, batch in data.in_blocks(vae.device):
        parts, weighed = [], []
        for held, size in zip(shared, sizes, strict=True):
            with held.evaluating(), fixed_seed(next(seeds), vae.device):
                drawn = weighted_draws(held, batch, K)
                weights = drawn.weights(first, WITHOUT_DENSITY)
                parts.append(_imputed(held, batch, drawn, weights, size))
            weighed.append(drawn.log_weights)
        blocks.append(_sites(parts))
        log_weights = torch.stack(weighed)
        log_densities = log_weights.logsumexp(1) - math.log(K)
        # What was drawn is weighed given theta; of p(x|theta) is what is said of the evidence.
        tally = Tally(R * K, R * K)
        tally.add((log_weights - log_densities[:, None]).flatten(0, 1))
        given = estimates([tally])
        found = estimates_of_draws(log_densities, first, rounding)
        figures.append(replace(found, ess=given.ess, khat=given.khat))
        sums.add(log_densities)
    evidence = LogMarginal(
        **vars(Estimates.joined(figures)),
        num_samples=R * K,
        dimensions=discrete_dimensions(shared.vae, data),
        shared=SharedSampling(tuple(vae.layout.shared), R, K, sums.error),
    )
    return blocks, evidence


@dataclass(frozen=True)
class _Part:
    """Some draws of one block of rows, in pieces, and what is expected of what is absent."""

    num_samples: int
    pieces: list[dict[str, Completion]]
    expected: dict[str, Tensor]


def _imputed(vae: VAE, batch: Batch, drawn: WeightedDraws, weights: Tensor, num_samples: int) -> _Part:
    """So many draws of one block of rows."""
    expected: dict[str, Tensor] = {}
    for some, completed in _completed(vae, batch, drawn):
        for name, site in completed.items():
            if site.expected is not None:
                by_row = weights[some].reshape(*weights[some].shape, *[1] * (site.expected.dim() - 2))
                part = (by_row * site.expected.double()).sum(0)
                expected[name] = expected[name] + part if name in expected else part
    pieces = [
        site for _, site in _completed(vae, batch, drawn.taken(vae, spread_places(weights, num_samples)))
    ]
    return _Part(num_samples, pieces, expected)


def _sites(parts: list[_Part]) -> dict[str, ImputedSite]:
    """By site of one block of rows, from parts that count by their draws."""
    total = sum(part.num_samples for part in parts)
    expected = {
        name: torch.stack([part.num_samples / total * part.expected[name] for part in parts]).sum(0)
        for name in parts[0].expected
    }
    pieces = [piece for part in parts for piece in part.pieces]
    return {name: _site([piece[name] for piece in pieces], expected.get(name)) for name in pieces[0]}


def _completed(vae: VAE, batch: Batch, drawn: WeightedDraws) -> Iterator[tuple[slice, dict[str, Completion]]]:
    """The rows completed at some of the draws after the other."""
    row_numbers = math.prod(batch.x.shape[1:]) + vae.layout.latent_numbers
    for some in slices(len(drawn.log_weights), draws_at_once(row_numbers)):
        count = some.stop - some.start
        latents = slice_latents(drawn.latents, vae.layout, some, slice(None))
        latents |= enumerated_draws(vae, batch, latents, count)
        yield some, completions(vae, batch, latents, count)


def _site(pieces: list[Completion], expected: Tensor | None) -> ImputedSite:
    """What pieces of draws and the weighted sum of expectations make of one site."""
    draws, absent, options = (
        torch.cat([piece.value for piece in pieces]),
        pieces[0].absent,
        pieces[0].num_options,
    )
    present, probabilities = draws[0], None
    if options is not None:
        probabilities = one_hot(present.nan_to_num().long(), options).double()
        if expected is not None:
            probabilities = torch.where(absent[..., None], expected, probabilities)
        expected = probabilities.argmax(-1)
        probabilities = probabilities.cpu()
    mean = present if expected is None else torch.where(absent, expected.to(present.dtype), present)
    return ImputedSite(draws.cpu(), mean.cpu(), absent.cpu(), probabilities)


def _joined(blocks: list[ImputedSite]) -> ImputedSite:
    probabilities = [block.probabilities for block in blocks if block.probabilities is not None]
    return ImputedSite(
        torch.cat([block.draws for block in blocks], 1),
        torch.cat([block.mean for block in blocks]),
        torch.cat([block.absent for block in blocks]),
        torch.cat(probabilities) if probabilities else None,
    )
