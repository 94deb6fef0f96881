"""The part of a derived guide that draws latents above the rows: one of Pyro's automatic guides."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias, cast

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal, init_to_median
from torch import Tensor, nn

from pyrovae.data import Batch
from pyrovae.pair.bijections import bijection_to, on_device
from pyrovae.pair.contract import PROBE_ROWS
from pyrovae.pair.traces import as_given, sites_of

SharedFamily: TypeAlias = Callable[[Callable[..., object]], nn.Module]
"""From a model of shared latents alone to a guide of them, such as the classes of `pyro.infer.autoguide`."""


def automatic_normal(model: Callable[..., object]) -> nn.Module:
    """Independent normals in unconstrained space, started at medians of the prior: in zeros weights stay alike."""
    guide: nn.Module = AutoNormal(model, init_loc_fn=init_to_median)
    return guide


class SharedLatents(nn.Module):
    """q(theta), which does not read rows.

    Args:
        model: p(x, z, theta).
        names: theta's sites in the model.
        batch: rows to run the model on.
        family: makes the guide.

    """

    def __init__(
        self, model: Callable[..., object], names: Collection[str], batch: Batch, family: SharedFamily
    ) -> None:
        super().__init__()
        self.guide, self.names = family(poutine.block(model, expose=list(names))), tuple(names)
        few = batch[:PROBE_ROWS]
        with torch.no_grad(), poutine.block(), as_given(few):
            sites = sites_of(model, few)
            self.draw(*few.arguments)  # makes its parameters
        self._supports = {name: sites[name].support for name in self.names}
        self.num_features = sum(
            math.prod(bijection_to(self._supports[name]).inverse_shape(sites[name].value.shape))
            for name in self.names
        )

    def draw(self, *arguments: object) -> dict[str, Tensor]:
        """Sample theta; its values by site."""
        with poutine.trace() as recorder:
            self.guide(*arguments)
        nodes = recorder.trace.nodes
        return {name: cast(Tensor, nodes[name]["value"]) for name in self.names}

    def features(self, values: Mapping[str, Tensor]) -> Tensor:
        """All numbers of theta in unconstrained space, [F]."""
        parts = []
        for name, value in values.items():
            bijection = bijection_to(on_device(self._supports[name], value.device))
            parts.append(bijection.inv(value).reshape(-1))
        return torch.cat(parts)

    def __repr__(self) -> str:
        return f"q({','.join(self.names)}) by {type(self.guide).__name__}"
