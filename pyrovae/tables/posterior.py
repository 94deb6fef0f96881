"""The posterior of rows of a table, whichever entries they have."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.tables.factor_analysis import Factors
from pyrovae.tables.features import TableFeatures

# By how much, as a logarithm, a row may change what a feature is worth.
_MOST_CHANGE = 4.0


class EntryNormal(nn.Module):
    """A normal to whose precision each entry adds its own, so that any entries may be absent.

        q(z|x) = N(z; M^-1 h, M^-1),  M = I + sum_f g_f a_f a_f',  h = s(x) + sum_f g_f (b_f u_f + c_f)

    over the features u_f of x that are there; s [K] and the positive g [F] are a network's, of all of them. With s = 0
    and g = 1 it is the exact posterior of a factor analysis, whatever is absent: Rubin & Thayer, "EM algorithms for ML
    factor analysis" (1982), https://doi.org/10.1007/BF02293851, equation 3. So it begins (`start_from`), and the
    network has to learn only what is not linear.

    Args:
        features: of rows x [..., D].
        network: from features to [..., width].
        width: of what it gives.
        latent_size: K.

    """

    def __init__(self, features: TableFeatures, network: nn.Module, width: int, latent_size: int) -> None:
        super().__init__()
        self.features = features
        self.network = network
        F = len(features.places)
        self.change = nn.Linear(width, latent_size + F)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)
        self.direction = nn.Parameter(torch.randn(F, latent_size) / max(F, latent_size) ** 0.5)
        self.slope = nn.Parameter(self.direction.detach().clone())
        self.constant = nn.Parameter(torch.zeros(F, latent_size))

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of z given rows x [..., D]."""
        features = self.features(x)
        K, F = self.direction.shape[1], len(self.direction)
        shift, change = self.change(self.network(features)).double().split([K, F], -1)
        worth = self.features.present(x) * torch.exp(_MOST_CHANGE * torch.tanh(change / _MOST_CHANGE))
        # Double precision inside: the precision joins 1 and that of columns without noise.
        direction, slope, constant = (p.double() for p in (self.direction, self.slope, self.constant))
        outer = (direction[:, :, None] * direction[:, None, :]).flatten(1)
        precision = (worth @ outer).unflatten(-1, (K, K)) + torch.eye(K, dtype=torch.float64, device=x.device)
        h = shift + (worth * features[..., :F].double()) @ slope + worth @ constant
        # The lower triangular factor of the inverse, by that of the precision in reverse order.
        upper = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1)
        eye = torch.eye(K, dtype=torch.float64, device=x.device).expand_as(precision)
        factor = torch.linalg.solve_triangular(upper.mT, eye, upper=False)
        location = (factor @ (factor.mT @ h.unsqueeze(-1))).squeeze(-1)
        return dist.MultivariateNormal(location.to(features), scale_tril=factor.to(features))

    @torch.no_grad()
    def start_from(self, factors: Factors) -> None:
        """Be the exact posterior of a factor analysis of the features."""
        scaled = factors.loading / factors.noise[:, None]
        self.direction.copy_(scaled)
        self.slope.copy_(scaled / factors.noise[:, None])
        self.constant.copy_(-self.slope.double() * factors.mean[:, None])
