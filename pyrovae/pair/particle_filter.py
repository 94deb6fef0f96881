"""Sequential Monte Carlo over the steps of a chain: particles that are moved, weighed and resampled, and traced back.

    z_t ~ r(z_t | z_{t-1}),    w_t = p(z_t | z_{t-1}) p(x_t | z_t) / r(z_t | z_{t-1}),    log Z = sum_t log mean w_t

where means are taken between resamplings. Z is unbiased for p(x), whatever is proposed and whenever it is resampled:
Del Moral, "Feynman-Kac Formulae" (2004), theorem 7.4.2; Doucet & Johansen, "A tutorial on particle filtering and
smoothing: fifteen years later" (2011), https://www.stats.ox.ac.uk/~doucet/doucet_johansen_tutorialPF2011.pdf. Its error
grows with the number of steps, where that of importance weights of whole chains grows exponentially. With a lookahead
psi (`pyrovae.pair.lookahead`) ancestors are drawn by w psi, and their weights go on as 1 / psi.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrovae.block_sizes import NUMBERS_AT_ONCE, slices
from pyrovae.pair.chains import StateSpace
from pyrovae.pair.lookahead import look_ahead, numbers_ahead
from pyrovae.pair.particle_moves import Proposal, moved
from pyrovae.pair.resampling import independent_places, systematic_places

# Points that a run's lookahead is fitted at, a share of its particles.
_PARTICLES_PER_POINT = 4
_FEWEST_POINTS = 50


@dataclass(frozen=True)
class Generation:
    """Particles of one step, [S,B,K], and their log weights since they were last resampled, [n,R,B]."""

    states: Tensor
    log_weights: Tensor


@dataclass(frozen=True)
class Filtered:
    """R independent runs of n particles on B rows; S = R n particles, those of run r at places r, r + R, ...

    `log_evidence` is log Z, [R,B]; `ess` the effective sample size by step, [T,R,B], of what particles are resampled
    by, NaN in padding; `generations` all of them where they are kept, the last one else. `scores` are the log
    probabilities of the ancestors that were drawn at each step but the first, with their gradients, and `before` log Z
    as it stood before them, [T-1,R,B].
    """

    log_evidence: Tensor
    ess: Tensor
    generations: list[Generation]
    scores: Tensor
    before: Tensor


def particle_filter(
    space: StateSpace, num_particles: int, num_runs: int, proposal: Proposal, *, keep: bool = False
) -> Filtered:
    """Run R filters of n particles each. Gradients pass through draws and densities, not through resampling."""
    R, real = num_runs, space.real_steps
    ahead = None
    if proposal.lookahead:
        pilot = particle_filter(
            space, num_points(num_particles), R, replace(proposal, lookahead=False), keep=True
        )
        ahead = look_ahead(space, [generation.states for generation in pilot.generations], R)
    generations: list[Generation] = []
    found: dict[str, list[Tensor]] = {"ess": [], "scores": [], "before": []}
    before: Tensor | None = None
    log_weights = foreseen = evidence = torch.zeros(())
    for step in range(space.num_steps):
        if before is not None:
            going = torch.ones_like(evidence, dtype=torch.bool) if real is None else real[:, step]
            due = (found["ess"][-1] < proposal.resample_below * num_particles) & going
            before, log_weights, gained, score = _resampled(before, log_weights, foreseen, due, proposal)
            evidence = evidence + gained
            found["scores"].append(score)
            found["before"].append(evidence.detach())
        psi = None if ahead is None else ahead[step]
        states, increment = moved(space, step, before, (num_particles, R), proposal.transition_share, psi)
        increment = increment.unflatten(0, (num_particles, R)).double()
        if real is not None:
            increment = torch.where(real[:, step], increment, 0.0)
            states = states if before is None else torch.where(real[:, step, None], states, before)
        log_weights = log_weights + increment
        if before is None:
            evidence = torch.zeros_like(increment[0])
        foreseen = torch.zeros_like(log_weights)
        if psi is not None:
            foreseen = psi(states).unflatten(0, (num_particles, R))
        found["ess"].append(_effective((log_weights + foreseen).detach()))
        generations.append(Generation(states, log_weights))
        if not keep:
            del generations[:-1]
        before = states
    evidence = evidence + log_weights.logsumexp(0) - math.log(num_particles)
    none = evidence.new_zeros((0, *evidence.shape))
    scores, befores = (torch.stack(found[name]) if found[name] else none for name in ("scores", "before"))
    ess = torch.stack(found["ess"])
    if real is not None:
        ess = torch.where(real.T[:, None], ess, math.nan)
    return Filtered(evidence, ess, generations, scores, befores)


def num_points(num_particles: int) -> int:
    """Particles of the pilot that a run's lookahead is fitted at."""
    return max(math.ceil(num_particles / _PARTICLES_PER_POINT), _FEWEST_POINTS)


