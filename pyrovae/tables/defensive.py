"""A posterior that proposes from the prior too, for importance sampling."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.guides import FullNormal
from pyrovae.models import StandardNormal
from pyrovae.tables.posterior import EntryNormal

PRIOR_SHARE = 0.2


class Defensive(nn.Module):
    """A mixture of a normal posterior and a standard normal prior: q(z|x) = (1 - a) N(z; m(x), S(x)) + a N(z; 0, I).

    Weights p(x, z) / q(z|x) are then at most p(x|z) / a, so that their variance is finite where the likelihood is
    bounded: Hesterberg, "Weighted average importance sampling and defensive mixture distributions" (1995). Not for
    training: draws have no gradients.

    Args:
        posterior: a conditional distribution that gives multivariate normals.

    """

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    @staticmethod
    def takes(model: object, posterior: nn.Module) -> bool:
        """Whether the prior of a model is a standard normal, and the posterior a normal with all correlations."""
        return isinstance(getattr(model, "prior", None), StandardNormal) and isinstance(
            posterior, FullNormal | EntryNormal
        )

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the inputs."""
        normal = self.posterior(*inputs)
        eye = torch.eye(normal.loc.shape[-1]).to(normal.loc)
        loc = torch.stack([normal.loc, torch.zeros_like(normal.loc)], -2)
        scale_tril = torch.stack([normal.scale_tril, eye.expand_as(normal.scale_tril)], -3)
        shares = normal.loc.new_tensor([1 - PRIOR_SHARE, PRIOR_SHARE]).expand(*normal.loc.shape[:-1], 2)
        return dist.MixtureSameFamily(
            dist.Categorical(shares), dist.MultivariateNormal(loc, scale_tril=scale_tril)
        )
