"""A mixture of normals as a posterior, with gradients through its samples."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.guides.encoding import check_size, encode
from pyrovae.nn import positive


class MixtureOfNormals(nn.Module):
    """A mixture of C normals with diagonal covariances: a posterior of several modes.

        q(z|x) = sum_c w_c(x) N(z; m_c(x), diag(s_c(x))^2)

    Samples are reparameterized in all parameters, the weights included (see `PathwiseMixture`).

    Args:
        network: from x (and context) to (locations [..., C*K], raw scales [..., C*K], logits of the weights
            [..., C]), component by component. C and K are what the sizes say.

    Raises:
        TypeError: at a call, a network that gives another number of tensors.
        ValueError: at a call, sizes that do not fit (says both).

    Example:
        >>> from pyrovae.nn import MLP
        >>> MixtureOfNormals(MLP(64, (3 * 8, 3 * 8, 3)))(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the inputs."""
        names = ("locations", "raw scales", "logits")
        locations, raw, logits = encode("MixtureOfNormals", self.network, inputs, names)
        C = logits.shape[-1]
        if C == 0 or locations.shape[-1] % C:
            raise ValueError(
                f"the network of MixtureOfNormals gave locations of size {locations.shape[-1]} and {C} logits: "
                "expected C*K locations, a multiple of the C logits."
            )
        check_size(
            "MixtureOfNormals", "vector of raw scales", raw, locations.shape[-1], "the locations' size"
        )
        components = dist.Normal(
            locations.unflatten(-1, (C, -1)), positive(raw).unflatten(-1, (C, -1))
        ).to_event(1)
        return PathwiseMixture(dist.Categorical(logits=logits), components)


class PathwiseMixture(dist.MixtureSameFamily):  # type: ignore[misc]
    """A mixture of diagonal normals whose samples carry gradients: implicit reparameterization.

    With u_d = F(z_d | z_1..z_{d-1}), the conditional distribution functions, uniform whatever the parameters,

        dz = -(du/dz)^{-1} du/dparameters,    du/dz lower triangular

    Figurnov, Mohamed, Mnih, "Implicit Reparameterization Gradients" (2018),
    https://arxiv.org/abs/1805.08498.
    (`pyro.distributions.MixtureOfDiagNormals` has gradients of this kind too, but those of its weights are
    right for unit scales only.)

    Args:
        mixture_distribution: a Categorical, batch [...].
        component_distribution: `Independent(Normal)`, batch [..., C], event [K].

    Example:
        >>> parts = dist.Normal(torch.randn(3, 2), torch.ones(3, 2)).to_event(1)
        >>> PathwiseMixture(dist.Categorical(torch.ones(3)), parts).rsample((5,)).shape
        torch.Size([5, 2])

    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw [*sample_shape, *batch, K], differentiable in all parameters."""
        z: Tensor = self.sample(torch.Size(sample_shape))
        normals: Any = self.component_distribution
        scale = normals.base_dist.scale
        standard = (z.unsqueeze(-2) - normals.base_dist.loc) / scale
        log_normal = -0.5 * standard**2 - scale.log()
        # Weights of the components given the dimensions before d: [..., C, K].
        before = log_normal.cumsum(-1) - log_normal
        logits: Tensor = self.mixture_distribution.logits
        weights = torch.softmax(logits.unsqueeze(-1) + before, dim=-2)
        below = torch.special.ndtr(standard)
        uniform = (weights * below).sum(-2)
        with torch.no_grad():
            # du_d/dz_j for j < d: the weights move with z_j; for j = d: the conditional density.
            slopes = -standard / scale
            excess = weights * (below - uniform.unsqueeze(-2))
            jacobian = torch.einsum("...cd,...cj->...dj", excess, slopes).tril(-1)
            density = (weights * (log_normal - _LOG_ROOT_TWO_PI).exp()).sum(-2)
            jacobian = jacobian + torch.diag_embed(density.clamp(min=torch.finfo(z.dtype).tiny))
        moved = uniform - uniform.detach()
        step = torch.linalg.solve_triangular(jacobian, moved.unsqueeze(-1), upper=False)
        return z - step.squeeze(-1)


_LOG_ROOT_TWO_PI = 0.9189385332046727
