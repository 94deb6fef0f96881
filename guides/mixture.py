"""A mixture of normals as a posterior, with gradients through its samples."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.models.parameters import check_size, outputs_of
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

    @staticmethod
    def head_sizes(latent_size: int, num_components: int = 8) -> tuple[int, ...]:
        """What the network gives: locations, raw scales, logits of the weights."""
        return num_components * latent_size, num_components * latent_size, num_components

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the inputs."""
        names = ("locations", "raw scales", "logits")
        locations, raw, logits = outputs_of(self, self.network(*inputs), names)
        C = logits.shape[-1]
        if C == 0 or locations.shape[-1] % C:
            raise ValueError(
                f"the network of MixtureOfNormals gave locations of size {locations.shape[-1]} and {C} logits: "
                "expected C*K locations, a multiple of the C logits."
            )
        check_size(self, "vector of raw scales", raw, locations.shape[-1], "the locations' size")
        components = dist.Normal(
            locations.unflatten(-1, (C, -1)), positive(raw).unflatten(-1, (C, -1))
        ).to_event(1)
        return PathwiseMixture(dist.Categorical(logits=logits), components)


class PathwiseMixture(dist.MixtureSameFamily):  # type: ignore[misc]
    """A mixture of diagonal normals whose samples carry gradients: z moves with the parameters.

    Locations and scales move a sample by its components' shares in it, r_c = w_c N_c(z) / q(z):

        dz = sum_c r_c (dm_c + (z - m_c) / s_c * ds_c)

    a velocity that solves the transport equation dq = -div(q dz) and is bounded. Weights move it so that the
    conditional distribution functions u_d = F(z_d | z_1..z_{d-1}) stay what they are:

        dz = -(du/dz)^{-1} du/dw,    du/dz lower triangular

    Jankowiak, Obermeyer, "Pathwise Derivatives Beyond the Reparameterization Trick" (2018),
    https://arxiv.org/abs/1806.01851; Figurnov, Mohamed, Mnih, "Implicit Reparameterization Gradients" (2018),
    https://arxiv.org/abs/1805.08498. (`pyro.distributions.MixtureOfDiagNormals` is of this kind too, but its
    gradient of the weights is right only where the smallest scale of each dimension is 1; it goes back to Jankowiak,
    Karaletsos, "Pathwise Derivatives for Multivariate Distributions" (2018), https://arxiv.org/abs/1806.01856.)

    The gradient of the weights has heavy tails where components lie far apart: mass must cross the gap
    between them, where samples are rare and move far.

    Args:
        mixture_distribution: a Categorical, batch [...].
        component_distribution: `Independent(Normal)`, batch [..., C], event [K].

    Example:
        >>> parts = dist.Normal(torch.randn(3, 2), torch.ones(3, 2)).to_event(1)
        >>> PathwiseMixture(dist.Categorical(torch.ones(3)), parts).rsample((5,)).shape
        torch.Size([5, 2])

    """

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw [*sample_shape, *batch, K], differentiable in all parameters."""
        z: Tensor = self.sample(torch.Size(sample_shape))
        normals = self.component_distribution.base_dist
        logits: Tensor = self.mixture_distribution.logits
        with torch.no_grad():
            standard = (z.unsqueeze(-2) - normals.loc) / normals.scale
            log_normal = -0.5 * standard**2 - normals.scale.log()
            shares = torch.softmax(logits + log_normal.sum(-1), -1).unsqueeze(-1)
        by_components = (shares * (normals.loc + normals.scale * standard)).sum(-2)
        return z + _zero(by_components) - self._by_weights(logits, standard, log_normal, normals.scale)

    def _by_weights(self, logits: Tensor, standard: Tensor, log_normal: Tensor, scale: Tensor) -> Tensor:
        """Zero, whose derivative by the logits is (du/dz)^{-1} du/dlogits."""
        # Weights of the components given the dimensions before d: [..., C, K].
        before = log_normal.cumsum(-1) - log_normal
        weights = torch.softmax(logits.unsqueeze(-1) + before, dim=-2)
        with torch.no_grad():
            below = torch.special.ndtr(standard)
        uniform = (weights * below).sum(-2)
        with torch.no_grad():
            # du_d/dz_j for j < d: the weights move with z_j; for j = d: the conditional density.
            excess = weights * (below - uniform.unsqueeze(-2))
            jacobian = torch.einsum("...cd,...cj->...dj", excess, -standard / scale).tril(-1)
            density = (weights * (log_normal - _LOG_ROOT_TWO_PI).exp()).sum(-2)
            jacobian = jacobian + torch.diag_embed(density.clamp(min=torch.finfo(density.dtype).tiny))
        step = torch.linalg.solve_triangular(jacobian, _zero(uniform).unsqueeze(-1), upper=False)
        return step.squeeze(-1)


_LOG_ROOT_TWO_PI = 0.9189385332046727


def _zero(value: Tensor) -> Tensor:
    """Zero with the derivatives of `value`."""
    return value - value.detach()
