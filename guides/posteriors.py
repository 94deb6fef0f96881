"""Posteriors q(z|x) for a vector latent: conditional distributions of the data (and of context).

Each holds an encoder network that gives the location first, then the raw scale, then whatever the family has
beside them. For K latent dimensions:

    IsotropicNormal    (K, 1)                 one scale a row
    DiagonalNormal     (K, K)                 one scale a dimension
    LowRankNormal      (K, K, K*R)            correlations of rank R
    FullNormal         (K, K, K*(K-1)//2)     all correlations
    MixtureOfNormals   (C*K, C*K, C)          C modes; see `pyrovae.guides.mixture`
    flows              (K, K, context_size)   any shape; see `pyrovae.guides.flows`

Raw values become scales by `pyrovae.nn.positive`. Inputs have any leading dimensions, and so have the
posteriors; the event is [K].
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.models.likelihoods import Normal
from pyrovae.models.parameters import check_size, outputs_of
from pyrovae.nn import positive

# Squares of scales up to here, and sums of them, are finite at float32.
_LARGEST_SCALE = 1e15
# The factor of LowRankNormal in units of the scales: bounded, I + V'S^-2 V has a Cholesky factor at float32.
_LARGEST_FACTOR = 100.0


class DiagonalNormal(Normal):
    """A normal with one scale for each dimension of a row: `pyrovae.models.Normal` by its name as a posterior.

        q(z|x) = N(z; m(x), diag(s(x))^2)

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., K]), or to the location alone.
        scale: None where the network gives it, else as in `pyrovae.models.Normal`.

    Raises:
        ValueError: a scale that is not positive.
        TypeError: at a call, a network that gives another number of tensors.

    Example:
        >>> from pyrovae.nn import MLP
        >>> DiagonalNormal(MLP(64, (8, 8)))(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    @staticmethod
    def head_sizes(latent_size: int) -> tuple[int, ...]:
        """What the network gives: location, raw scale."""
        return latent_size, latent_size


class IsotropicNormal(nn.Module):
    """A normal with one scale for all dimensions of a row.

        q(z|x) = N(z; m(x), s(x)^2 I)

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., 1]).

    Raises:
        TypeError: at a call, a network that gives another number of tensors.
        ValueError: at a call, sizes that do not fit (says both).

    Example:
        >>> from pyrovae.nn import MLP
        >>> IsotropicNormal(MLP(64, (8, 1)))(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @staticmethod
    def head_sizes(latent_size: int) -> tuple[int, ...]:
        """What the network gives: location, raw scale."""
        return latent_size, 1

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the inputs."""
        location, raw = outputs_of(self, self.network(*inputs), ("location", "raw scale"))
        check_size(self, "raw scale", raw, 1, "one scale for all dimensions of a row")
        return dist.Normal(location, positive(raw)).to_event(1)


class LowRankNormal(nn.Module):
    """A normal whose covariance is diagonal up to a factor of rank R.

        q(z|x) = N(z; m, S S + V V'),    S = diag(s(x)), V = V(x) [K,R]

    V is lower triangular with a positive diagonal, which every V V' has: else V could be turned and mirrored
    from row to row, and an encoder that starts with different signs in different rows stays there. Its
    entries stay, smoothly, within +-100 times their dimension's scale (correlations up to 0.9999), so that no
    output makes the covariance singular at float32. The cost per row grows as K R^2, against K^2 of
    `FullNormal`.

    Rezende, Mohamed, Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep Generative
    Models" (2014), https://arxiv.org/abs/1401.4082 (there for the precision, of rank one).

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., K], factor [..., K*R]), the
            factor row by row: what stands above its diagonal is not used. R, at most K, is what its size says.

    Raises:
        TypeError: at a call, a network that gives another number of tensors.
        ValueError: at a call, sizes that do not fit (says both).

    Example:
        >>> from pyrovae.nn import MLP
        >>> LowRankNormal(MLP(64, (8, 8, 8 * 2)))(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @staticmethod
    def head_sizes(latent_size: int, rank: int = 2) -> tuple[int, ...]:
        """What the network gives: location, raw scale, factor of this rank, or of K where that is less."""
        return latent_size, latent_size, latent_size * min(rank, latent_size)

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the inputs."""
        names = ("location", "raw scale", "factor")
        location, raw, factor = outputs_of(self, self.network(*inputs), names)
        K = location.shape[-1]
        check_size(self, "raw scale", raw, K, "the location's size")
        if factor.shape[-1] not in range(K, K * K + 1, K):
            raise ValueError(
                f"the network of LowRankNormal gave a factor of size {factor.shape[-1]}: expected K*R for the "
                f"location's size K = {K} and a rank R from 1 to {K}."
            )
        scale = positive(raw).clamp(max=_LARGEST_SCALE)
        factor = factor.unflatten(-1, (K, -1))
        diagonal = torch.eye(*factor.shape[-2:], device=factor.device, dtype=factor.dtype)
        factor = factor.tril(-1) + diagonal * positive(factor)
        limit = _LARGEST_FACTOR * scale.unsqueeze(-1)
        factor = limit * torch.tanh(factor / limit)
        return dist.LowRankMultivariateNormal(location, factor, scale**2)


class FullNormal(nn.Module):
    """A normal with every correlation.

        q(z|x) = N(z; m, L L'),    L(x) lower triangular, its diagonal positive(raw scale)

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., K], entries of L below its
            diagonal [..., K*(K-1)/2], row by row).

    Raises:
        TypeError: at a call, a network that gives another number of tensors.
        ValueError: at a call, sizes that do not fit (says both).

    Example:
        >>> from pyrovae.nn import MLP
        >>> FullNormal(MLP(64, (8, 8, 8 * 7 // 2)))(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @staticmethod
    def head_sizes(latent_size: int) -> tuple[int, ...]:
        """What the network gives: location, raw scale, entries below the diagonal."""
        return latent_size, latent_size, latent_size * (latent_size - 1) // 2

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the inputs."""
        names = ("location", "raw scale", "entries below the diagonal")
        location, raw, below = outputs_of(self, self.network(*inputs), names)
        K = location.shape[-1]
        check_size(self, "raw scale", raw, K, "the location's size")
        below_size = K * (K - 1) // 2
        check_size(self, "vector below the diagonal", below, below_size, f"K*(K-1)/2 for K = {K}")
        row, column = torch.tril_indices(K, K, offset=-1, device=location.device)
        factor = torch.diag_embed(positive(raw))
        factor[..., row, column] = below
        return dist.MultivariateNormal(location, scale_tril=factor)
