"""Priors p(z): conditional distributions of the context, or of nothing.

An unconditional prior takes any context and does not depend on it. A conditional p(z|c) is
`pyrovae.models.Normal` around a network of c. Mixtures live in `pyrovae.models.mixture`, flows in
`pyrovae.models.flow`.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.nn import PositiveParameter


class StandardNormal(nn.Module):
    """p(z) = N(0, I) over K dimensions.

    Example:
        >>> StandardNormal(8)().event_shape
        torch.Size([8])

    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        check_latent_size(latent_size)
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution of z, event [K], whatever the context."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class LearnedNormal(nn.Module):
    """p(z) = N(location, diag(scale^2)) over K dimensions, both learned, started at N(0, I).

    Args:
        latent_size: K.

    Raises:
        ValueError: `latent_size` below 1.

    Example:
        >>> LearnedNormal(8)().event_shape
        torch.Size([8])

    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        check_latent_size(latent_size)
        self.location = nn.Parameter(torch.zeros(latent_size))
        self.scale = PositiveParameter(torch.ones(latent_size))

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution of z, event [K], whatever the context."""
        return dist.Normal(self.location, self.scale()).to_event(1)


def check_latent_size(latent_size: int, smallest: int = 1) -> None:
    """Raise for a latent size below the smallest."""
    if latent_size < smallest:
        raise ValueError(f"latent_size is {latent_size}: expected at least {smallest}.")
