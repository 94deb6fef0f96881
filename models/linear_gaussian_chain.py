"""The linear-Gaussian chain, whose evidence, filter and smoother have closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.gaussian import Gaussian, gaussian_tensordot, matrix_and_mvn_to_gaussian, mvn_to_gaussian
from torch import Tensor, nn

from pyrovae.models.sequences import MarkovSequence, PaddedSequence
from pyrovae.nn import PositiveParameter, step_mask


class LinearGaussianChain(nn.Module):
    """A linear-Gaussian state-space model: `LinearGaussian` over time, a baseline and an oracle for chains.

        z_1 ~ N(m, diag s^2)    z_t ~ N(A z_{t-1} + b, diag q^2)    x_t|z_t ~ N(W z_t + mean, Psi)

    with one variance per feature, Psi: Kalman, "A New Approach to Linear Filtering and Prediction Problems" (1960),
    https://doi.org/10.1115/1.3662552. The evidence goes by Pyro's `GaussianHMM`: Särkkä & García-Fernández, "Temporal
    Parallelization of Bayesian Smoothers" (2019), https://arxiv.org/abs/1905.13002. Steps beyond a row's length are no
    part of it, absent entries (NaN) are integrated out. All are parameters and train like any other model's. Its exact
    posterior is a chain too and a guide as `pyrovae.guides.ExactGuide(model)`: with it training maximizes the evidence
    itself.

    Args:
        latent_size: K.
        num_features: D.

    Raises:
        ValueError: K or D below 1; at a call, a length below 1 or beyond T, with its row.

    Example:
        >>> model, x = LinearGaussianChain(2, 3), torch.randn(5, 7, 3)
        >>> model.log_marginal(x).shape, model.smoothed(x).mean.shape, model.posterior(x).event_shape
        (torch.Size([5]), torch.Size([5, 7, 2]), torch.Size([7, 2]))

    """

    def __init__(self, latent_size: int, num_features: int) -> None:
        super().__init__()
        if latent_size < 1 or num_features < 1:
            raise ValueError(
                f"latent_size is {latent_size} and num_features {num_features}: expected at least 1 each."
            )
        K, D = latent_size, num_features
        self.initial_mean = nn.Parameter(torch.zeros(K))
        self.initial_scale = PositiveParameter(torch.ones(K))
        self.transition_matrix = nn.Parameter(0.9 * torch.eye(K))
        self.transition_offset = nn.Parameter(torch.zeros(K))
        self.transition_scale = PositiveParameter(torch.full((K,), 0.5))
        self.loading = nn.Parameter(torch.randn(D, K) / math.sqrt(K))
        self.mean = nn.Parameter(torch.zeros(D))
        self.noise_scale = PositiveParameter(torch.ones(D))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """The generative story for rows x, [B,T,D], and their lengths [B] (None: all are full)."""
        with pyro.plate("rows", len(x)):
            initial = dist.Normal(self.initial_mean, self.initial_scale()).to_event(1)
            z = pyro.sample("z", MarkovSequence(initial, self.transition, x.shape[1], lengths=lengths))
            pyro.sample("x", PaddedSequence.emitted(self.emission, z, lengths=lengths), obs=x)

    def transition(self, z: Tensor) -> dist.TorchDistribution:
        """p(z_t | z_{t-1})."""
        location = z @ self.transition_matrix.mT + self.transition_offset
        return dist.Normal(location, self.transition_scale()).to_event(1)

    def emission(self, z: Tensor) -> dist.TorchDistribution:
        """p(x_t | z_t)."""
        return dist.Normal(z @ self.loading.mT + self.mean, self.noise_scale()).to_event(1)

    def log_marginal(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The evidence log p(x) of rows x [B,T,D]: [B], in nats."""
        filled, present, matrix, noise = self._observed(x, lengths)
        first = dist.Normal(torch.zeros_like(self.initial_mean).double(), 1.0)
        hidden = dist.GaussianHMM(first.to_event(1), *self._moves(x.shape[1]), matrix, noise)
        # An absent entry stands in there as a standard normal's at zero.
        absent = (~present).sum((-1, -2))
        log_density: Tensor = hidden.log_prob(filled) + 0.5 * math.log(2 * math.pi) * absent
        return log_density.to(x.dtype)

    def posterior(self, x: Tensor, lengths: Tensor | None = None) -> MarkovSequence:
        """p(z_1..z_T | x), a chain with event [T,K]: what comes after a step is in its moves."""
        K = len(self.initial_mean)
        moves = []
        for joint, _ in self._backward(x, lengths):
            precision = joint.precision[..., K:, K:]
            covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
            offset = (covariance @ joint.info_vec[..., K:, None])[..., 0]
            matrix = -covariance @ joint.precision[..., K:, :K]
            scale = torch.linalg.cholesky(covariance)
            moves.append(torch.cat([offset, matrix.flatten(-2), scale.flatten(-2)], -1))
        packed = torch.stack(moves[::-1], -2).to(x.dtype)
        nothing = x.new_zeros(K)
        return MarkovSequence(_move(nothing, packed[..., 0, :]), _move, x.shape[1], [packed], lengths)

    def filtered(self, x: Tensor, lengths: Tensor | None = None) -> dist.MultivariateNormal:
        """p(z_t | x_1..x_t) of each step, batch [B,T], event [K]; predictions in padding."""
        return _normal(list(self._forward(x, lengths)), x.dtype)

    def smoothed(self, x: Tensor, lengths: Tensor | None = None) -> dist.MultivariateNormal:
        """p(z_t | x) of each step, batch [B,T], event [K]; predictions in padding."""
        after = [future for _, future in self._backward(x, lengths)][::-1]
        both = [now + future for now, future in zip(self._forward(x, lengths), after, strict=True)]
        return _normal(both, x.dtype)

    def _moves(self, num_steps: int) -> tuple[Tensor, dist.TorchDistribution]:
        """Matrices [T,K,K], from old to new, and noises [T]; the first step's comes from nowhere."""
        K = len(self.initial_mean)
        later = self.transition_matrix.double().mT.expand(num_steps - 1, K, K)
        matrices = torch.cat([torch.zeros_like(self.transition_matrix).double()[None], later])
        first = (torch.arange(num_steps, device=self.mean.device) == 0)[:, None]
        location = torch.where(first, self.initial_mean, self.transition_offset).double()
        scale = torch.where(first, self.initial_scale(), self.transition_scale()).double()
        return matrices, dist.Normal(location, scale).to_event(1)

    def _observed(
        self, x: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, dist.TorchDistribution]:
        """Values [B,T,D] with zeros for what is absent, what is present, and what emits it: [B,T,K,D] and noises."""
        present = ~x.isnan()
        if lengths is not None:
            present = present & step_mask(lengths, x.shape[-2])[..., None]
        matrix = torch.where(present[..., None, :], self.loading.double().mT, 0.0)
        location = torch.where(present, self.mean.double(), 0.0)
        scale = torch.where(present, self.noise_scale().double(), 1.0)
        return (
            torch.where(present, x.double(), 0.0),
            present,
            matrix,
            dist.Normal(location, scale).to_event(1),
        )

    def _factors(self, x: Tensor, lengths: Tensor | None) -> Gaussian:
        """p(z_t | z_{t-1}) p(x_t | z_t) of all steps, batch [B,T], in (z_{t-1}, z_t); unnormalized."""
        filled, _, matrix, noise = self._observed(x, lengths)
        emitted = matrix_and_mvn_to_gaussian(matrix, noise).condition(filled)
        moved = matrix_and_mvn_to_gaussian(*self._moves(x.shape[-2]))
        joined = moved + emitted.event_pad(left=len(self.initial_mean))
        return joined.expand(x.shape[:-1])

    def _forward(self, x: Tensor, lengths: Tensor | None) -> Iterator[Gaussian]:
        """p(z_t | x_1..x_t) from the first step to the last; unnormalized."""
        K, factors = len(self.initial_mean), self._factors(x, lengths)
        start = dist.Normal(x.new_zeros(*x.shape[:-2], K).double(), 1.0).to_event(1)
        now = mvn_to_gaussian(start)
        for step in range(x.shape[-2]):
            now = gaussian_tensordot(now, factors[..., step], dims=K)
            yield now

    def _backward(self, x: Tensor, lengths: Tensor | None) -> Iterator[tuple[Gaussian, Gaussian]]:
        """From the last step to the first: p(z_t, x_t..x_T | z_{t-1}) in both, and p(x_{t+1}..x_T | z_t)."""
        K, factors = len(self.initial_mean), self._factors(x, lengths)
        zeros = x.new_zeros(*x.shape[:-2], K, K).double()
        future = Gaussian(zeros[..., 0, 0], zeros[..., 0], zeros)
        for step in range(x.shape[-2] - 1, -1, -1):
            joint = factors[..., step] + future.event_pad(left=K)
            yield joint, future
            future = joint.marginalize(right=K)


def _move(z: Tensor, packed: Tensor) -> dist.TorchDistribution:
    """N(offset + matrix z, scale scale^T), all three side by side in [..., K + 2 K^2]."""
    K = z.shape[-1]
    offset, matrix, scale = packed.split([K, K * K, K * K], -1)
    location = offset + (matrix.unflatten(-1, (K, K)) @ z[..., None])[..., 0]
    return dist.MultivariateNormal(location, scale_tril=scale.unflatten(-1, (K, K)))


def _normal(steps: list[Gaussian], dtype: torch.dtype) -> dist.MultivariateNormal:
    """Normalized, [B,T]."""
    precision = torch.stack([step.precision for step in steps], -3)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    location = (covariance @ torch.stack([step.info_vec for step in steps], -2)[..., None])[..., 0]
    scale = torch.linalg.cholesky(covariance)
    return dist.MultivariateNormal(location.to(dtype), scale_tril=scale.to(dtype))
