"""Scales and concentrations: finite and positive whatever the network gives."""

from __future__ import annotations

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


class PositiveParameter(nn.Module):
    """A learned positive tensor: a likelihood's scale per model (a number) or per feature (a tensor).

    It is a softplus of what is learned, so that steps do not grow with the value: one far above 1 moves slowly. Start
    it near the size that you expect.

    Args:
        initial: the value at first, positive.

    Raises:
        ValueError: an initial value that is not positive.

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
