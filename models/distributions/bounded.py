"""Distributions on an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.models.distributions.expansion import expanded


class ContinuousBernoulli(TorchDistribution):
    """The density C(l) exp(l x) on [0, 1] with logit l; torch's own is wrong beyond |l| = 16.

        log p(x) = l (x - 1/2) - log(2 sinh(l / 2) / l)

    Loaiza-Ganem & Cunningham, "The continuous Bernoulli" (2019), https://arxiv.org/abs/1907.06845.

    Args:
        logits: l, [...].

    Example:
        >>> bool(ContinuousBernoulli(torch.tensor(0.0)).log_prob(torch.tensor(0.3)) == 0)
        True

    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: ContinuousBernoulli | None = None
    ) -> ContinuousBernoulli:
        """The same distribution with another batch shape."""
        return expanded(self, ContinuousBernoulli, batch_shape, _instance, ("logits",))

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 * self.logits.abs()
        near_zero = half < 0.05
        far = torch.where(near_zero, 1.0, half)
        # log(sinh(h) / h) by its series where its terms cancel; elsewhere without its summand h, which cancels
        # against the one of l (x - 1/2) = h - |l| (mode - x).
        series = half**2 / 6 - half**4 / 180 + half**6 / 2835
        rest = torch.log(-torch.expm1(-2 * far)) - torch.log(2 * far)
        to_mode = torch.where(self.logits > 0, 1 - value, value)
        return torch.where(
            near_zero, self.logits * (value - 0.5) - series, -self.logits.abs() * to_mode - rest
        )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """By the inverse distribution function, differentiable in the logits."""
        u = torch.rand(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.logits.dtype, device=self.logits.device
        )
        slope = self.logits.abs().clamp(min=1e-6)
        # Of a negative logit, whose exponential cannot overflow; mirrored for a positive one.
        x = (torch.log1p(u * torch.expm1(-slope)) / -slope).clamp(0.0, 1.0)
        return torch.where(self.logits > 0, 1 - x, x)

    @property
    def mean(self) -> Tensor:
        """E[x], [...]."""
        size = self.logits.abs()
        far = torch.where(size < 0.1, 1.0, size)
        of_size = -1 / torch.expm1(-far) - 1 / far
        exact = torch.where(self.logits > 0, of_size, 1 - of_size)
        return torch.where(size < 0.1, 0.5 + self.logits / 12 - self.logits**3 / 720, exact)

    @property
    def variance(self) -> Tensor:
        """Var[x], [...]: the second derivative of log(2 sinh(l / 2) / l), 1 / l^2 - 1 / (4 sinh(l / 2)^2)."""
        size = self.logits.abs()
        far = torch.where(size < 0.5, 1.0, size)
        # 1 / (4 sinh(h)^2) = exp(-l) / (1 - exp(-l))^2
        exact = far**-2 - torch.exp(-far) / torch.expm1(-far) ** 2
        return torch.where(size < 0.5, 1 / 12 - size**2 / 240 + size**4 / 6048 - size**6 / 172800, exact)
