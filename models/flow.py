"""Normalizing-flow priors over Pyro's transforms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import affine_coupling, spline_coupling
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyrovae.models.priors import check_latent_size


class FlowPrior(nn.Module):
    """p(z): a standard normal e pushed through bijections, z = f_L(... f_1(e)).

    log p(z) = log N(e; 0, I) - sum_l log |det df_l|. Rezende & Mohamed, "Variational inference with normalizing
    flows" (2015), https://arxiv.org/abs/1505.05770, eq. 6 and 7. `spline_flow` and `affine_flow` make flows of
    coupling layers, whose density and sampling both take one pass. Autoregressive transforms work too; Pyro's
    sample in one pass and loop over the K dimensions for a density.

    Args:
        latent_size: K.
        transforms: bijections of [..., K], of `pyro.distributions.transforms` or torch's, from the base outwards.

    Raises:
        ValueError: `latent_size` below 1, no transforms.

    Example:
        >>> import pyro.distributions.transforms as T
        >>> FlowPrior(4, [T.planar(4), T.affine_coupling(4)])().event_shape
        torch.Size([4])

    """

    def __init__(self, latent_size: int, transforms: Sequence[Transform]) -> None:
        super().__init__()
        check_latent_size(latent_size)
        if not transforms:
            raise ValueError(
                "transforms are empty: a flow needs one at least; without any use StandardNormal."
            )
        self.transforms = list(transforms)
        self.learned = nn.ModuleList(t for t in self.transforms if isinstance(t, nn.Module))
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution of z, event [K], whatever the context."""
        base = dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
        return dist.TransformedDistribution(base, [_fresh(t) for t in self.transforms])


def spline_flow(
    latent_size: int,
    *,
    num_layers: int = 4,
    hidden: Sequence[int] = (64, 64),
    count_bins: int = 8,
    bound: float = 5.0,
) -> FlowPrior:
    """A flow of neural spline couplings: monotonic rational-linear splines, linked to the identity outside.

    Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows" (2019), https://arxiv.org/abs/1906.04032;
    Dolatabadi, Erfani, Leckie, "Invertible generative modeling using linear rational splines" (2020),
    https://arxiv.org/abs/2001.05168. The order of dimensions is reversed between layers.

    Args:
        latent_size: K, at least 2.
        num_layers: couplings.
        hidden: hidden layers of each coupling's network.
        count_bins: segments of a spline.
        bound: splines act on [-bound, bound].

    Raises:
        ValueError: sizes too small.

    Example:
        >>> spline_flow(8)().event_shape
        torch.Size([8])

    """
    check_latent_size(latent_size, 2)
    return FlowPrior(
        latent_size,
        _couplings(
            spline_coupling(latent_size, hidden_dims=list(hidden), count_bins=count_bins, bound=bound)
            for _ in range(num_layers)
        ),
    )


def affine_flow(latent_size: int, *, num_layers: int = 4, hidden: Sequence[int] = (64, 64)) -> FlowPrior:
    """A flow of affine couplings: half of the dimensions shift and scale the other half.

    Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP" (2016), https://arxiv.org/abs/1605.08803,
    eq. 4 and 5. The order of dimensions is reversed between layers.

    Args:
        latent_size: K, at least 2.
        num_layers: couplings.
        hidden: hidden layers of each coupling's network.

    Raises:
        ValueError: sizes too small.

    Example:
        >>> affine_flow(8)().event_shape
        torch.Size([8])

    """
    check_latent_size(latent_size, 2)
    return FlowPrior(
        latent_size,
        _couplings(affine_coupling(latent_size, hidden_dims=list(hidden)) for _ in range(num_layers)),
    )


class _Reverse(Transform):
    """Reverses the order of dimensions; Pyro's Permute holds a tensor that does not move with the module."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    volume_preserving = True

    def _call(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.flip(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


def _couplings(layers: Any) -> list[Transform]:
    layers = list(layers)
    return [t for layer in layers for t in (layer, _Reverse())][:-1]


def _fresh(transform: Any) -> Any:
    """The same transform with the same parameters and an empty cache.

    Pyro's transforms keep their last input, output and log-determinant. On a module shared by all calls these
    would outlive a step of the optimizer, carry a graph into deep copies, and pass values without gradients on.
    """
    fresh = copy.copy(transform)
    if isinstance(fresh, Transform):
        fresh._cached_x_y = None, None
    if isinstance(fresh, nn.Module):
        fresh._modules = {
            name: _fresh(child) if isinstance(child, Transform) else child
            for name, child in fresh._modules.items()
        }
    return fresh
