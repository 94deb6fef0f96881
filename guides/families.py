"""Families of posteriors for guides that are derived: functions (in_features, latent_size, hidden) -> posterior.

Any posterior that states the sizes of its head makes one, `partial(headed, MyPosterior)`.

A normal is lighter than most posteriors where the data are few; `student_t` and `by_prior` are not, and importance
weights under them are bounded or nearly so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

from pyrovae.conditional_distribution import ConditionalDistribution
from pyrovae.guides.flows import CouplingFlow, InverseAutoregressiveFlow, NeuralSplineFlow
from pyrovae.guides.mixture import MixtureOfNormals
from pyrovae.guides.posteriors import DiagonalNormal, FullNormal, IsotropicNormal, LowRankNormal
from pyrovae.models.flow import Flow
from pyrovae.models.likelihoods import StudentT
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


def student_t(in_features: int, latent_size: int, hidden: Sequence[int] = ()) -> ConditionalDistribution:
    """Independent Student-t entries of four degrees of freedom: heavier than the posteriors of most models.

    A posterior that falls as an exponential, as those of gamma and beta priors do in unconstrained coordinates, has
    bounded importance weights under it, where under a normal their variance is infinite. Positive latents are a
    softplus of it. Degrees of freedom are not learned, an ELBO would make them many. A model that takes the exponential
    of a real latent, Poisson(z.exp()), has no finite ELBO under it: write a softplus, or take a normal.

    Example:
        >>> student_t(64, 8)(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """
    return StudentT(MLP(in_features, (latent_size, latent_size), hidden))


@dataclass(frozen=True)
class ByPrior:
    """Each site's posterior in the family of its prior where that is gamma, beta or Dirichlet: exact if conjugate.

    Gamma, exponential and chi-squared priors have a gamma posterior, beta and uniform ones a beta, Dirichlet ones a
    Dirichlet, all on the support itself; sites with other priors have the family `otherwise`, in unconstrained
    coordinates. For `AutoGuide(model, family=families.by_prior)`.

    Args:
        otherwise: the family of other sites.

    Example:
        >>> import pyrovae as pv
        >>> guide = pv.guides.AutoGuide(pv.models.LinearGaussian(2, 4), family=ByPrior(otherwise=full_normal))

    """

    otherwise: Family = student_t

    def __call__(self, in_features: int, latent_size: int, hidden: Sequence[int]) -> ConditionalDistribution:
        """The posterior of a site whose prior is none of these."""
        return self.otherwise(in_features, latent_size, hidden)


by_prior = ByPrior()


def of_entries(family: Family) -> Family:
    """The family of numbers that stand by themselves: `student_t` where that is the family, else a diagonal normal."""
    if isinstance(family, ByPrior):
        return of_entries(family.otherwise)
    return student_t if family is student_t else diagonal_normal
