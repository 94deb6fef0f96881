"""Are a guide's tails too light for a row? Asked of draws that go farther than its own.

Where a guide falls faster than the posterior its weights are unbounded, and the large ones are those that so many draws
hardly ever make: estimates of log p(x) err low by more than they state, while Pareto k of the weights that were drawn
is good. Draws of the guide together with draws of the same guide made wider, in unconstrained coordinates, go there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro
import torch
from torch import Tensor
from torch.distributions.transforms import (
    ComposeTransform,
    IndependentTransform,
    SigmoidTransform,
    StickBreakingTransform,
    Transform,
)

from pyrovae.block_sizes import counts, draws_at_once
from pyrovae.checks import check_count
from pyrovae.data import Batch
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.importance import PROBE_ROWS, refuse_auxiliary_sites
from pyrovae.evidence.known_rows import KnownRows
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.moved_guide import MovedGuide
from pyrovae.evidence.refinement_search import moves_at_start
from pyrovae.evidence.results import Figures, RowWise
from pyrovae.evidence.unconstrained import MakeTransform, bijections_of
from pyrovae.evidence.weights import Tally, estimates
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import run_guide, run_model
from pyrovae.pair.sites import Term
from pyrovae.pair.support import zero_outside
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

# By what the guide's spread is multiplied; itself first.
WIDTHS = (1.0, 2.0, 4.0)
# Unconstrained coordinates beyond which a sigmoid is one, to some roundings, and an exponential out of range.
STEEPEST, FARTHEST = 14.0, 80.0
# Standard errors of the difference beyond which a row's tails are too light, and the share of it missed.
ERRORS, SHARE = 3.0, 0.01


@dataclass(frozen=True, repr=False)
class TailCheck(RowWise):
    """What `tail_check` gives, per row, float64 tensors [N].

    `log_marginal` and `std_error` are the guide's, as `pyrovae.log_marginal` has them, `wider` and `wider_error` those
    of the mixture with wider guides; `missed` is the share of the row's posterior where S draws of the guide hardly
    ever come: one draw there weighs as much as all of them together.

    Example:
        >>> of_guide = torch.tensor([-5.21, -3.0]), torch.tensor([0.03, 0.01])
        >>> of_mixture = torch.tensor([-5.03, -3.0]), torch.tensor([0.01, 0.01])
        >>> TailCheck(*of_guide, *of_mixture, torch.tensor([0.15, 0.0]), 5000).too_light
        tensor([ True, False])

    """

    log_marginal: Tensor
    std_error: Tensor
    wider: Tensor
    wider_error: Tensor
    missed: Tensor
    num_samples: int

    columns: ClassVar[tuple[str, ...]] = ("log_marginal", "std_error", "wider", "wider_error", "missed")

    @property
    def too_light(self) -> Tensor:
        """Which rows' log p(x) the guide's draws put too low by more than its error says, [N].

        They are more than three errors of the difference below the mixture's, or miss more than 1% of the posterior.
        """
        error = torch.hypot(self.std_error, self.wider_error)
        return (self.wider - self.log_marginal > ERRORS * error) | (self.missed > SHARE)

    @property
    def passed(self) -> bool:
        """Whether no more rows than chance has them, one in a hundred, have tails too light."""
        return float(self.too_light.double().mean()) <= SHARE

    def __str__(self) -> str:
        light = self.too_light
        of = f"{int(light.sum())} of {len(self)} rows ({self.num_samples} draws)"
        if self.passed:
            return f"Tails: the guide's are too light for {of}; wider draws find no more than its own."
        lower = float((self.wider - self.log_marginal)[light].mean())
        return (
            f"Tails: the guide's are TOO LIGHT for {of}, whatever Pareto k says: log p(x) of these errs low by "
            f"{lower:.3f} nats on average, and up to {float(self.missed.max()):.1%} of a posterior lies where its "
            "draws hardly ever come. Take a heavier family, AutoGuide(model, family=families.by_prior) or student_t, "
            "or ImportanceSampling(prior_share=0.1)."
        )


def tail_check(
    vae: VAE, x: object, *context: object, num_samples: int = 1000, seed: int | None = None
) -> TailCheck:
    """Find rows for which the guide's tails are too light, which Pareto k of its own draws may call good.

    S draws of the guide are set against S of a mixture: a third each of the guide itself and of the guide made 2 and 4
    times as wide around its centre in unconstrained coordinates, weighed as one (Hesterberg 1995, see
    `ImportanceSampling`). Wider draws of many latents at once go too far out to tell of any: the check is for up to
    some ten dimensions, beyond which `reverse_check` tells on average over rows.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S, at least 30.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError: as `log_marginal` and `refine`: latents that are discrete, or without a map to real numbers;
            auxiliary sites of the guide, whose density at given latents is unknown; too few samples.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> x = pv.VAE(model, pv.guides.ExactGuide(model), example=torch.zeros(5, 4)).generate(20, seed=0)
        >>> pv.tail_check(pv.VAE(model, pv.guides.ExactGuide(model)), x, seed=0).passed
        True

    """
    check_count("num_samples", num_samples)
    if num_samples < 10 * len(WIDTHS):
        raise ValueError(f"num_samples is {num_samples}: expected at least {10 * len(WIDTHS)}.")
    data = checked_data(vae, x, *context, what="tail_check")
    refuse_without_density(vae)
    if not vae.layout.latents:
        raise ValueError(
            "the latents of this model are all summed out: there are no tails, log p(x) is exact."
        )
    few = data.take(slice(0, PROBE_ROWS), vae.device)
    refuse_auxiliary_sites(vae, few, "given latents is unknown. Use reverse_check() or calibrate().")
    bijections = bijections_of(vae, data)
    seeds = seeds_from(seed)
    found = log_marginal(vae, data, num_samples=num_samples, seed=next(seeds))
    blocks = []
    for first, batch in data.in_blocks(vae.device):
        here = found.log_marginal[first : first + len(batch)]
        with vae.evaluating():
            blocks.append(_of_block(vae, batch, bijections, num_samples, next(seeds), here))
    of_mixture = _Wider.joined(blocks)
    return TailCheck(found.log_marginal, found.std_error, **vars(of_mixture), num_samples=num_samples)


@dataclass(frozen=True)
class _Wider(Figures):
    """What the mixture says of some rows, [B]."""

    wider: Tensor
    wider_error: Tensor
    missed: Tensor


def _of_block(
    vae: VAE,
    batch: Batch,
    bijections: Mapping[str, MakeTransform | None],
    num_samples: int,
    seed: int,
    log_marginal: Tensor,
) -> _Wider:
    sizes = [num_samples // len(WIDTHS) + (place < num_samples % len(WIDTHS)) for place in range(len(WIDTHS))]
    tallies = [Tally(size, num_samples) for size in sizes]
    of_mixture, of_guide = [], []
    at_once = draws_at_once(math.prod(batch.x.shape[1:]) + vae.layout.latent_numbers)
    # The widest draws may lie beyond the numbers of their dtype, which is no mistake.
    with fixed_seed(seed, vae.device), pyro.validation_enabled(False):
        pairs = _widened(vae, batch, bijections)
        for pair, size, tally in zip(pairs, sizes, tallies, strict=True):
            for count in counts(size, at_once):
                drawn = run_guide(pair, batch, count)
                latents = {name: drawn[name].value for name in vae.layout.latents}
                model = run_model(vae, batch, latents, count)
                joint = _total(zero_outside(model, vae.layout, vae.layout.model_broadcasts))
                log_guides = torch.stack(
                    [_total(run_guide(one, batch, count, latents=latents)) for one in pairs]
                )
                shares = log_guides + torch.tensor(sizes).double().log()[:, None, None].to(joint.device)
                # They weigh nothing, and what is left errs low at most.
                nothing = ~(joint.isfinite() & shares.isfinite().all(0)) | _lost(vae, latents, bijections)
                of_mixture.append(
                    (joint - shares.logsumexp(0) + math.log(num_samples))
                    .masked_fill(nothing, -math.inf)
                    .cpu()
                )
                of_guide.append((joint - log_guides[0]).masked_fill(nothing, -math.inf).cpu())
                tally.add(of_mixture[-1])
    found = estimates(tallies)
    beyond = torch.cat(of_guide) > math.log(num_samples) + torch.maximum(found.log_marginal, log_marginal)
    weights = torch.cat(of_mixture).softmax(0)
    return _Wider(found.log_marginal, found.std_error, (weights * beyond).sum(0))


def _widened(vae: VAE, batch: Batch, bijections: Mapping[str, MakeTransform | None]) -> list[Pair]:
    """The pair with its guide at each of the widths; angles, which have no tails, stay as they are."""
    known = KnownRows(batch)
    moves = moves_at_start(vae, batch[known.first], bijections, full_covariance=False, from_guide=True)
    moves = [move for move in moves if vae.layout.latents[move.name].family != "VonMises"]
    pairs = []
    for width in WIDTHS:
        wider = copy.deepcopy(moves)
        for move in wider:
            with torch.no_grad():
                move.log_scale.fill_(math.log(width))
        guide = MovedGuide(vae.guide, known, wider, from_scratch=False)
        pairs.append(Pair(vae.model, guide if width != 1 else vae.guide, vae.layout))
    return pairs


def _lost(vae: VAE, latents: Mapping[str, Tensor], bijections: Mapping[str, MakeTransform | None]) -> Tensor:
    """Which draws lie where a map to a support is flat at float32, so that their density is lost to rounding, [S,B]."""
    found = []
    for name, value in latents.items():
        make, site = bijections[name], vae.layout.latents[name]
        if make is None:
            continue
        u = make().inv(value)
        flat = (u > (STEEPEST if _saturates(make()) else FARTHEST)) | ~(u > -FARTHEST)
        flat = flat.reshape(*value.shape[: value.dim() - len(site.event_shape)], -1).any(-1)
        found.append(flat.reshape(len(flat), -1, flat.shape[-1]).any(1))
    return torch.stack(found).any(0) if found else torch.zeros((), dtype=torch.bool)


def _saturates(transform: Transform) -> bool:
    """Whether it goes through a sigmoid, whose values near one are few numbers."""
    if isinstance(transform, ComposeTransform):
        return any(map(_saturates, transform.parts))
    if isinstance(transform, IndependentTransform):
        return _saturates(transform.base_transform)
    return isinstance(transform, SigmoidTransform | StickBreakingTransform)


def _total(sites: Mapping[str, Term]) -> Tensor:
    return torch.stack([site.log_prob.double() for site in sites.values()]).sum(0)
