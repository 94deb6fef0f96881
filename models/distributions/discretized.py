"""Continuous distributions rounded to whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyrovae.models.distributions.expansion import expanded


class DiscretizedLogistic(TorchDistribution):
    """A logistic distribution rounded to the whole numbers 0, ..., 255, its tails going to the two ends.

        P(x) = s((x + 1/2 - location) / scale) - s((x - 1/2 - location) / scale),  s the sigmoid,

    with s(-inf) = 0 below 0 and s(inf) = 1 above 255, so that the probabilities sum to 1. Salimans, Karpathy,
    Chen, Kingma, "PixelCNN++" (2017), https://arxiv.org/abs/1701.05517, eq. 2; Kingma et al., "Improved
    variational inference with inverse autoregressive flow" (2016), https://arxiv.org/abs/1606.04934.

    Args:
        loc: location in units of the data, [...].
        scale: positive, in units of the data, [...].

    Example:
        >>> p = DiscretizedLogistic(torch.tensor(100.0), torch.tensor(20.0))
        >>> float(p.log_prob(torch.arange(256.0)).exp().sum().round(decimals=4))
        1.0

    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.integer_interval(0, 255)

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: DiscretizedLogistic | None = None
    ) -> DiscretizedLogistic:
        """The same distribution with another batch shape."""
        return expanded(self, DiscretizedLogistic, batch_shape, _instance, ("loc", "scale"))

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.loc.dtype)
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)): no difference of nearly equal numbers, in any tail.
        up_to = logsigmoid((value + 0.5 - self.loc) / self.scale)
        down_to = logsigmoid((self.loc - value + 0.5) / self.scale)
        inside = torch.log(-torch.expm1(-1 / self.scale))
        first, last = value <= 0, value >= 255
        return torch.where(last, 0.0, up_to) + torch.where(first, 0.0, down_to) + (~first & ~last) * inside

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Whole numbers in the parameters' dtype."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return (self.loc + self.scale * u.logit(eps=1e-7)).round().clamp(0, 255)

    @property
    def mean(self) -> Tensor:
        """E[x] = sum of P(x > k) over k = 0, ..., 254."""
        # One pass for each k: all at once would take 255 times the memory.
        total = torch.zeros_like(self.loc)
        for k in range(255):
            total = total + torch.sigmoid((self.loc - k - 0.5) / self.scale)
        return total
