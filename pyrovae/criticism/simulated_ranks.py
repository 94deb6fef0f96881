"""Ranks of true latents, and of what follows from them, among the draws of a guide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pyrovae.block_sizes import NUMBERS_AT_ONCE, ROWS_AT_ONCE, slices
from pyrovae.criticism.quantities import DISTANCE, GUIDE, LIKELIHOOD, Quantity, RandomPoints, values_of
from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import refuse_without_density
from pyrovae.evidence.results import Figures
from pyrovae.evidence.simulated_data import AsX, simulated
from pyrovae.pair.draws import enumerated_draws
from pyrovae.pair.layout import pyro_layout, rows_first
from pyrovae.pair.running import run_guide, run_model
from pyrovae.pair.sites import ScoredSite, Term
from pyrovae.pair.terms import RowTerms
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

NO_RANK = -1
# Weighted draws of the guide for each plain one.
WEIGHTS_PER_DRAW = 10
# Of latents that rows share, each with its part of the simulations.
SHARED_DRAWS = 20
# So that what is compared fits into a processor's cache.
QUANTITIES_AT_ONCE = 32


@dataclass(frozen=True)
class Ranked(Figures):
    """Of one quantity in B simulations, [B] each: ranks of the truth, itself, and the moments of L draws.

    `rank` is that among L draws of the guide, `corrected` that among weighted draws.
    """

    rank: Tensor
    corrected: Tensor
    truth: Tensor
    mean: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Beside:
    """What is ranked beside single latents and densities: functions, and distances to points."""

    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    points: RandomPoints | None = None

    def __getitem__(self, rows: slice) -> Beside:
        """For some rows."""
        return Beside(self.quantities, None if self.points is None else self.points[rows])


def given_draws(
    vae: VAE, num_simulations: int, context: tuple[object, ...], seeds: Iterator[int]
) -> Iterator[tuple[VAE, int, tuple[object, ...]]]:
    """The VAE with all simulations and their context; where rows share latents, at draws of these, each with a part."""
    if not vae.layout.shared:
        yield vae, num_simulations, context
        return
    every = Rows((torch.zeros(num_simulations), *context))
    parts = torch.arange(num_simulations).tensor_split(min(num_simulations, SHARED_DRAWS))
    for held, places in zip(vae.given_draws(len(parts), next(seeds)), parts, strict=True):
        yield held, len(places), every.take(places).context


def simulated_ranks(
    vae: VAE,
    num_simulations: int,
    context: tuple[object, ...],
    num_draws: int,
    quantities: Mapping[str, Quantity],
    as_x: AsX | None,
    seeds: Iterator[int],
    *,
    tarp: bool,
) -> Iterator[dict[str, Ranked]]:
    """Simulate rows, and rank what made them; one block after the other."""
    with fixed_seed(next(seeds), vae.device):
        truth, data = simulated(vae, num_simulations, context, as_x)
        points = RandomPoints.of(vae.sample_prior(num_simulations, *context)[0]) if tarp else None
    refuse_without_density(vae)
    numbers = max(
        1, sum(site.numel for site in (*vae.layout.latents.values(), *vae.layout.observed.values()))
    )
    at_once = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // (numbers * WEIGHTS_PER_DRAW * num_draws)))
    beside = Beside(quantities, points)
    for block in slices(num_simulations, at_once):
        some = data.take(block, vae.device)
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            here = {name: z[block] for name, z in truth.items()}
            found = ranks_of_truth(vae, some, here, num_draws, beside[block])
        yield found


def ranks_of_truth(
    vae: VAE, batch: Batch, truth: Mapping[str, Tensor], num_draws: int, beside: Beside
) -> dict[str, Ranked]:
    """The true quantities among L draws of the guide, and among weighted draws, by quantity."""
    S = WEIGHTS_PER_DRAW * num_draws
    layout = vae.layout
    guide_sites = run_guide(vae, batch, S)
    latents = {name: guide_sites[name].value for name in layout.latents}
    # The truth is scored together with the draws: what is equal must come out equal, to rounding.
    both = {
        name: torch.cat([z, pyro_layout(truth[name][None], layout.latents[name], layout.sample_dim)])
        for name, z in latents.items()
    }
    model_sites = run_model(vae, batch, both, S + 1)
    terms = RowTerms(model_sites, guide_sites, both, layout, broadcasts=False)
    joint, log_likelihood = terms.log_likelihood + terms.log_prior, terms.log_likelihood
    weights = normalized_weights(joint[:S] - terms.log_guide if guide_sites else joint[:S])
    groups: list[_Group] = []
    hidden: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    for name, site in layout.latents.items():
        hidden[name] = rows_first(both[name], site)
        kept[name] = _counted_in_both(vae, name, guide_sites, model_sites)
        groups.append(_scalars(name, hidden[name], kept[name]))
    for name, draws in enumerated_draws(vae, batch, latents, S).items():
        values = torch.cat([rows_first(draws, layout.enumerated[name]), truth[name][None]])
        hidden[name] = values
        groups.append(_scalars(name, values, torch.ones_like(values[0], dtype=torch.bool)))
    everywhere = torch.ones(log_likelihood.shape[1], dtype=torch.bool)
    if latents:
        groups.append(_scalars(LIKELIHOOD, log_likelihood, everywhere))
    if latents and set(guide_sites) == set(latents):
        scored = run_guide(vae, batch, S + 1, latents=both)
        density = torch.stack([site.log_prob for site in scored.values()]).sum(0)
        groups.append(_scalars(GUIDE, density, everywhere))
    groups += _groups_beside(beside, hidden, kept, batch)
    found: dict[str, Ranked] = {}
    for group in groups:
        found |= _ranked(group, weights, num_draws)
    return found


def _groups_beside(
    beside: Beside, hidden: Mapping[str, Tensor], kept: Mapping[str, Tensor], batch: Batch
) -> list[_Group]:
    groups = []
    for name, function in beside.quantities.items():
        values = values_of(name, function, hidden, batch)
        groups.append(_scalars(name, values, ~values[-1].isnan()))
    if beside.points is not None:
        values = beside.points.distance(hidden, kept)
        groups.append(_scalars(DISTANCE, values, torch.ones_like(values[0], dtype=torch.bool)))
    return groups


@dataclass(frozen=True)
class _Group:
    """Q quantities: draws and the truth behind them, [S + 1, B, Q], and in which rows they count, [B, Q]."""

    names: list[str]
    values: Tensor
    kept: Tensor


def _ranked(group: _Group, weights: Tensor, num_draws: int) -> dict[str, Ranked]:
    """By quantity of the group."""
    left_out = ~group.kept.cpu()
    ranks = _ranks(group.values, weights, num_draws).cpu().masked_fill(left_out, NO_RANK)
    numbers = (
        group.values.double()
        if group.values.is_floating_point()
        else torch.full_like(group.values, torch.nan, dtype=torch.float64)
    )  # labels have no mean
    draws = numbers[:num_draws]
    spread = draws.std(0) if num_draws > 1 else torch.full_like(draws[0], torch.nan)
    moments = (f.cpu().masked_fill(left_out, torch.nan) for f in (numbers[-1], draws.mean(0), spread))
    columns = [*ranks, *moments]
    return {name: Ranked(*(column[:, place] for column in columns)) for place, name in enumerate(group.names)}


def _ranks(values: Tensor, weights: Tensor, num_draws: int) -> Tensor:
    """Of the truth among L draws, and among all with their weights: [2, B, Q]."""
    S, B, Q = len(weights), *values.shape[1:]
    equal = torch.full_like(weights[:num_draws], 1 / num_draws)
    # Quantity by quantity, as if each were asked after alone.
    chance = torch.rand(Q, 2, B, dtype=weights.dtype, device=weights.device).permute(1, 2, 0)
    ranks = torch.empty(2, B, Q, dtype=torch.int64, device=weights.device)
    for some in slices(Q, QUANTITIES_AT_ONCE):
        part = values[..., some].contiguous()
        for place, (draws, share) in enumerate(((part[:num_draws], equal), (part[:S], weights))):
            ranks[place, :, some] = weighted_rank(
                draws, part[S], share[..., None], num_draws, chance[place, :, some]
            )
    return ranks


def normalized_weights(log_weights: Tensor) -> Tensor:
    """Weights [S,B] that sum to one; equal where no draw has any."""
    # -inf becomes the lowest number as well, and a row of nothing else has equal weights.
    lowest = torch.finfo(torch.float64).min
    return log_weights.double().nan_to_num(nan=lowest, neginf=lowest).softmax(0)


def weighted_rank(
    draws: Tensor, truth: Tensor, weights: Tensor, num_draws: int, chance: Tensor | None = None
) -> Tensor:
    """Where the truth [B] lies among draws [S,B] of these weights, as a rank 0..L; ties, to rounding, at random.

        rank = floor((L + 1) (sum_s w_s [z_s < z] + U (sum_s w_s [z_s = z] + v)) / (1 + v)),    v = sum_s w_s^2

    v, one over the effective sample size, is the truth's own share. With L draws of equal weight this is how many
    lie below; with S draws of equal weight it is uniform as well where the truth is one of them. Several quantities at
    once, [S,B,Q], have weights [S,B,1]; `chance` is U, drawn here if None.
    """
    precision = torch.finfo(draws.dtype).eps if draws.dtype.is_floating_point else 0.0
    equal = (draws == truth) | ((draws - truth).abs() <= 16 * precision * truth.abs())
    below, tied = ((weights * which).sum(0) for which in ((draws < truth) & ~equal, equal))
    own = (weights**2).sum(0)
    if chance is None:
        chance = torch.rand(own.shape, dtype=own.dtype, device=own.device)
    place = (below + chance * (tied + own)) / (1 + own)
    return (place * (num_draws + 1)).long().clamp(max=num_draws)


def _scalars(name: str, values: Tensor, kept: Tensor) -> _Group:
    """Every scalar of a latent [S,B,...] by its name, with the rows in which it counts, [B, ...]."""
    own = values.shape[2:]
    names = [name + (f"[{','.join(map(str, index))}]" if index else "") for index in np.ndindex(*own)]
    return _Group(
        names,
        values.reshape(*values.shape[:2], len(names)),
        kept.expand(values.shape[1:]).reshape(-1, len(names)),
    )


def _counted_in_both(
    vae: VAE, name: str, guide_sites: Mapping[str, Term], model_sites: Mapping[str, Term]
) -> Tensor:
    """Which entries of a latent neither program masks, [B, *inner plates, *event]."""
    kept = torch.ones((), dtype=torch.bool, device="cpu")
    runs = ((guide_sites, vae.layout.guide_broadcasts), (model_sites, vae.layout.model_broadcasts))
    for sites, broadcasts in runs:
        site = sites.get(name)  # in the model, enumeration may have joined it with others
        if isinstance(site, ScoredSite):
            kept = kept & site.in_rows(site.counted, vae.layout, broadcasts)[0]
    return kept
