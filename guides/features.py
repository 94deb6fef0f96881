"""Rows of data as vectors, for encoders that nobody wrote: standardized, flattened, missing entries as zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.nn.standardize import centre_and_scale


class RowFeatures(nn.Module):
    """(x, *context) to one vector a row, [B, F], standardized by the rows it was made from.

    Tensors are flattened and joined; other arguments are left out. A boolean context of the shape of `x` is
    taken as its mask: entries where it is False are zero, whatever they hold.

    Example:
        >>> x, label = 3 + 2 * torch.randn(100, 8, 8), torch.arange(100) % 10
        >>> RowFeatures([x, label])(x[:5], label[:5]).shape
        torch.Size([5, 65])

    """

    def __init__(self, arguments: Sequence[object]) -> None:
        super().__init__()
        raw = self._flat(arguments)
        centre, scale = centre_and_scale(raw, [0])
        self.size = raw.shape[1]
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", centre[0])
        self.register_buffer("scale", scale[0])

    def forward(self, *arguments: object) -> Tensor:
        """[B, F] for rows (x, *context)."""
        return (self._flat(arguments) - self.centre) * self.scale

    @staticmethod
    def _flat(arguments: Sequence[object]) -> Tensor:
        x, *context = (a for a in arguments if isinstance(a, Tensor) and a.dim() > 0)
        masks = [c for c in context if c.dtype == torch.bool and c.shape == x.shape]
        for mask in masks:
            x = x.where(mask, torch.zeros_like(x))
        dtype = torch.get_default_dtype()
        return torch.cat([a.reshape(len(a), -1).to(dtype) for a in (x, *context)], 1)
