"""Families of posteriors for guides that are derived: functions (in_features, latent_size, hidden) -> posterior.

Any posterior that states the sizes of its head makes one, `partial(headed, MyPosterior)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

from pyrovae.conditional_distribution import ConditionalDistribution
from pyrovae.guides.flows import CouplingFlow, InverseAutoregressiveFlow, NeuralSplineFlow
from pyrovae.guides.mixture import MixtureOfNormals
from pyrovae.guides.posteriors import DiagonalNormal, FullNormal, IsotropicNormal, LowRankNormal
from pyrovae.models.flow import Flow
from pyrovae.nn import MLP

Family: TypeAlias = Callable[[int, int, Sequence[int]], ConditionalDistribution]
"""(in_features, latent_size, hidden) -> a posterior over K numbers from so many, its hidden layers of these sizes."""


class Headed(Protocol):
    """A class of posteriors, each around a network, that states the sizes of what the network gives."""

    def __call__(self, *args: Any, **kwargs: Any) -> ConditionalDistribution:
        """The posterior around a network, the first argument."""

    def head_sizes(self, latent_size: int, /) -> tuple[int, ...]:
        """The sizes of the network's outputs for K latent dimensions."""


def headed(
    posterior: Headed, in_features: int, latent_size: int, hidden: Sequence[int] = ()
) -> ConditionalDistribution:
    """A posterior around an `MLP` with a head of the sizes that its class states.

    Example:
        >>> headed(FullNormal, 64, 8, [128])(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """
    sizes = posterior.head_sizes(latent_size)
    network = MLP(in_features, sizes, hidden)
    # The layers of a flow have sizes too.
    is_flow = isinstance(posterior, type) and issubclass(posterior, Flow)
    return posterior(network, latent_size, sizes[-1]) if is_flow else posterior(network)


isotropic_normal = partial(headed, IsotropicNormal)
diagonal_normal = partial(headed, DiagonalNormal)
low_rank_normal = partial(headed, LowRankNormal)
full_normal = partial(headed, FullNormal)
mixture_of_normals = partial(headed, MixtureOfNormals)
inverse_autoregressive_flow = partial(headed, InverseAutoregressiveFlow)
coupling_flow = partial(headed, CouplingFlow)
neural_spline_flow = partial(headed, NeuralSplineFlow)
