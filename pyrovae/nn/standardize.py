"""Numbers brought to mean 0 and standard deviation 1, by what the first data say, in front of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pyrovae.nn.mlp import Outputs, join_features

# Numbers that vary less are taken for constants, and left at their scale.
_SMALLEST_SPREAD = 1e-6


def centre_and_scale(rows: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mean over some dimensions, kept as 1, and one over the standard deviation; constants keep their scale.

    NaN is absent and does not count.
    """
    over = tuple(dims)
    spread, centre = torch.std_mean(rows, over, correction=0, keepdim=True)
    if bool(centre.isnan().any()):
        centre = rows.nanmean(over, keepdim=True).nan_to_num()
        spread = (rows - centre).square().nanmean(over, keepdim=True).sqrt().nan_to_num()
    return centre, 1 / torch.where(spread > _SMALLEST_SPREAD, spread, 1.0)


class Standardize(nn.Module):
    """A network that sees standardized inputs, (x - mean) / standard deviation, each number by its own.

    Mean and standard deviation are those of the first data that its VAE sees, at most 1000 rows, and then stay: they
    are buffers, saved with the weights. Outside a VAE, `learn` sets them. Derived guides standardize by themselves.

    Entries that are NaN, which rows do not have, do not count and stay NaN, for a `MissingAsZero` inside.

    Several inputs are joined along their last dimension, whole numbers and booleans as floats, and the network gets the
    one tensor.

    Args:
        size: of the input's last dimension, all inputs together; or the shape of a row, such as (1, 28, 28), of one
            input. Sizes of 1 there share one mean: (3, 1, 1) is one for each channel.
        network: what gets the standardized input; None hands it on.

    Raises:
        ValueError: at a call, inputs of another size; no mean and scale yet.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.nn import MLP
        >>> encoder = DiagonalNormal(Standardize(64, MLP(64, (8, 8), hidden=[128])))
        >>> layer = Standardize(3).learn(5 + 2 * torch.randn(1000, 3))
        >>> layer(torch.full((4, 3), 5.0)).abs().max() < 0.2
        tensor(True)

    """

    def __init__(self, size: int | Sequence[int], network: nn.Module | None = None) -> None:
        super().__init__()
        self.shape = torch.Size((size,) if isinstance(size, int) else size)
        self.network = nn.Identity() if network is None else network
        self.learning = False
        self._known = False
        self.centre: Tensor
        self.scale: Tensor
        # Not numbers until they are learnt, in files too.
        self.register_buffer("centre", torch.full(self.shape, torch.nan))
        self.register_buffer("scale", torch.full(self.shape, torch.nan))

    @property
    def known(self) -> bool:
        """Whether it has a mean and a scale, learnt or loaded."""
        # Asked of the tensor once: a traced program must not look at values.
        self._known = self._known or not bool(self.scale.isnan().any())
        return self._known

    def learn(self, *inputs: Tensor) -> Standardize:
        """Take mean and scale from inputs [..., *shape], over all their leading dimensions; returns self."""
        with torch.no_grad():
            joined = self._joined(inputs)
            event = len(self.shape)
            shared = [dim - event for dim, size in enumerate(self.shape) if size == 1]
            leading = range(-joined.dim(), -event)
            centre, scale = centre_and_scale(joined, [*leading, *shared])
            self.centre.copy_(centre.reshape(self.shape))
            self.scale.copy_(scale.reshape(self.shape))
        return self

    def forget(self) -> None:
        """As if it had seen no data."""
        self.centre.fill_(torch.nan)
        self.scale.fill_(torch.nan)
        self._known = False

    def forward(self, *inputs: Tensor) -> Outputs:
        """What the network gives of inputs [..., *shape]."""
        if self.learning:
            self.learn(*inputs)
        elif not self.known:
            raise ValueError(
                "Standardize has no mean and scale yet: a VAE takes them from the first data that it sees, "
                "VAE(model, guide, example=x); elsewhere give it some rows, layer.learn(x)."
            )
        outputs: Outputs = self.network((self._joined(inputs) - self.centre) * self.scale)
        return outputs

    def extra_repr(self) -> str:
        """The shape of what is standardized."""
        return str(tuple(self.shape))

    def _joined(self, inputs: tuple[Tensor, ...]) -> Tensor:
        numbers = tuple(i.to(self.centre.dtype) for i in inputs)
        if len(self.shape) == 1:
            return join_features("Standardize", self.shape[0], numbers)
        shapes = [list(i.shape) for i in inputs]
        row = inputs[0].shape[-len(self.shape) :] if len(inputs) == 1 else ()
        if len(row) != len(self.shape) or any(s not in (1, r) for s, r in zip(self.shape, row, strict=True)):
            raise ValueError(f"Standardize takes one input [..., *{tuple(self.shape)}] and got {shapes}.")
        return numbers[0]


@contextmanager
def learning_first_data(*modules: nn.Module, keep: bool) -> Iterator[list[Standardize]]:
    """Inside, layers without mean and scale take them from what they are given, the last that they are given.

    Yields these layers. Without `keep`, or where that fails, they know nothing again
    afterwards.
    """
    every = [m for module in modules for m in module.modules() if isinstance(m, Standardize)]
    layers = [layer for layer in every if not layer.known]
    try:
        for layer in layers:
            layer.learning = True
        yield layers
    except BaseException:
        keep = False
        raise
    finally:
        for layer in layers:
            layer.learning = False
            if not keep:
                layer.forget()
