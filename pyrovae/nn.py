"""Networks for encoders and decoders. They accept any leading dimensions, and several inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

# softplus(_UNIT) = 1, so that a raw value of 0 means a scale of 1.
_UNIT = 0.5413248546129181
SMALLEST_SCALE = 1e-6


def positive(raw: Tensor) -> Tensor:
    """Map any finite values to finite positive ones: softplus, with 0 at 1 and a floor of 1e-6.

    Example:
        >>> positive(torch.tensor([-1e30, 0.0, 1e30]))
        tensor([1.0000e-06, 1.0000e+00, 1.0000e+30])

    """
    return softplus(raw + _UNIT) + SMALLEST_SCALE


class MLP(nn.Module):
    """A multi-layer perceptron over the last dimension.

    Inputs [..., in_features] with any leading dimensions; several inputs broadcast against each other and
    are joined. A tuple of `out_features` gives a tuple of outputs, one linear head each.

    Args:
        in_features: size of the inputs' last dimension, all inputs together.
        out_features: size of the output's last dimension, or a tuple of sizes.
        hidden: sizes of the hidden layers.
        activation: makes the nonlinearity between layers.

    Raises:
        ValueError: at a call, inputs of another size (says both sizes).

    Example:
        >>> MLP(8, 64, hidden=[128])(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 64])
        >>> loc, scale = MLP(64, (8, 8), hidden=[128])(torch.zeros(5, 64))

    """

    def __init__(
        self,
        in_features: int,
        out_features: int | Sequence[int],
        hidden: Sequence[int] = (),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        layers: list[nn.Module] = []
        size = in_features
        for width in hidden:
            layers += [nn.Linear(size, width), activation()]
            size = width
        self.body = nn.Sequential(*layers)
        self.single = isinstance(out_features, int)
        sizes = (out_features,) if isinstance(out_features, int) else tuple(out_features)
        self.heads = nn.ModuleList(nn.Linear(size, out) for out in sizes)

    def forward(self, *inputs: Tensor) -> Any:
        """[..., in_features] -> [..., out_features], or a tuple of such."""
        joined = inputs[0] if len(inputs) == 1 else join(*inputs)
        if joined.shape[-1] != self.in_features:
            sizes = " + ".join(str(i.shape[-1]) for i in inputs)
            raise ValueError(f"MLP takes {self.in_features} features and got {sizes}.")
        features = self.body(joined)
        outputs = tuple(head(features) for head in self.heads)
        return outputs[0] if self.single else outputs


class PositiveParameter(nn.Module):
    """A learned positive tensor: a likelihood's scale per model (a number) or per feature (a tensor).

    Example:
        >>> PositiveParameter(0.1)()
        tensor(0.1000, grad_fn=<AddBackward0>)

    """

    def __init__(self, initial: float | Tensor) -> None:
        super().__init__()
        value = torch.as_tensor(initial, dtype=torch.get_default_dtype())
        if not bool((value > SMALLEST_SCALE).all()):
            raise ValueError(f"the initial value is {initial}: expected more than {SMALLEST_SCALE:g}.")
        above_floor = (value - SMALLEST_SCALE).double()
        raw = above_floor + torch.log(-torch.expm1(-above_floor)) - _UNIT
        self.raw = nn.Parameter(raw.to(value.dtype))

    def forward(self) -> Tensor:
        """The positive value."""
        return positive(self.raw)


def join(*inputs: Tensor) -> Tensor:
    """Broadcast the leading dimensions of several inputs and join their last ones."""
    leading = torch.broadcast_shapes(*(i.shape[:-1] for i in inputs))
    return torch.cat([i.expand(*leading, i.shape[-1]) for i in inputs], -1)
