"""What the steps to come say of a particle, by row and step, fitted from the last step back.

    psi_t(z_t) ~ p(x_{t+1}, ..., x_T | z_t) = E[w_{t+1} psi_{t+1}(z_{t+1}) | z_t],    psi_T = 1

with w as in `pyrovae.pair.particle_filter`. The expectation is a mean over moves of each of some points, the fit a
ridge regression of its logarithm on z_t and its products. Particles are resampled by w psi, so that those stay which
the observations to come will keep; and a normal transition is tilted by p(x_t|z_t) psi_t(z_t), which leaves it normal.
As psi is divided out again no fit makes an estimate wrong, only more or less noisy: Guarniero, Johansen, Lee, "The
Iterated Auxiliary Particle Filter" (2017), https://arxiv.org/abs/1511.06286; Heng, Bishop, Deligiannidis, Doucet,
"Controlled Sequential Monte Carlo" (2020), https://arxiv.org/abs/1708.08396.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.pair.chains import StateSpace

# All products of two coordinates, where they are at most such a share of the points; else squares alone.
_FEATURES_PER_POINT = 1 / 4
_MOVES = 3
_RIDGES = (math.inf, *(10.0**power for power in range(2, -9, -1)))
_LEAST_FREEDOM = 0.1
# A point's weight is its p(x_t|z_t) psi_t to the power of one over that: what cannot be true need not be fitted.
_TEMPERATURE = 4.0
_LEAST_SCALE = 1e-6
# In nats: how far a square is trusted above all points that it was fitted at.
_BEYOND = 2.0


@dataclass(frozen=True)
class Lookahead:
    """log psi of one step, up to a constant, and the square by which a normal transition to it is tilted.

    Squares are of (z - center) / scale, [B,K] each, by coefficients [B,F]; `highest` [B] is what log psi is held at, a
    little above all points that were fitted. The tilt is exp(linear y - y precision y / 2) of y = z - center.
    """

    center: Tensor
    scale: Tensor
    coefficients: Tensor
    highest: Tensor
    linear: Tensor
    precision: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """log psi, [S,B], of states [S,B,K]."""
        features = _features((states.double() - self.center) / self.scale, self.coefficients.shape[-1])
        return torch.minimum((features * self.coefficients).sum(-1), self.highest)

    def tilted(self, transition: dist.TorchDistribution) -> dist.TorchDistribution | None:
        """A transition, batch [S,B], tilted by what its step observes and psi; None where it is not normal."""
        within = transition.base_dist if isinstance(transition, dist.Independent) else transition
        if not isinstance(within, dist.Normal | dist.MultivariateNormal):
            return None
        mean, dtype = within.mean.double() - self.center, within.mean.dtype
        if isinstance(within, dist.Normal):
            own = within.scale.double() ** -2
            pulled = own * mean + self.linear
            if self.precision.dim() == 2:
                precision = own + self.precision
                location = pulled / precision + self.center
                return dist.Normal(location.to(dtype), precision.rsqrt().to(dtype)).to_event(1)
            own = own.diag_embed()
        else:
            own = within.precision_matrix.double()
            pulled = (own @ mean[..., None]).squeeze(-1) + self.linear
        precision = own + (self.precision if self.precision.dim() == 3 else self.precision.diag_embed())
        # A factor of the covariance without the covariance: precision = J F F' J, where J reverses the order.
        reversed_factor = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1).mT
        identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        scale = torch.linalg.solve_triangular(reversed_factor, identity, upper=False)
        location = (scale @ (scale.mT @ pulled[..., None])).squeeze(-1) + self.center
        return dist.MultivariateNormal(location.to(dtype), scale_tril=scale.to(dtype))


def look_ahead(space: StateSpace, points: Sequence[Tensor]) -> list[Lookahead]:
    """Of all steps, from some states of each, [M,B,K], such as particles that went through them before.

    A step's normal transitions are tilted by what is known of it already, others are taken as they are; the guide's
    steps are not needed.
    """
    real, found = space.real_steps, list[Lookahead]()
    for step in range(space.num_steps - 1, -1, -1):
        M, B = points[step].shape[:2]
        values = points[step].new_zeros((M, B), dtype=torch.float64)
        if found:
            before = points[step].repeat(_MOVES, 1, 1)
            prior = space.prior(step + 1, before, _MOVES * M)
            proposed = found[-1].tilted(prior) or prior
            states = proposed.sample()
            weights = (
                prior.log_prob(states) - proposed.log_prob(states) + space.log_likelihood(step + 1, states)
            )
            values = (weights.double() + found[-1](states)).unflatten(0, (_MOVES, M)).logsumexp(0)
            values = values if real is None else values.where(real[:, step + 1], 0.0)
        found.append(_fitted(points[step], space.log_likelihood(step, points[step]).double(), values))
    return found[::-1]


def _fitted(points: Tensor, log_likelihood: Tensor, values: Tensor) -> Lookahead:
    """From log p(x_t|z_t) and log psi_t, [M,B] each, at points [M,B,K]."""
    points, (M, _, K) = points.double(), points.shape
    center, scale = points.mean(0), points.std(0).clamp(min=_LEAST_SCALE)
    products = K + K * (K + 1) // 2
    size = products if products <= _FEATURES_PER_POINT * M else 2 * K
    both = values + log_likelihood
    known = both.isfinite() & points.isfinite().all(-1)
    both = both.where(known, -math.inf)
    weights = ((both - both.amax(0)) / _TEMPERATURE).exp().where(known, 0.0)
    features = _features((points - center) / scale, size).where(known[..., None], 0.0)
    wanted = torch.stack([values, both], -1).where(known[..., None], 0.0)
    found = _ridge(features.movedim(0, 1), wanted.movedim(0, 1), weights.T)
    coefficients, tilt = found.unbind(-1)
    highest = (features * coefficients).sum(-1).where(known, -math.inf).amax(0)
    highest = highest.where(highest.isfinite(), 0.0) + _BEYOND
    return Lookahead(
        center, scale, coefficients, highest, tilt[:, :K] / scale, _precision(tilt[:, K:], scale)
    )


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
    """Coefficients [B,F,V] of features [B,M,F] for values [B,M,V] by weights [B,M], with the ridge that predicts best.

    By generalized cross-validation (Golub, Heath, Wahba 1979, https://doi.org/10.1080/00401706.1979.10489751), where as
    many points are counted as the weights are worth.
    """
    tiny = torch.finfo(weights.dtype).tiny
    weights = (weights / weights.sum(1, keepdim=True).clamp(min=tiny))[..., None]
    worth = 1 / weights.square().sum((1, 2)).clamp(min=tiny)  # [B]
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
