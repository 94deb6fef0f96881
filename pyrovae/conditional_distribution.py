"""The algebra of the package, and the one kind of thing that its swappable parts are.

    VAE        = model x guide                      a pair of Pyro programs with one signature
    model      = prior p(z|c), likelihood p(x|z,c)  or any Pyro program
    guide      = posterior q(z|x,c)                 or any Pyro program, or derived from the model
    training   = VAE x objective x data             -> history
    evaluation = VAE x data                         -> row-wise numbers with their errors

A prior (of the context, or of nothing), a likelihood (of z) and a posterior (of x) are one kind of thing, a
*conditional distribution*: a normal with a network inside is a decoder, a conditional prior and an encoder alike,
and a normalizing flow is a prior and a posterior alike. Parts give distributions, never (mu, logvar), and know no
plates; the programs that they compose do.
"""

from __future__ import annotations

from typing import Protocol, cast

from pyro.distributions import TorchDistribution
from torch import Tensor, nn


class ConditionalDistribution(Protocol):
    """From tensors to a Pyro distribution over one row's event: a prior, a likelihood or a posterior.

    Inputs are rows [B, ...] or samples of rows [S, B, ...]; what is not event in the distribution that comes back
    are the inputs' leading dimensions. A prior of nothing takes any inputs and does not depend on them.

    It is the type of the parts in signatures, nothing to inherit from: an `nn.Module` whose `forward` does this is
    one. Parts are modules because a model or a guide holds them as submodules, parameters and all.

    Example:
        >>> from pyrovae.models import Normal
        >>> from pyrovae.nn import MLP
        >>> posterior: ConditionalDistribution = Normal(MLP(64, (8, 8)))
        >>> posterior(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __call__(self, *inputs: Tensor) -> TorchDistribution:
        """The distribution given the inputs."""


def as_module(part: ConditionalDistribution) -> nn.Module:
    """A part as what torch's lists and dicts of submodules take; they refuse one that is no module."""
    return cast(nn.Module, part)
