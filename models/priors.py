"""Priors p(z): conditional distributions of the context, or of nothing."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """p(z) = N(0, I) over K dimensions.

    Example:
        >>> StandardNormal(8)().event_shape
        torch.Size([8])

    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"latent_size is {latent_size}: expected at least 1.")
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution of z, event [K], whatever the context."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
