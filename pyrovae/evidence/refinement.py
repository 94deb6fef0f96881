"""Non-amortized variational inference: each row gets a posterior of its own, all rows optimized together.

    q_n = argmax_q ELBO(x_n, q)        for every row n, with the model held fixed

Within one family, the gain over the guide that shares a network among all rows is the amortization gap. The
posterior found is the guide of a VAE of the same model (`pyrovae.evidence.moved_guide`), which everything else takes
like any other, for those rows (`pyrovae.evidence.known_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import check_count
from pyrovae.data import Batch
from pyrovae.evidence.known_rows import KnownRows
from pyrovae.evidence.marginal import NUMBERS_AT_ONCE, ROWS_AT_ONCE, RowWise
from pyrovae.evidence.moved_guide import Move, MovedGuide
from pyrovae.evidence.unconstrained import MakeTransform, checked_bijections, differentiable_recurrence
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import row_terms, run_guide
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

# Steps whose mean ELBO is compared with that of as many before them.
WINDOW = 100
# The learning rate is divided by this at each plateau; at the last one the search is over.
DIVISOR = 4.0
PLATEAUS = 4
# Far from the posterior slopes are steep, and Adam is slow for as long as it remembers them: 100 steps, and
# each as one of no more than this (in units of the spread; of order 1 where the posterior is).
BETAS = (0.9, 0.99)
STEEPEST = 100.0
# Draws of the guide that show where a row's posterior lies and how wide it is.
DRAWS_FOR_UNITS = 100
# A row takes its new posterior where the gain is beyond this many of its standard errors.
ERRORS_TO_BELIEVE = 2.0


@dataclass(frozen=True)
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
    x: Any,
    *context: Any,
    from_guide: bool = True,
    full_covariance: bool = False,
    num_steps: int = 3000,
    samples_per_step: int = 16,
    learning_rate: float = 0.1,
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

    Adam climbs the sum of the rows' ELBOs, of which each depends on its own row's parameters only. A plateau is
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
        samples_per_step: draws for each row and step.
        learning_rate: Adam's first, in units of the guide's spread, from scratch of 1.
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
    check_count("num_steps", num_steps)
    check_count("samples_per_step", samples_per_step)
    check_count("num_samples", num_samples)
    if num_samples == 1:
        raise ValueError("num_samples is 1: expected at least 2, or the gain of a row has no error.")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate!r}: expected a positive number.")
    data = vae.rows(x, *context)
    if not vae.layout.latents:
        raise ValueError(
            "there is nothing to refine: the latents of this model are all summed out, and its ELBO is log p(x)."
        )
    bijections = checked_bijections(vae, data)
    known = KnownRows(data.take(slice(None), vae.device))
    seeds = seeds_from(seed)
    found: list[list[Move]] = []
    figures: list[Tensor] = []
    taken, converged = 0, True
    with tqdm(desc="refine", total=len(known), unit=" rows", disable=not progress) as bar:
        for block in known.parts(ROWS_AT_ONCE):
            batch = data.take(block.first.cpu(), vae.device)
            with vae.evaluating(), differentiable_recurrence(vae):
                with fixed_seed(next(seeds), vae.device):
                    moves = _moves_at_start(
                        vae, batch, bijections, full_covariance=full_covariance, from_guide=from_guide
                    )
                    guide = MovedGuide(vae.guide, block, moves, from_scratch=not from_guide)
                    pair = Pair(vae.model, guide, vae.layout)
                    search = _Search(pair, guide, batch, samples_per_step, learning_rate)
                    done = search.run(num_steps)
                figures.append(_keep_the_better(pair, guide, batch, num_samples, next(seeds)))
            found.append(moves)
            taken, converged = max(taken, search.steps), converged and done
            bar.update(len(block))
    joined = [Move.joined(parts) for parts in zip(*found, strict=True)]
    refined = VAE(vae.model, MovedGuide(vae.guide, known, joined, from_scratch=not from_guide))
    refined.share_store(vae)
    refined.rows(x, *context)
    before, before_error, after, after_error, gain, gain_error, kept = torch.cat(figures, 1)[
        :, known.place.cpu()
    ]
    return Refinement(
        refined,
        before,
        before_error,
        after,
        after_error,
        gain,
        gain_error,
        kept.bool(),
        num_samples=num_samples,
        num_steps=taken,
        converged=converged,
    )


class _Search:
    """Adam over the moves of one block of rows."""

    def __init__(
        self, pair: Pair, guide: MovedGuide, batch: Batch, samples_per_step: int, learning_rate: float
    ) -> None:
        self.pair, self.arguments, self.samples_per_step = pair, batch, samples_per_step
        self.known, self.moves = guide.known, guide.of_sites()
        self.parameters = [p for move in self.moves for p in move.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, betas=BETAS)
        self.steps = 0

    def run(self, num_steps: int) -> bool:
        """Climb until the last plateau or for `num_steps`; whether it was the plateau."""
        plateaus, before = 0, None
        while plateaus < PLATEAUS and self.steps < num_steps:
            count = min(WINDOW, num_steps - self.steps)
            sums = [torch.zeros_like(parameter) for parameter in self.parameters]
            bounds = []
            for _ in range(count):
                bounds.append(self._step())
                torch._foreach_add_(sums, [parameter.detach() for parameter in self.parameters])
            now = torch.stack(bounds).double()
            if before is not None and len(now) == len(before) and not _rising(before, now):
                plateaus += 1
                for group in self.optimizer.param_groups:
                    group["lr"] /= DIVISOR
            before = now
        for parameter, total in zip(self.parameters, sums, strict=True):
            parameter.copy_(total / count)
            parameter.grad = None
        return plateaus == PLATEAUS

    def _step(self) -> Tensor:
        """One step; the ELBO of each row before it, [B]."""
        with torch.enable_grad():
            terms = row_terms(self.pair, self.arguments, self.samples_per_step)
            bound = (terms.log_likelihood - terms.rate).mean(0)
            # Only these: the model's parameters and the guide's are to get no gradients.
            gradients = torch.autograd.grad(-bound.sum(), self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # A row whose density is not finite at its draws waits for better ones.
            parameter.grad = gradient.nan_to_num(0.0).clamp(-STEEPEST, STEEPEST)
        if self.steps == 0:
            self._refuse_what_no_density_reads()
        self._stretched_step()
        self.steps += 1
        return bound.detach()

    def _stretched_step(self) -> None:
        """Adam's step, longer where q has outgrown the units: a guide far too narrow must not set the pace."""
        before = [(move.shift, move.shift.clone(), move.outgrown()) for move in self.moves]
        self.optimizer.step()
        for shift, old, factor in before:
            shift.copy_(torch.lerp(old, shift, factor))

    def _refuse_what_no_density_reads(self) -> None:
        """Where log p(x, z) is flat in u, the entropy of q grows without limit and the ELBO with it."""
        for move in self.moves:
            flat = move.flat()
            if bool(flat.any()):
                by_row = flat.movedim(flat.dim() - 2, 0).flatten(1).any(1)
                row = int(self.known.first[by_row].min())
                raise ValueError(
                    f"the model's density of row {row} does not depend on some entries of its latent '{move.name}', "
                    "which a mask or padding leaves out while the guide's density counts them: an ELBO has no "
                    "maximum there. Leave the entries out of both, with pyro.poutine.mask."
                )


