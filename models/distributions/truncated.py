"""The normal distribution within two ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.special import log_ndtr, ndtri

from pyrovae.models.distributions.expansion import expanded

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
# Below it torch's inverse of the normal distribution function gives infinity.
_LEAST_LOG_PROBABILITY = -600.0


class TruncatedNormal(TorchDistribution):
    """A normal of location m and scale s given that it lies between `low` and `high`, its ends among it.

        log p(x) = log N(x; m, s) - log(Phi(b) - Phi(a)),   a = (low - m) / s,  b = (high - m) / s

    Right in the tails: by logarithms of Phi, on the side where Phi is small. Computed in 64 bits where the device has
    them.

    Args:
        loc: m, [...].
        scale: s, positive, [...].
        low, high: [...] or numbers.

    Example:
        >>> uniform = TruncatedNormal(torch.tensor(0.0), torch.tensor(1e4), 2.0, 4.0)
        >>> round(float(uniform.log_prob(torch.tensor(4.0)).exp()), 4), float(uniform.mean)
        (0.5, 3.0...)

    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        low: Tensor | float,
        high: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Between the ends."""
        return constraints.interval(self.low, self.high)

    def expand(self, batch_shape: Sequence[int], _instance: TruncatedNormal | None = None) -> TruncatedNormal:
        """The same distribution with another batch shape."""
        return expanded(self, TruncatedNormal, batch_shape, _instance, ("loc", "scale", "low", "high"))

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = self._wide(self.loc), self._wide(self.scale)
        standard = (self._wide(value) - loc) / scale
        _, _, log_mass = self._ends()
        return (-0.5 * standard**2 - _LOG_ROOT_2PI - scale.log() - log_mass).to(self.loc.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """By the inverse distribution function."""
        with torch.no_grad():
            a, b, _ = self._ends()
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=a.dtype, device=a.device)
            log_p = torch.logaddexp(torch.log1p(-u) + log_ndtr(a), torch.log(u) + log_ndtr(b))
            standard = torch.maximum(torch.minimum(_inverse(log_p), b), a)
            standard = torch.where(self._mirrored, -standard, standard)
            drawn = (self._wide(self.loc) + self._wide(self.scale) * standard).to(self.loc.dtype)
            return torch.maximum(torch.minimum(drawn, self.high), self.low)

    @property
    def mean(self) -> Tensor:
        """E[x], [...]."""
        a, b, log_mass = self._ends()
        lower, upper = (torch.exp(-0.5 * end**2 - _LOG_ROOT_2PI - log_mass) for end in (a, b))
        shift = torch.where(self._mirrored, upper - lower, lower - upper)
        mean = (self._wide(self.loc) + self._wide(self.scale) * shift).to(self.loc.dtype)
        return torch.maximum(torch.minimum(mean, self.high), self.low)

    @property
    def _mirrored(self) -> Tensor:
        """Where the location lies below the middle, so that the ends are those of -x."""
        return self.loc < (self.low + self.high) / 2

    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Both ends in scales from the location, with signs such that a + b <= 0, and log(Phi(b) - Phi(a))."""
        loc, scale, low, high = (self._wide(t) for t in (self.loc, self.scale, self.low, self.high))
        below, above = (low - loc) / scale, (high - loc) / scale
        a = torch.where(self._mirrored, -above, below)
        b = torch.where(self._mirrored, -below, above)
        log_upper = log_ndtr(b)
        return a, b, log_upper + torch.log(-torch.expm1(log_ndtr(a) - log_upper))

    def _wide(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.device.type == "mps" else tensor.double()


def _inverse(log_p: Tensor) -> Tensor:
    """The x of which log Phi(x) is given, at most log Phi(0) or not much more; by Newton's method far out."""
    near = ndtri(log_p.clamp(min=_LEAST_LOG_PROBABILITY).exp())
    if not bool((log_p < _LEAST_LOG_PROBABILITY).any()):
        return near
    # log Phi(x) = -x^2 / 2 - log(-x) - log(2 pi) / 2 far out, with the slope -x
    far = -torch.sqrt(-2 * log_p.clamp(max=_LEAST_LOG_PROBABILITY))
    for _ in range(4):
        far = far + (log_ndtr(far) - log_p.clamp(max=_LEAST_LOG_PROBABILITY)) / far
    return torch.where(log_p < _LEAST_LOG_PROBABILITY, far, near)
