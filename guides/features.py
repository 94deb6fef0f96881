"""Rows of data as vectors, for encoders that nobody wrote: standardized, flattened, absent entries as zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.nn.standardize import centre_and_scale

# Standard deviations, beyond which a number counts by its logarithm.
_FAR = 10.0


def _within_reach(values: Tensor) -> Tensor:
    """The same up to `_FAR`, and beyond growing as a logarithm does.

    A number that hardly varies in the first rows may lie a hundred of its standard deviations out in a later one, where
    no network has learnt what to say.
    """
    size = values.abs()
    return torch.where(size > _FAR, values.sign() * _FAR * (1 + (size.clamp(min=_FAR) / _FAR).log()), values)


class WithPresence(nn.Module):
    """Images that lack pixels (NaN): zero there, and channels that are 1 where a pixel is, [B, 2 C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """For images [B, C, H, W]."""
        present = ~x.isnan()
        return torch.cat([torch.where(present, x, 0.0), present.to(x)], 1)


class RowFeatures(nn.Module):
    """(x, *context) to one vector a row, [B, F], standardized by the rows it was made from.

    What lies more than 10 of those rows' standard deviations out counts by its logarithm from there on.

    Tensors are flattened and joined; other arguments are left out. Entries that are NaN are absent: zero once
    standardized. Where some of the rows it was made from lack entries, F has a number more for each number of those
    tensors, 1 where it is there. A boolean context of the shape of `x` is taken as its mask: entries where it is
    False are zero, whatever they hold.

    Example:
        >>> x, label = 3 + 2 * torch.randn(100, 8, 8), torch.arange(100) % 10
        >>> RowFeatures([x, label])(x[:5], label[:5]).shape
        torch.Size([5, 65])

    """

    def __init__(self, arguments: Sequence[object]) -> None:
        super().__init__()
        parts = self._flat(arguments)
        self._shows_presence = [bool(part.isnan().any()) for part in parts]
        raw = torch.cat(parts, 1)
        centre, scale = centre_and_scale(raw, [0])
        self.size = raw.shape[1] + sum(
            part.shape[1] for part, shown in zip(parts, self._shows_presence, strict=True) if shown
        )
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", centre[0])
        self.register_buffer("scale", scale[0])

    def forward(self, *arguments: object) -> Tensor:
        """[B, F] for rows (x, *context)."""
        parts = self._flat(arguments)
        values = _within_reach(((torch.cat(parts, 1) - self.centre) * self.scale).nan_to_num(0.0))
        present = [
            (~part.isnan()).to(values)
            for part, shown in zip(parts, self._shows_presence, strict=True)
            if shown
        ]
        return torch.cat([values, *present], 1)

    @staticmethod
    def _flat(arguments: Sequence[object]) -> list[Tensor]:
        x, *context = (a for a in arguments if isinstance(a, Tensor) and a.dim() > 0)
        masks = [c for c in context if c.dtype == torch.bool and c.shape == x.shape]
        for mask in masks:
            x = x.where(mask, torch.zeros_like(x))
        dtype = torch.get_default_dtype()
        return [a.reshape(len(a), -1).to(dtype) for a in (x, *context)]
