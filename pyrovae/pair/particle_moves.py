"""How particles of a chain move on to a step, and what that weighs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.pair.chains import StateSpace
from pyrovae.pair.lookahead import Lookahead

# Of the particles that transitions propose, those that no lookahead tilts: p / r is at most ten times what it would be.
_UNTILTED = 1 / 10


@dataclass(frozen=True)
class Proposal:
    """What particles are proposed from and when they are resampled.

    A share of them, in exact numbers, comes from the model's transitions, the others from the guide's steps; each is
    weighed as one of the mixture. A run is resampled where its effective sample size is below a share of its
    particles: systematically, or each ancestor independently of the others. With a `lookahead` transitions are tilted,
    and ancestors are drawn, by what the steps to come say.
    """

    transition_share: float = 0.0
    resample_below: float = 0.5
    independent: bool = False
    lookahead: bool = False


def moved(
    space: StateSpace,
    step: int,
    before: Tensor | None,
    size: tuple[int, int],
    transition_share: float,
    ahead: Lookahead | None = None,
) -> tuple[Tensor, Tensor]:
    """Particles of (n, R) moved on to a step, [S,B,K], and the logarithms of what that weighs, [S,B]."""
    (n, R), share = size, transition_share
    prior = space.prior(step, before, n * R)
    guide = None if share == 1 else space.proposal(step, before, n * R)
    tilted = None if ahead is None or share == 0 else ahead.tilted(prior)
    states = drawn(prior if guide is None else guide)
    if share == 0:
        assert guide is not None
        return states, prior.log_prob(states) - guide.log_prob(states) + space.log_likelihood(step, states)
    if guide is None and tilted is None:
        return states, space.log_likelihood(step, states)
    count = n if guide is None else min(max(1, round(share * n)), n - 1)
    untilted = count if tilted is None else math.ceil(_UNTILTED * count)
    parts = [(prior, untilted), (tilted, count - untilted), (guide, n - count)]
    mixture = [(part, some) for part, some in parts if part is not None and some > 0]
    # Which ones are whose is drawn anew each time: so each is, whatever its ancestor, one of the mixture.
    places = torch.rand(n, R, states.shape[1], device=states.device).argsort(0).flatten(0, 1)
    first = 0
    for part, some in mixture:
        if part is not guide:
            chosen = (places >= first) & (places < first + some)
            states = torch.where(chosen[..., None], drawn(part), states)
        first += some
    log_prior = prior.log_prob(states)
    by_part = [
        (log_prior if part is prior else part.log_prob(states)) + math.log(some / n) for part, some in mixture
    ]
    log_ratio = log_prior - torch.stack(by_part).logsumexp(0)
    return states, log_ratio + space.log_likelihood(step, states)


def drawn(distribution: TorchDistribution) -> Tensor:
    """A draw, with gradients where there are any."""
    found: Tensor = distribution.rsample() if distribution.has_rsample else distribution.sample()
    return found