def bytes_ahead(space: StateSpace, num_particles: int, num_runs: int) -> int:
    """How much a lookahead takes for each row, at most."""
    latent_size = space.chain.initial.event_shape[0]
    return (
        8 * num_runs * numbers_ahead(num_particles, num_points(num_particles), space.num_steps, latent_size)
    )


def last_states(filtered: Filtered, num_samples: int) -> Tensor:
    """Draws of each row's last state given all its observations, [S,B,K], of a single run, by their weights."""
    last = filtered.generations[-1]
    weights = last.log_weights[:, 0].softmax(0)
    places = systematic_places(weights.T.contiguous(), num_samples)
    return _taken(last.states, places.T)


def backward_draws(space: StateSpace, filtered: Filtered, num_samples: int) -> Iterator[Tensor]:
    """Draws of whole chains given all observations, [S,B,K] a step, from the last step to the first, of a single run.

    Backward simulation: Godsill, Doucet, West, "Monte Carlo Smoothing for Nonlinear Time Series" (2004),
    https://doi.org/10.1198/016214504000000151. The draws are independent of each other given the particles.
    """
    real, generations = space.real_steps, filtered.generations
    weights = generations[-1].log_weights[:, 0].softmax(0)
    places = independent_places(weights.T.contiguous(), num_samples).T
    after = _taken(generations[-1].states, places)
    yield after
    for step in range(space.num_steps - 2, -1, -1):
        now = generations[step]
        transition = space.prior(step + 1, now.states, len(now.states))
        numbers = len(now.states) * after.shape[1] * after.shape[2]
        drawn = [
            _places_of(now.log_weights[:, 0] + transition.log_prob(after[some, None]).double())
            for some in slices(num_samples, max(1, NUMBERS_AT_ONCE // numbers))
        ]
        found = torch.cat(drawn)
        # Nothing was resampled in padding: the particle is the one of the step behind.
        places = found if real is None else torch.where(real[:, step + 1], found, places)
        after = _taken(now.states, places)
        yield after


def _places_of(log_weights: Tensor) -> Tensor:
    """A place among n for each of [S,n,B] log weights, [S,B]."""
    weights = log_weights.softmax(1).movedim(1, -1)
    return independent_places(weights.contiguous(), 1).squeeze(-1)


def _resampled(
    states: Tensor, log_weights: Tensor, foreseen: Tensor, due: Tensor, proposal: Proposal
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States and log weights after resampling the runs that are `due` [R,B], what log Z gains, and the score.

    Ancestors are drawn by their weights times what is foreseen of them, which is divided out again.
    """
    n, R = log_weights.shape[:2]
    log_chances = log_weights + foreseen
    normalized = log_chances.log_softmax(0)
    weights = normalized.detach().exp().movedim(0, -1).contiguous()
    drawn = independent_places(weights, n) if proposal.independent else systematic_places(weights, n)
    own = torch.arange(n, device=states.device).reshape(n, 1, 1)
    places = torch.where(due, drawn.movedim(-1, 0), own)
    runs = torch.arange(R, device=states.device).reshape(R, 1)
    taken = _taken(states, (places * R + runs).flatten(0, 1))
    score = torch.where(due, normalized.gather(0, places).sum(0), 0.0)
    gained = torch.where(due, log_chances.logsumexp(0) - math.log(n), 0.0)
    return taken, torch.where(due, -foreseen.gather(0, places), log_weights), gained, score


def _taken(states: Tensor, places: Tensor) -> Tensor:
    """States [S,B,K] at places [M,B]: [M,B,K]."""
    return states.gather(0, places[..., None].expand(*places.shape, states.shape[-1]))


def _effective(log_weights: Tensor) -> Tensor:
    """Effective sample size of [n,...] log weights."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
