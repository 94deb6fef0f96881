"""Likelihoods p(x|z): conditional distributions of the latents (and of context).

Each holds a network from [..., K] to the parameters of one row's event, [..., *event]. `Normal` serves as a
conditional prior and as an amortized posterior too.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.nn import positive


class Bernoulli(nn.Module):
    """Independent binary entries: the network gives their logits, [..., *event].

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> Bernoulli(MLP(2, 64))(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        logits = self.network(*inputs)
        return dist.Bernoulli(logits=logits).to_event(event_dim(logits, inputs))


class Normal(nn.Module):
    """Independent normal entries.

    The network gives the location alone, [..., *event], beside a `scale` that is fixed (a number) or learned
    (`pyrovae.nn.PositiveParameter`); or, without `scale`, the pair (location, raw scale), the scale being
    `pyrovae.nn.positive(raw)`: finite and positive for any finite output.

    Args:
        network: from the inputs to the location, or to (location, raw scale).
        scale: standard deviation: a positive number, a module that returns one, or None.

    Raises:
        ValueError: a scale that is not positive.
        TypeError: at a call, a network that gives one tensor where two are needed or the reverse.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP, PositiveParameter
        >>> x = torch.zeros(5, 2)
        >>> fixed = Normal(MLP(2, 64), scale=0.1)(x)
        >>> learned = Normal(MLP(2, 64), scale=PositiveParameter(torch.full((64,), 0.1)))(x)
        >>> by_network = Normal(MLP(2, (64, 64)))(x)

    """

    def __init__(self, network: nn.Module, scale: float | nn.Module | None = None) -> None:
        super().__init__()
        if isinstance(scale, int | float) and not 0 < scale < float("inf"):
            raise ValueError(f"scale is {scale}: expected a positive, finite standard deviation.")
        self.network = network
        self.scale = scale

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        outputs: Any = self.network(*inputs)
        if isinstance(outputs, Tensor) == (self.scale is None):
            wanted = "a pair (location, raw scale)" if self.scale is None else "the location alone"
            raise TypeError(
                f"the network of Normal gave {'one tensor' if isinstance(outputs, Tensor) else 'several tensors'} "
                f"where {wanted} is needed: with `scale` it gives the location, without it both, e.g. "
                "MLP(in_features, (K, K))."
            )
        scale: Any
        if self.scale is None:
            location, raw = outputs
            scale = positive(raw)
        else:
            location = outputs
            scale = self.scale() if callable(self.scale) else self.scale
        return dist.Normal(location, scale).to_event(event_dim(location, inputs))


def event_dim(parameter: Tensor, inputs: tuple[Tensor, ...]) -> int:
    """How many dimensions of a parameter are one row's event, the inputs being [..., features].

    At least one: a network that sums up images or sequences gives fewer dimensions than it takes, and what
    it gives is a vector.
    """
    return max(1, parameter.dim() - max(i.dim() for i in inputs) + 1)
