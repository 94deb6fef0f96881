"""Ordered categories: cumulative logits."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyrovae.models.likelihoods import event_dim
from pyrovae.models.parameters import outputs_of
from pyrovae.nn import PositiveParameter


class Ordered(nn.Module):
    """Independent entries that are one of k ordered options each, coded 0, ..., k - 1: cumulative logits.

        P(x <= j) = sigmoid(c_j - location),   c_0 < c_1 < ... < c_{k-2}

    McCullagh, "Regression models for ordinal data" (1980), equation 1.1. The cutpoints c are learned, each entry has
    its own; the network gives one number for each entry, whatever k is.

    Args:
        network: from the inputs to the locations, [..., D].
        num_options: k.
        num_entries: D.

    Raises:
        ValueError: `num_options` below 2 or `num_entries` below 1; at a call, another number of locations.

    Example:
        >>> from pyrovae.nn import MLP
        >>> Ordered(MLP(2, 3), num_options=5, num_entries=3)(torch.zeros(7, 2)).event_shape
        torch.Size([3])

    """

    def __init__(self, network: nn.Module, num_options: int, num_entries: int) -> None:
        super().__init__()
        if num_options < 2:
            raise ValueError(f"num_options is {num_options}: expected at least 2.")
        if num_entries < 1:
            raise ValueError(f"num_entries is {num_entries}: expected at least 1.")
        self.network = network
        # At a location of 0 all options are equally probable.
        start = torch.logit(torch.arange(1, num_options) / num_options)
        self.first = nn.Parameter(start[0].repeat(num_entries, 1))
        self.steps = PositiveParameter(start.diff().repeat(num_entries, 1)) if num_options > 2 else None

    @property
    def cutpoints(self) -> Tensor:
        """c, [D, k - 1], rising."""
        if self.steps is None:
            return self.first
        return torch.cat([self.first, self.first + self.steps().cumsum(-1)], -1)

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        (location,) = outputs_of(self, self.network(*inputs), ["location"])
        if location.shape[-1] != len(self.first):
            raise ValueError(
                f"the network of Ordered gave {location.shape[-1]} locations: expected {len(self.first)}, one for each "
                "entry."
            )
        below = self.cutpoints - location[..., None]
        parts = [logsigmoid(below[..., :1]), logsigmoid(-below[..., -1:])]
        if self.steps is not None:
            # log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b))
            between = torch.log(-torch.expm1(-self.steps()))
            parts.insert(1, logsigmoid(below[..., 1:]) + logsigmoid(-below[..., :-1]) + between)
        logits = torch.cat(parts, -1)
        return dist.Categorical(logits=logits).to_event(event_dim(location, inputs))
