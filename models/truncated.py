"""Numbers between two ends that they may reach."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.models import distributions
from pyrovae.models.likelihoods import event_dim
from pyrovae.models.parameters import independent, outputs_of
from pyrovae.nn import positive

# How far beyond the ends a location may lie, and how wide a scale may be, in halves of the interval: with them the
# density goes from a point at an end to the uniform one.
_FARTHEST, _WIDEST = 20.0, 100.0


class TruncatedNormal(nn.Module):
    """Independent entries within ends of their own: normals that are cut off there, as shares and percentages.

        p(x) = N(x; m, s) / (Phi((high - m) / s) - Phi((low - m) / s)),   low <= x <= high

    Unlike that of a beta distribution, and of a logit-normal one, the density is finite at the ends, which data
    reach. m may lie beyond them; then it falls from an end, much like an exponential one.

    Args:
        network: from the inputs to (location, raw scale), [..., D] each, in units of half the interval around its
            middle.
        low, high: the ends, [D] or numbers.
        smallest: of the scale, in the data's units, [D] or a number: what they are rounded to over the square root
            of 12.

    Raises:
        ValueError: ends that are not finite or not in order; a smallest scale that is negative.

    Example:
        >>> from pyrovae.nn import MLP
        >>> share = TruncatedNormal(MLP(2, (3, 3)))(torch.zeros(5, 2))
        >>> share.event_shape, bool(share.log_prob(torch.zeros(5, 3)).isfinite().all())
        (torch.Size([3]), True)

    """

    low: Tensor
    high: Tensor
    smallest: Tensor

    def __init__(
        self,
        network: nn.Module,
        low: Tensor | float = 0.0,
        high: Tensor | float = 1.0,
        smallest: Tensor | float = 0.0,
    ) -> None:
        super().__init__()
        ends = [torch.as_tensor(end, dtype=torch.float64) for end in (low, high, smallest)]
        if not bool((ends[0] < ends[1]).all()) or not all(bool(end.isfinite().all()) for end in ends):
            raise ValueError(f"low is {low} and high is {high}: expected finite numbers, low below high.")
        if not bool((ends[2] >= 0).all()):
            raise ValueError(f"smallest is {smallest}: expected no negative scale.")
        self.network = network
        for name, end in zip(("low", "high", "smallest"), ends, strict=True):
            self.register_buffer(name, end)

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        location, raw = outputs_of(self, self.network(*inputs), ["location", "raw scale"])
        half, middle = (self.high - self.low) / 2, (self.high + self.low) / 2
        loc = middle + half * _FARTHEST * torch.tanh(location / _FARTHEST)
        scale = torch.hypot(half * positive(raw).clamp(max=_WIDEST), self.smallest + 1e-4 * half)
        return independent(
            distributions.TruncatedNormal(loc, scale, self.low, self.high), event_dim(location, inputs)
        )
