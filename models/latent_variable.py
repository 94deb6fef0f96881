"""The latent variable model p(z) p(x|z)."""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution


class LatentVariableModel(nn.Module):
    """p(z|c) p(x|z,c): each row has a latent "z" of the prior, and "x" is observed given it.

    Args:
        prior: a conditional distribution of the context c; one that does not depend on it takes it all the
            same and is then p(z).
        likelihood: a conditional distribution of z and the context.

    Example:
        >>> from pyrovae.models import Bernoulli, StandardNormal
        >>> from pyrovae.nn import MLP
        >>> LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 64)))
        LatentVariableModel(...

    """

    def __init__(self, prior: ConditionalDistribution, likelihood: ConditionalDistribution) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """The generative story for rows x, [B, *event], and their context, each [B, ...]."""
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.prior(*context))
            pyro.sample("x", self.likelihood(z, *context), obs=x)
