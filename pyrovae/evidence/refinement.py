"""Non-amortized variational inference: each row gets a posterior of its own, all rows optimized together.

    q_n = argmax_q ELBO(x_n, q)        for every row n, with the model held fixed

Within one family, the gain over the guide that shares a network among all rows is the amortization gap. The
posterior found is the guide of a VAE of the same model (`pyrovae.evidence.moved_guide`), which everything else takes
like any other, for those rows (`pyrovae.evidence.known_rows`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae.block_sizes import ROWS_AT_ONCE
from pyrovae.checks import check_count, is_number
from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import checked_data
from pyrovae.evidence.joint import Joint
from pyrovae.evidence.known_rows import KnownRows
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.moved_guide import Move, MovedGuide
from pyrovae.evidence.refinement_judgement import Gains, keep_the_better
from pyrovae.evidence.refinement_newton import normal_start, search_by_newton
from pyrovae.evidence.refinement_search import Search, moves_at_start
from pyrovae.evidence.results import RowWise
from pyrovae.evidence.row_normals import FEWEST_PAIRS, MOST_NUMBERS
from pyrovae.evidence.unconstrained import MakeTransform, bijections_of, differentiable_recurrence
from pyrovae.pair.programs import Pair
from pyrovae.progress import Bar
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE


@dataclass(frozen=True, repr=False)
class Refinement(RowWise):
    """What `refine` gives: the refined VAE, and per row the ELBO before and after.

    A row keeps the posterior it started from (`kept`) unless the new one is better by twice the standard error of
    their difference, both judged on the same draws, which the search has not seen. So `elbo_after`, of the posterior
    that a row has now, is never below `elbo_before`.

    `gain` is what the search found beyond the start, of every row alike: to count it only where it is large, as
    `elbo_after` does, would leave out many small gains. From a diagonal normal guide by diagonal maps its mean is the
    amortization gap; what a full covariance gains beyond that is the family's. It is infinite for a start without a
    finite ELBO, and 0 where the search found nothing finite.

    The `std_error`s are Monte Carlo errors over `num_samples` draws. `converged` says whether the search ended by its
    own rule within the limit of steps, in every block of rows; `num_steps` is how many steps the slowest block took.
    """

    vae: VAE
    elbo_before: Tensor
    std_error_before: Tensor
    elbo_after: Tensor
    std_error_after: Tensor
    gain: Tensor
    std_error_gain: Tensor
    kept: Tensor
    num_samples: int
    num_steps: int
    converged: bool

    columns: ClassVar[tuple[str, ...]] = (
        "elbo_before",
        "std_error_before",
        "elbo_after",
        "std_error_after",
        "gain",
        "std_error_gain",
    )

    def __str__(self) -> str:
        ended = (
            f"converged within {self.num_steps} steps"
            if self.converged
            else f"NOT converged at the limit of {self.num_steps} steps: raise num_steps"
        )
        error = float((self.std_error_gain**2).sum().sqrt() / len(self))
        return (
            f"ELBO {self.elbo_before.mean():.3f} before, {self.elbo_after.mean():.3f} after refining, gain "
            f"{self.gain.mean():.3f} ± {error:.3f} (Monte Carlo) nats per row over {len(self)} rows "
            f"({int(self.kept.sum())} kept their start; {self.num_samples} samples; {ended})"
        )


def refine(
    vae: VAE,
    x: object,
    *context: object,
    from_guide: bool = True,
    full_covariance: bool = False,
    num_steps: int = 3000,
    samples_per_step: int | None = None,
    learning_rate: float | None = None,
    num_samples: int = 1000,
    seed: int | None = None,
    progress: bool = False,
) -> Refinement:
    """Find each row the posterior that maximizes its own ELBO; the model stays as it is.

    Semi-amortized, from the guide: each row's posterior is the guide's own under an affine map of the row's
    own in unconstrained coordinates, u -> b + A u with u = T^-1(z), T = biject_to(support), begun at the
    identity. Kim, Wiseman, Miller, Sontag, Rush, "Semi-Amortized Variational Autoencoders" (2018),
    https://arxiv.org/abs/1802.02550. From scratch: u is standard normal in place of the guide's draw, which is
    basic variational inference with a normal. So a diagonal A keeps the family of a diagonal normal guide, and
    moves a mixture or a flow as a whole; a full one gives every covariance within and between the latent
    sites (elements of a plate inside a row stay independent of each other given the sites before them, and
    a site depends on those before it whose plates it lies in). Within the guide's family the gain is the
    amortization gap of Cremer, Li, Duvenaud, "Inference Suboptimality in Variational Autoencoders" (2018),
    https://arxiv.org/abs/1801.03558.

    Where a row's posterior is a normal of one latent site (from scratch, or moved from a guide that is normal in
    unconstrained coordinates, with covariances if the guide has some), Newton's steps find it, each row until it has
    settled (`pyrovae.evidence.row_normals`): some ten steps of 2 max(d, 8) gradients of log p(x, z), d being the
    numbers of its latents.

    Else, or where `samples_per_step` or `learning_rate` is given, Adam climbs the sum of the rows' ELBOs, of which each
    depends on its own row's parameters only. A plateau is
    reached when the mean over 100 steps rises neither for the rows together (2 standard errors) nor for any
    single row (4); the learning rate is divided by 4 at each plateau, the fourth ends the search, and
    the parameters found are means over the last 100 steps. A row that climbs more slowly than it is noisy
    counts as settled: more `samples_per_step` find what is left.

    Args:
        vae: the pair; neither changed nor given gradients. It runs in evaluation mode.
        x: [N, ...]
        context: what the pair takes beside `x`.
        from_guide: start at the guide's posterior; else from scratch, at a standard normal.
        full_covariance: A is lower triangular over all latents of a row; else diagonal.
        num_steps: a limit; `Refinement.converged` says whether it was enough.
        samples_per_step: Adam's draws for each row and step; 16 if None.
        learning_rate: Adam's first, in units of the guide's spread, from scratch of 1; 0.1 if None.
        num_samples: draws, at least 2, on which the ELBO before and after is judged.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar.

    Returns:
        The ELBOs by row, and `vae`: a VAE of the same model whose guide takes these rows only, in any order and
        number, known by their content (x and context), and refuses others. It shares model and guide with
        the one given: train that further, and refine again.

    Raises:
        ValueError, TypeError: data that do not fit the pair, or lie outside a likelihood's support (with
            the row); counts below 1; a learning rate that is not positive; latents that cannot be mapped to
            real numbers (discrete ones that the guide samples; a support that differs between rows, or
            without a bijection); a guide without reparameterized draws; a latent that the model's density of
            some row does not depend on.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> x = torch.bernoulli(torch.full((5, 64), 0.5))
        >>> refined = pv.refine(vae, x, num_steps=100, seed=0)
        >>> bool((refined.elbo_after >= refined.elbo_before).all()), len(pv.elbo(refined.vae, x))
        (True, 5)

    """
    by_adam = not (samples_per_step is None and learning_rate is None)
    settings = _Settings(
        from_guide,
        full_covariance,
        num_steps,
        16 if samples_per_step is None else samples_per_step,
        0.1 if learning_rate is None else learning_rate,
        num_samples,
    )
    data = checked_data(vae, x, *context, what="refine")
    if not vae.layout.latents:
        raise ValueError(
            "there is nothing to refine: the latents of this model are all summed out, and its ELBO is log p(x)."
        )
    bijections = bijections_of(vae, data)
    known = KnownRows(data.take(slice(None), vae.device))
    joint = None if by_adam else _joint_of_one_site(vae, data)
    blocks, seeds = [], seeds_from(seed)
    with Bar("refine", " rows", shown=progress, total=len(known)) as bar:
        for some in known.parts(ROWS_AT_ONCE):
            batch = data.take(some.first, vae.device)
            blocks.append(_refined_block(vae, batch, some, bijections, settings, seeds, joint))
            bar.update(len(some))
    moves = [Move.joined(parts) for parts in zip(*(block.moves for block in blocks), strict=True)]
    refined = VAE(vae.model, MovedGuide(vae.guide, known, moves, from_scratch=not from_guide))
    refined.share_store(vae)
    refined.rows(data)
    data.checked_by.add(refined)  # its likelihood is the same
    gains = Gains.joined(block.gains for block in blocks)[known.place.cpu()]
    return Refinement(
        refined,
        **vars(gains),
        num_samples=num_samples,
        num_steps=max(block.num_steps for block in blocks),
        converged=all(block.converged for block in blocks),
    )


@dataclass(frozen=True)
class _Settings:
    """What `refine` is told, checked."""

    from_guide: bool
    full_covariance: bool
    num_steps: int
    samples_per_step: int
    learning_rate: float
    num_samples: int

    def __post_init__(self) -> None:
        for name in ("num_steps", "samples_per_step", "num_samples"):
            check_count(name, getattr(self, name))
        if self.num_samples == 1:
            raise ValueError("num_samples is 1: expected at least 2, or the gain of a row has no error.")
        if not (is_number(self.learning_rate) and 0 < self.learning_rate < float("inf")):
            raise ValueError(f"learning_rate is {self.learning_rate!r}: expected a positive number.")


@dataclass(frozen=True)
class _Block:
    """What became of one block of rows."""

    moves: list[Move]
    gains: Gains
    num_steps: int
    converged: bool


def _refined_block(
    vae: VAE,
    batch: Batch,
    known: KnownRows,
    bijections: Mapping[str, MakeTransform | None],
    settings: _Settings,
    seeds: Iterator[int],
    joint: Joint | None,
) -> _Block:
    """Search and judge, each with draws of its own."""
    from_guide = settings.from_guide
    with vae.evaluating(), differentiable_recurrence(vae):
        with fixed_seed(next(seeds), vae.device):
            moves = moves_at_start(
                vae, batch, bijections, full_covariance=settings.full_covariance, from_guide=from_guide
            )
            guide = MovedGuide(vae.guide, known, moves, from_scratch=not from_guide)
            pair = Pair(vae.model, guide, vae.layout)
            steps, converged = _searched(pair, guide, batch, settings, joint)
        gains = keep_the_better(pair, guide, batch, settings.num_samples, next(seeds))
    return _Block(moves, gains, steps, converged)


def _searched(
    pair: Pair, guide: MovedGuide, batch: Batch, settings: _Settings, joint: Joint | None
) -> tuple[int, bool]:
    """Move the guide to the best of its family, by Newton's steps where that is a normal; how many, and if enough."""
    if joint is not None:
        (move,) = guide.of_sites()
        start = normal_start(joint, batch, move, from_guide=settings.from_guide)
        if start is not None and not bool(joint.flat(batch, start[0].unsqueeze(0)).any()):
            keys = torch.randint(2**62, (len(batch),), device="cpu").to(batch.device)
            found = search_by_newton(joint, batch, move, start, keys, settings.num_steps)
            return int(found.steps.max()), bool(found.converged.all())
    search = Search(pair, guide, batch, settings.samples_per_step, settings.learning_rate)
    converged = search.run(settings.num_steps)
    return search.steps, converged


def _joint_of_one_site(vae: VAE, data: Rows) -> Joint | None:
    """Where a row's latents are one site outside of inner plates, and of so few numbers that covariances are found."""
    (first, *others) = vae.layout.latents.values()
    if others or first.inner_dims or first.numel > MOST_NUMBERS:
        return None
    # Nobody has set a budget: pieces are as small as speed wants them, and none is refused.
    return Joint.of(vae, data, 2 * max(first.numel, FEWEST_PAIRS), Limits(sys.maxsize), score_guide=False)
