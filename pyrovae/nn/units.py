"""The units of data: networks compute with numbers of the order of one, densities are those of the data as given."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Units(nn.Module):
    """A centre and a size for each column: a location u and a scale s of a network's become c + d u and d s.

        p(x) = N(x; c + d u, (d s)^2 + r^2 / 12)

    So a density is one of x itself, in its own units, and none of the standardized (x - c) / d, from which it would
    differ by log d. Numbers that are rounded to multiples of r have an error of variance r^2 / 12 (Sheppard, 1898),
    below which no scale falls: a density of rounded numbers that grows beyond 1 / r says nothing.

    Centres and sizes are buffers of 64 bits, so that dates and large numbers with small differences keep them.

    Args:
        centre: c, [D].
        size: d, positive, [D].
        rounding: r, [D]; 0 if None.

    Raises:
        ValueError: sizes that are not positive, a negative rounding, or numbers that are not finite.

    Example:
        >>> from pyrovae.models import Normal
        >>> from pyrovae.nn import MLP
        >>> units = Units(torch.tensor([20.0, 1e6]), torch.tensor([5.0, 1e5]))
        >>> Normal(MLP(2, (2, 2)), units=units)(torch.zeros(7, 2)).event_shape
        torch.Size([2])

    """

    centre: Tensor
    size: Tensor
    smallest: Tensor

    def __init__(self, centre: Tensor, size: Tensor, rounding: Tensor | None = None) -> None:
        super().__init__()
        rounding = torch.zeros_like(size) if rounding is None else rounding
        every = torch.stack([centre.double(), size.double(), rounding.double()])
        if not bool(every.isfinite().all()) or not bool((size > 0).all()) or not bool((rounding >= 0).all()):
            raise ValueError(
                f"centre is {centre.tolist()}, size {size.tolist()} and rounding {rounding.tolist()}: expected finite "
                "numbers, positive sizes, and no negative rounding."
            )
        self.register_buffer("centre", every[0])
        self.register_buffer("size", every[1])
        self.register_buffer("smallest", every[2] / math.sqrt(12))

    def location(self, location: Tensor) -> Tensor:
        """In the data's units, [..., D]."""
        return self.centre + self.size * location

    def scale(self, scale: Tensor | float) -> Tensor:
        """In the data's units, [..., D]."""
        return torch.hypot(self.size * scale, self.smallest)
