"""Families of posteriors for guides that are derived: functions (in_features, latent_size, hidden) -> posterior.

Each makes an `MLP` with the outputs that its posterior takes. Write one for a family of your own.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pyrovae.guides.flows import CouplingFlow, InverseAutoregressiveFlow, NeuralSplineFlow
from pyrovae.guides.mixture import MixtureOfNormals
from pyrovae.guides.posteriors import DiagonalNormal, FullNormal, IsotropicNormal, LowRankNormal
from pyrovae.nn import MLP

CONTEXT_SIZE = 32
NUM_COMPONENTS = 8
RANK = 2


def isotropic_normal(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """One scale for all dimensions of a row."""
    return IsotropicNormal(MLP(in_features, (latent_size, 1), hidden))


def diagonal_normal(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """One scale a dimension."""
    return DiagonalNormal(MLP(in_features, (latent_size, latent_size), hidden))


def low_rank_normal(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """Correlations of rank 2."""
    rank = min(RANK, latent_size)
    return LowRankNormal(MLP(in_features, (latent_size, latent_size, latent_size * rank), hidden))


def full_normal(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """All correlations."""
    sizes = (latent_size, latent_size, latent_size * (latent_size - 1) // 2)
    return FullNormal(MLP(in_features, sizes, hidden))


def mixture_of_normals(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """Eight modes."""
    size = NUM_COMPONENTS * latent_size
    return MixtureOfNormals(MLP(in_features, (size, size, NUM_COMPONENTS), hidden))


def inverse_autoregressive_flow(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """Two autoregressive layers on a diagonal normal."""
    return InverseAutoregressiveFlow(_network(in_features, latent_size, hidden), latent_size, CONTEXT_SIZE)


def coupling_flow(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """Four affine couplings on a diagonal normal."""
    return CouplingFlow(_network(in_features, latent_size, hidden), latent_size, CONTEXT_SIZE)


def neural_spline_flow(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> nn.Module:
    """Two layers of splines on a diagonal normal."""
    return NeuralSplineFlow(_network(in_features, latent_size, hidden), latent_size, CONTEXT_SIZE)


def _network(in_features: int, latent_size: int, hidden: Sequence[int]) -> MLP:
    return MLP(in_features, (latent_size, latent_size, CONTEXT_SIZE), hidden)
