"""Distributions on the circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import StudentT, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.models.distributions.expansion import expanded

# Turns that are summed on either side: what lies beyond, of four degrees of freedom and up to the largest scale, is
# less than 1e-4 of the density. Of a scale of half a turn the density is all but uniform.
TURNS, LARGEST_SCALE = 10, math.pi


class WrappedStudentT(TorchDistribution):
    """Student's t around the circle: an angle whose gradients pass its ends, with tails heavier than a von Mises'.

        p(a) = sum_k t_df((a - m + 2 pi k) / s) / s,    -pi <= a <= pi

    `torch.distributions.VonMises` draws by rejection, without gradients. Opposite m its density falls as exp(-2 / s^2),
    this one as s^df: a posterior that is a von Mises has bounded importance weights under it. Mardia & Jupp,
    "Directional Statistics" (2000), section 3.5.7, on wrapping.

    Args:
        loc: m, [...], any angle.
        scale: s, [...], positive; taken as pi where it is above.
        df: degrees of freedom, at least 4.

    Example:
        >>> a = WrappedStudentT(torch.tensor(3.1), torch.tensor(0.2)).rsample((1000,))
        >>> bool((a > 2).any()), bool((a < -2).any())
        (True, True)

    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.interval(-math.pi, math.pi)
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, df: float = 4.0, validate_args: bool | None = None
    ) -> None:
        if df < 4:
            raise ValueError(f"df is {df}: expected at least 4, or the turns that are summed are too few.")
        self.loc, scale = torch.broadcast_tensors(loc, scale)
        self.scale, self.df = scale.clamp(max=LARGEST_SCALE), df
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: WrappedStudentT | None = None) -> WrappedStudentT:
        """The same distribution with another batch shape."""
        new = expanded(self, WrappedStudentT, batch_shape, _instance, ("loc", "scale"))
        new.df = self.df
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, of any angle: the density has a period of one turn."""
        if self._validate_args:
            self._validate_sample(value)
        turns = 2 * math.pi * torch.arange(-TURNS, TURNS + 1, dtype=value.dtype, device=value.device)
        away = _within_a_turn(value - self.loc)
        unwrapped = StudentT(self.df, 0.0, self.scale.unsqueeze(-1), validate_args=False)
        return unwrapped.log_prob(away.unsqueeze(-1) + turns).logsumexp(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of Student's t, wrapped, differentiable in both parameters."""
        around = StudentT(self.df, self.loc, self.scale, validate_args=False)
        return _within_a_turn(around.rsample(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """The mean direction, [...]."""
        return _within_a_turn(self.loc)


def _within_a_turn(angle: Tensor) -> Tensor:
    """The same angle from -pi to pi."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
