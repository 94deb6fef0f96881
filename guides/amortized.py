"""The amortized guide of one latent site."""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution


class AmortizedGuide(nn.Module):
    """q(z|x): each row's latent "z" is sampled from a posterior, one network serving all rows.

    Args:
        posterior: a conditional distribution of x (and of context, where the pair has one).
        site: the latent's name in the model.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.nn import MLP
        >>> AmortizedGuide(DiagonalNormal(MLP(64, (8, 8), hidden=[128])))
        AmortizedGuide(...

    """

    def __init__(self, posterior: ConditionalDistribution, site: str = "z") -> None:
        super().__init__()
        self.posterior = posterior
        self.site = site

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """Sample the latent of rows x, [B, *event]."""
        with pyro.plate("rows", len(x)):
            pyro.sample(self.site, self.posterior(x, *context))
