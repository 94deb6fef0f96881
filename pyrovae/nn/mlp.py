"""The multi-layer perceptron over vectors, and how several inputs are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Outputs: TypeAlias = Tensor | tuple[Tensor, ...]


class MLP(nn.Module):
    """A multi-layer perceptron over the last dimension.

    Inputs [..., in_features] with any leading dimensions; several inputs broadcast against each other and
    are joined. What the first layer makes of each is computed before they broadcast: a row's image under ten labels
    costs as much as under one. A tuple of `out_features` gives a tuple of outputs, one linear head each.

    With `residual` a hidden layer adds its output to its input, h + activation(linear(h)), wherever the two
    have one size: He et al., "Deep Residual Learning for Image Recognition" (2015),
    https://arxiv.org/abs/1512.03385.

    Args:
        in_features: size of the inputs' last dimension, all inputs together.
        out_features: size of the output's last dimension, or a tuple of sizes.
        hidden: sizes of the hidden layers.
        activation: makes the nonlinearity between layers.
        residual: add skip connections around hidden layers that keep their size.

    Raises:
        ValueError: residual where no hidden layer keeps its size; at a call, inputs of another size (says
            both sizes).

    Example:
        >>> MLP(8, 64, hidden=[128])(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 64])
        >>> loc, scale = MLP(64, (8, 8), hidden=[128, 128], residual=True)(torch.zeros(5, 64))

    """

    def __init__(
        self,
        in_features: int,
        out_features: int | Sequence[int],
        hidden: Sequence[int] = (),
        activation: Callable[[], nn.Module] = nn.ReLU,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        sizes = [in_features, *hidden]
        if residual and not any(size == width for size, width in pairwise(sizes)):
            raise ValueError(
                f"residual needs a hidden layer as wide as what enters it, and the sizes are {sizes}: give "
                "neighbouring hidden layers one size, e.g. hidden=[128, 128]."
            )
        layers: list[nn.Module] = []
        for size, width in pairwise(sizes):
            layer = [nn.Linear(size, width), activation()]
            layers += [_Residual(*layer)] if residual and size == width else layer
        self.body = nn.Sequential(*layers)
        self.heads = Heads(sizes[-1], out_features)

    def forward(self, *inputs: Tensor) -> Outputs:
        """[..., in_features] -> [..., out_features], or a tuple of such."""
        outputs: Outputs = self.heads(self._features(inputs))
        return outputs

    def _features(self, inputs: tuple[Tensor, ...]) -> Tensor:
        first = next(iter(self.body), None)
        if not isinstance(first, nn.Linear) or len({i.shape[:-1] for i in inputs}) < 2:
            joined: Tensor = self.body(join_features("MLP", self.in_features, inputs))
            return joined
        sizes = checked_sizes("MLP", self.in_features, inputs)
        weight, *weights = first.weight.split(sizes, -1)
        features = linear(inputs[0], weight, first.bias)
        for values, weight in zip(inputs[1:], weights, strict=True):
            features = features + linear(values, weight)
        rest: Tensor = self.body[1:](features)
        return rest


class Heads(nn.ModuleList):
    """Linear outputs: [..., out_features], or for a tuple of sizes a tuple of such.

    Example:
        >>> loc, scale = Heads(128, (8, 8))(torch.zeros(5, 128))

    """

    def __init__(self, in_features: int, out_features: int | Sequence[int]) -> None:
        sizes = (out_features,) if isinstance(out_features, int) else tuple(out_features)
        super().__init__(nn.Linear(in_features, size) for size in sizes)
        self.single = isinstance(out_features, int)

    def forward(self, features: Tensor) -> Outputs:
        """[..., in_features] -> [..., out_features], or a tuple of such."""
        outputs = tuple(linear(features) for linear in self)
        return outputs[0] if self.single else outputs


class _Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.change = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        change: Tensor = self.change(features)
        return features + change


def join(*inputs: Tensor) -> Tensor:
    """Broadcast the leading dimensions of several inputs and join their last ones."""
    leading = torch.broadcast_shapes(*(i.shape[:-1] for i in inputs))
    return torch.cat([i.expand(*leading, i.shape[-1]) for i in inputs], -1)


def join_features(network: str, in_features: int, inputs: tuple[Tensor, ...]) -> Tensor:
    """The inputs joined, or a ValueError that names the network and both sizes."""
    checked_sizes(network, in_features, inputs)
    return inputs[0] if len(inputs) == 1 else join(*inputs)


def checked_sizes(network: str, in_features: int, inputs: tuple[Tensor, ...]) -> list[int]:
    """How many features each input has, or a ValueError that names the network and both sizes."""
    sizes = [i.shape[-1] for i in inputs]
    if sum(sizes) != in_features:
        said = " + ".join(map(str, sizes)) or "no inputs"
        raise ValueError(f"{network} takes {in_features} features and got {said}.")
    return sizes
