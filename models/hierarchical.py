"""The hierarchical model p(z1) p(z2|z1) ... p(zk|zk-1) p(x|zk)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution, as_module


class HierarchicalModel(nn.Module):
    """Latents "z1", ..., "zk" in a chain, each given the one above it, and "x" given the last.

        p(z1|c) p(z2|z1,c) ... p(zk|zk-1,c) p(x|zk,c)

    "z1" is the top, the most abstract latent; "zk" is nearest the data. (Papers often count the other way.)

    Rezende, Mohamed, Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep Generative
    Models" (2014), https://arxiv.org/abs/1401.4082.

    Args:
        priors: k conditional distributions, from the top: the first of the context, each next one of
            (the latent above it, context).
        likelihood: a conditional distribution of (the last latent, context). For connections that skip a
            level write the chain out as a program.

    Raises:
        ValueError: no priors.

    Example:
        >>> from pyrovae.models import Bernoulli, Normal, StandardNormal
        >>> from pyrovae.nn import MLP
        >>> HierarchicalModel([StandardNormal(2), Normal(MLP(2, (8, 8)))], Bernoulli(MLP(8, 64)))
        HierarchicalModel(...

    """

    def __init__(
        self, priors: Sequence[ConditionalDistribution], likelihood: ConditionalDistribution
    ) -> None:
        super().__init__()
        if not priors:
            raise ValueError("priors is empty: expected one conditional distribution for each level.")
        self.priors = nn.ModuleList(map(as_module, priors))
        self.likelihood = likelihood

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """The generative story for rows x, [B, *event], and their context, each [B, ...]."""
        with pyro.plate("rows", len(x)):
            above: tuple[Tensor, ...] = ()
            for level, prior in enumerate(self.priors, start=1):
                above = (pyro.sample(f"z{level}", prior(*above, *context)),)
            pyro.sample("x", self.likelihood(*above, *context), obs=x)