def _rising(before: Tensor, now: Tensor) -> bool:
    """Whether ELBOs by step and row, [W,B], rose beyond their noise: of the rows together, or of any one."""
    rise = now.mean(0) - before.mean(0)
    variance = (now.var(0) + before.var(0)) / len(now)
    rise, variance = rise[variance.isfinite()], variance[variance.isfinite()]
    together = rise.sum() > 2 * variance.sum().sqrt()
    return bool(together | (rise > 4 * variance.sqrt()).any())


def _keep_the_better(pair: Pair, guide: MovedGuide, batch: Batch, num_samples: int, seed: int) -> Tensor:
    """Judge start and result on the same new draws, and take the start back where it is not worse: [7,B]."""
    start = Pair(pair.model, guide.at_start(), pair.layout)
    latents = sum(move.centre[..., :1, :].numel() for move in guide.of_sites())
    at_once = max(1, NUMBERS_AT_ONCE // (len(batch) * max(latents, batch.x[:1].numel(), 1)))
    before, after = (_bounds(which, batch, num_samples, at_once, seed) for which in (start, pair))
    (lower, lower_error), (upper, upper_error), (gain, error) = map(
        _mean_with_error, (before, after, after - before)
    )
    rescued = ~lower.isfinite() & upper.isfinite()
    gain, error = gain.masked_fill(rescued, torch.inf), error.masked_fill(rescued, torch.nan)
    kept = ~(rescued | (gain > ERRORS_TO_BELIEVE * error))
    nothing = ~upper.isfinite()
    for move in guide.of_sites():
        move.to_start(kept)
    return torch.stack(
        [
            lower,
            lower_error,
            torch.where(kept, lower, upper),
            torch.where(kept, lower_error, upper_error),
            gain.masked_fill(nothing, 0.0),
            error.masked_fill(nothing, 0.0),
            kept,
        ]
    ).cpu()


def _bounds(pair: Pair, batch: Batch, num_samples: int, at_once: int, seed: int) -> Tensor:
    """The ELBO by draw, [S,B]."""
    bounds = []
    with fixed_seed(seed, batch.device):
        for done in range(0, num_samples, at_once):
            terms = row_terms(pair, batch, min(at_once, num_samples - done))
            bounds.append((terms.log_likelihood - terms.rate).double())
    return torch.cat(bounds)


def _mean_with_error(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0) / len(values) ** 0.5


def _moves_at_start(
    vae: VAE,
    batch: Batch,
    bijections: Mapping[str, MakeTransform | None],
    *,
    full_covariance: bool,
    from_guide: bool,
) -> list[Move]:
    """Identity maps for one block of rows, in units of where the guide's draws lie; from scratch, of 0 and 1."""
    moves: list[Move] = []
    for name, site in run_guide(vae, batch, DRAWS_FOR_UNITS).items():
        latent = vae.layout.latents.get(name)
        if latent is None:
            continue
        transform, event_shape = bijections[name], latent.event_shape
        u = site.value
        if transform is not None:
            u, event_shape = transform().inv(u), transform().inverse_shape(event_shape)
        # [S, *inner plates, B, d], without the plates of other sites.
        u = u.reshape(*u.shape[: u.dim() - len(event_shape)], event_shape.numel())
        batch_dim = -min((-1, *latent.inner_dims))
        u = u.reshape(len(u), *u.shape[u.dim() - 1 - batch_dim :])
        centre, spread = u.mean(0), u.std(0)
        usual = (centre.abs() < torch.inf) & (spread > 0) & (spread < torch.inf) & from_guide
        above = {
            move.name: move.centre.shape[-1]
            for move in moves
            if set(vae.layout.latents[move.name].inner_dims) <= set(latent.inner_dims)
        }
        moves.append(
            Move(
                name,
                transform,
                event_shape,
                centre.where(usual, 0.0),
                spread.where(usual, 1.0),
                above if full_covariance else None,
            )
        )
    return moves
