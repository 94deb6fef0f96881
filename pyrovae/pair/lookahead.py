"""What the steps to come say of a particle, by row and step, fitted from the last step back.

    psi_t(z_t) ~ p(x_{t+1}, ..., x_T | z_t) = E[w_{t+1} psi_{t+1}(z_{t+1}) | z_t],    psi_T = 1

with w as in `pyrovae.pair.particle_filter`. The expectation is a mean over moves of each of some points, the fit a
ridge regression of its logarithm on z_t and its products. Particles are resampled by w psi, so that those stay which
the observations to come will keep; and a normal transition is tilted by p(x_t|z_t) psi_t(z_t), which leaves it normal.
As psi is divided out again no fit biases an estimate. A poor one makes it noisy, and a square fits one of
several modes, so that runs drop the others, which their spread does not tell.
Guarniero, Johansen, Lee, "The Iterated Auxiliary Particle Filter" (2017), https://arxiv.org/abs/1511.06286; Heng,
Bishop, Deligiannidis, Doucet, "Controlled Sequential Monte Carlo" (2020), https://arxiv.org/abs/1708.08396.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.pair.chains import StateSpace

# All products of two coordinates, of so few and where there are points enough; else squares alone.
_MOST_WITH_PRODUCTS = 8
_POINTS_PER_FEATURE = 2.5
_MOVES = 2
_RIDGES = (math.inf, *(10.0**power for power in range(2, -9, -1)))
_LEAST_FREEDOM = 0.1
# A point's weight is p(x_t|z_t) psi_t to the power of one over a temperature, the lowest at which points enough weigh:
# what cannot be true need not be fitted.
_TEMPERATURES = (4.0, 16.0, 64.0, 256.0, 1024.0)
_LEAST_SCALE = 1e-6
# In nats: how far a square is trusted above all points that it was fitted at.
_BEYOND = 2.0


@dataclass(frozen=True)
class Lookahead:
    """log psi of one step, up to a constant, and the square by which a normal transition to it is tilted.

    Each run has its own for each row: R B of them, [RB,K], so that S = n R particles on B rows are [n,RB,K]. Squares
    are of (z - center) / scale, by coefficients [RB,F]; `highest` [RB] is what log psi is held at, a little above all
    points that were fitted. The tilt is exp(linear y - y precision y / 2) of y = z - center.
    """

    num_runs: int
    center: Tensor
    scale: Tensor
    coefficients: Tensor
    highest: Tensor
    linear: Tensor
    precision: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """log psi, [S,B], of states [S,B,K]."""
        y = (self._by_run(states).double() - self.center) / self.scale
        log_psi = (_features(y, self.coefficients.shape[-1]) * self.coefficients).sum(-1)
        return self._together(torch.minimum(log_psi, self.highest))

    def tilted(self, transition: dist.TorchDistribution) -> dist.TorchDistribution | None:
        """A transition, batch [S,B], tilted by what its step observes and psi; None where it is not normal."""
        within = transition.base_dist if isinstance(transition, dist.Independent) else transition
        if not isinstance(within, dist.Normal | dist.MultivariateNormal):
            return None
        mean, dtype = self._by_run(within.mean).double() - self.center, within.mean.dtype
        if isinstance(within, dist.Normal):
            own = self._by_run(within.scale).double() ** -2
            pulled = own * mean + self.linear
            if self.precision.dim() == 2:
                precision = own + self.precision
                location = self._together(pulled / precision + self.center)
                return dist.Normal(location.to(dtype), self._together(precision.rsqrt()).to(dtype)).to_event(
                    1
                )
            own = own.diag_embed()
        else:
            own = torch.cholesky_inverse(self._by_run(within.scale_tril).double())
            pulled = (own @ mean[..., None]).squeeze(-1) + self.linear
        precision = own + (self.precision if self.precision.dim() == 3 else self.precision.diag_embed())
        # A factor of the covariance without the covariance: precision = J F F' J, where J reverses the order.
        reversed_factor = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1).mT
        identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        scale = torch.linalg.solve_triangular(reversed_factor, identity, upper=False)
        location = (scale @ (scale.mT @ pulled[..., None])).squeeze(-1) + self.center
        return dist.MultivariateNormal(
            self._together(location).to(dtype), scale_tril=self._together(scale).to(dtype)
        )

    def _by_run(self, values: Tensor) -> Tensor:
        """[S,B,...] as [n,RB,...]."""
        return values.unflatten(0, (-1, self.num_runs)).flatten(1, 2)

    def _together(self, values: Tensor) -> Tensor:
        """[n,RB,...] as [S,B,...]."""
        return values.unflatten(1, (self.num_runs, -1)).flatten(0, 1)


def look_ahead(space: StateSpace, points: Sequence[Tensor], num_runs: int) -> list[Lookahead]:
    """Of all steps, from M states of each for each run, [M R,B,K], such as particles that went through them before.

    A step's normal transitions are tilted by what is known of it already, others are taken as they are; the guide's
    steps are not needed.
    """
    real, found = space.real_steps, list[Lookahead]()
    for step in range(space.num_steps - 1, -1, -1):
        states = points[step]
        S = len(states)
        log_likelihood = space.log_likelihood(step, states).double()
        values = torch.zeros_like(log_likelihood)
        if found:
            moved, weights = _moves(space, step + 1, states, found[-1])
            values = (weights.double() + found[-1](moved)).unflatten(0, (_MOVES, S)).logsumexp(0)
            values = values if real is None else values.where(real[:, step + 1], 0.0)
        parts = (states, log_likelihood, values)
        points_of_runs, likelihoods, to_come = (t.unflatten(0, (-1, num_runs)).flatten(1, 2) for t in parts)
        found.append(_fitted(points_of_runs, likelihoods, to_come, num_runs))
    return found[::-1]


def numbers_ahead(num_particles: int, num_points: int, num_steps: int, latent_size: int) -> int:
    """How many numbers of 8 bytes a lookahead takes for each row, at most: its points, its fits, and its tilts."""
    K = latent_size
    products = K + K * (K + 1) // 2 if K <= _MOST_WITH_PRODUCTS else 2 * K
    of_points = num_points * (num_steps * (K + 2) + 5 * products)
    of_fits = num_steps * (products + K * (K + 3))
    return (
        of_points
        + of_fits
        + num_particles * (3 * products + (5 * K * K if K <= _MOST_WITH_PRODUCTS else 8 * K))
    )


def _moves(space: StateSpace, step: int, states: Tensor, ahead: Lookahead) -> tuple[Tensor, Tensor]:
    """A few moves of each state to a step, [moves S,B,K], and the logarithms of what they weigh."""
    before = states.repeat(_MOVES, 1, 1)
    prior = space.prior(step, before, len(before))
    proposed = ahead.tilted(prior) or prior
    moved = proposed.sample()
    log_ratio = prior.log_prob(moved) - proposed.log_prob(moved)
    return moved, log_ratio + space.log_likelihood(step, moved)


def _fitted(points: Tensor, log_likelihood: Tensor, values: Tensor, num_runs: int) -> Lookahead:
    """From log p(x_t|z_t) and log psi_t, [M,RB] each, at points [M,RB,K]."""
    M, _, K = points.shape
    both = values + log_likelihood
    known = both.isfinite() & points.isfinite().all(-1)
    points = points.double().where(known[..., None], 0.0)
    center, scale = points.mean(0), points.std(0).clamp(min=_LEAST_SCALE)
    products = K + K * (K + 1) // 2
    with_products = K <= _MOST_WITH_PRODUCTS and _POINTS_PER_FEATURE * products <= M
    size = products if with_products else 2 * K
    features = _features((points - center) / scale, size).where(known[..., None], 0.0)
    wanted = torch.stack([values, both], -1).where(known[..., None], 0.0)
    weights = _weights(both.where(known, -math.inf), _POINTS_PER_FEATURE * size)
    found = _ridge(features.movedim(0, 1), wanted.movedim(0, 1), weights.T)
    coefficients, tilt = found.unbind(-1)
    highest = (features * coefficients).sum(-1).where(known, -math.inf).amax(0)
    highest = highest.where(highest.isfinite(), 0.0) + _BEYOND
    precision = _precision(tilt[:, K:], scale)
    return Lookahead(num_runs, center, scale, coefficients, highest, tilt[:, :K] / scale, precision)


def _weights(log_weights: Tensor, wanted: float) -> Tensor:
    """Of points [M,RB], summing to 1 or 0, at the lowest temperature at which they are worth so many."""
    fallen = (log_weights - log_weights.amax(0)).nan_to_num(nan=-math.inf)
    by_temperature = torch.stack([(fallen / temperature).exp() for temperature in _TEMPERATURES])
    by_temperature = by_temperature / by_temperature.sum(1, keepdim=True).clamp(min=1e-300)
    enough = by_temperature.square().sum(1) * wanted <= 1  # [temperatures,RB]
    enough[-1] = True
    place = enough.int().argmax(0)
    return by_temperature.gather(0, place.expand(1, *log_weights.shape))[0]


def _features(z: Tensor, size: int) -> Tensor:
    """z [...,K], and its products of two, or its squares alone where they are all of the size."""
    K = z.shape[-1]
    if size == 2 * K:
        return torch.cat([z, z.square()], -1)
    first, second = torch.triu_indices(K, K, device=z.device)
    return torch.cat([z, z[..., first] * z[..., second]], -1)


def _precision(products: Tensor, scale: Tensor) -> Tensor:
    """Of the tilt, its concave part, from products [B,F-K]: [B,K] of squares alone, [B,K,K] of all."""
    K = scale.shape[-1]
    if products.shape[-1] == K:
        return (-2 * products).clamp(min=0) / scale.square()
    first, second = torch.triu_indices(K, K, device=scale.device)
    half = products.new_zeros((len(scale), K, K))
    half[:, first, second] = products
    values, vectors = torch.linalg.eigh(-(half + half.mT))
    concave = (vectors * values.clamp(min=0)[:, None]) @ vectors.mT
    return concave / (scale[:, :, None] * scale[:, None])


def _ridge(features: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Coefficients [B,F,V] of features [B,M,F] for values [B,M,V] by weights [B,M] of sum 1, with the best ridge.

    By generalized cross-validation (Golub, Heath, Wahba 1979, https://doi.org/10.1080/00401706.1979.10489751), where as
    many points are counted as the weights are worth.
    """
    weights = weights[..., None]
    worth = 1 / weights.square().sum((1, 2)).clamp(min=1e-300)  # [B]
    features, values = (
        (given - (weights * given).sum(1, keepdim=True)) * weights.sqrt() for given in (features, values)
    )
    left, singular, right = torch.linalg.svd(features, full_matrices=False)
    projected = left.mT @ values  # [B,r,V]
    outside = (values.square().sum(1) - projected.square().sum(1)).clamp(min=0)
    kept = torch.stack([singular.square() / (singular.square() + ridge) for ridge in _RIDGES])[..., None]
    residual = outside + ((1 - kept) * projected).square().sum(2)  # [ridges,B,V]
    freedom = 1 - (1 + kept.sum(2)) / worth[:, None]
    scores = (residual / freedom.square()).where(freedom > _LEAST_FREEDOM, math.inf)
    best = scores.argmin(0)  # [B,V]; the first, and largest, where none is finite
    chosen = kept.expand(-1, *projected.shape).gather(0, best[None, :, None].expand(1, *projected.shape))[0]
    weighted = (chosen * projected / singular[..., None]).where(singular[..., None] > 0, 0.0)
    return right.mT @ weighted
