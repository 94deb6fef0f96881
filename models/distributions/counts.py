"""Distributions of counts.

A density of large counts is a small difference of large numbers: at a count of a million float32 leaves errors of 0.1
nats and more. So it is taken in float64 wherever the device has it, and comes back in the parameters' dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import softplus

from pyrovae.models.distributions.expansion import expanded


class Poisson(dist.Poisson):
    """Pyro's Poisson distribution, with a density that is right for large counts too.

    Args:
        rate: the mean, positive, [...].

    Example:
        >>> float(Poisson(torch.tensor(1e6)).log_prob(torch.tensor(1e6)))
        -7.8266...

    """

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        rate, x = _wide(self.rate, value)
        return (x.xlogy(rate) - rate - torch.lgamma(x + 1)).to(self.rate.dtype)


class NegativeBinomial(TorchDistribution):
    """Counts with variance mean + dispersion * mean^2; the Poisson distribution as the dispersion goes to 0.

    torch's, by total count r = 1 / dispersion and logits, loses the density where r is large: it takes differences of
    log-gammas of r.

    Args:
        mean: positive, [...].
        dispersion: positive, [...].

    Example:
        >>> p = NegativeBinomial(torch.tensor(3.0), torch.tensor(0.5))
        >>> float(p.variance)
        7.5

    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "mean": constraints.positive,
        "dispersion": constraints.positive,
    }
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, dispersion: Tensor | float, validate_args: bool | None = None) -> None:
        self._mean, self.dispersion = broadcast_all(mean, dispersion)
        super().__init__(self._mean.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: NegativeBinomial | None = None
    ) -> NegativeBinomial:
        """The same distribution with another batch shape."""
        return expanded(self, NegativeBinomial, batch_shape, _instance, ("_mean", "dispersion"))

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        m, x, dispersion = _wide(self._mean, value, self.dispersion)
        r = 1 / dispersion
        stirling = r > 16
        few, many = torch.where(stirling, 16.0, r), torch.where(stirling, r, 16.0)
        direct = (
            torch.lgamma(few + x)
            - torch.lgamma(few)
            - few * (torch.log(few + m) - torch.log(few))
            + x * (torch.log(m) - torch.log(few + m))
        )
        # Stirling's series for both log-gammas, their large terms cancelled by hand.
        limit = (
            (many + x) * _log_ratio(many + x, many + m, x - m)
            - 0.5 * torch.log1p(x / many)
            + _stirling_tail(many + x)
            - _stirling_tail(many)
            + x * torch.log(m)
            - x
        )
        return (torch.where(stirling, limit, direct) - torch.lgamma(x + 1)).to(self._mean.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A Poisson draw at a gamma-distributed rate."""
        with torch.no_grad():
            r = (1 / self.dispersion).expand(self._extended_shape(torch.Size(sample_shape)))
            return torch.poisson(torch._standard_gamma(r) * self.dispersion * self._mean)

    @property
    def mean(self) -> Tensor:
        """E[x], [...]."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Var[x], [...]."""
        return self._mean + self.dispersion * self._mean**2


def _wide(parameter: Tensor, *others: Tensor) -> list[Tensor]:
    """These in float64, or in the first one's dtype on a device without float64."""
    dtype = parameter.dtype if parameter.device.type == "mps" else torch.float64
    return [tensor.to(dtype) for tensor in (parameter, *others)]


def _log_ratio(a: Tensor, b: Tensor, difference: Tensor) -> Tensor:
    """Log(a / b), given a - b, for positive a and b: exact where they are close, finite where they are not."""
    relative = difference / b
    close = relative.abs() < 0.5
    return torch.where(close, torch.log1p(torch.where(close, relative, 0.0)), torch.log(a) - torch.log(b))


def _stirling_tail(r: Tensor) -> Tensor:
    # What log-gamma has beyond (r - 1/2) log r - r + log(2 pi) / 2, to 1e-9 for r of 16 and more.
    inverse = 1 / r
    return inverse * (1 / 12 - inverse**2 / 360)


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Pyro's zero-inflated distribution with a density that is right for any gate logit.

    Pyro's subtracts the logit and adds it again, and cannot be expanded once it has been sampled.
    """

    def expand(self, batch_shape: Sequence[int], _instance: ZeroInflated | None = None) -> ZeroInflated:
        """The same distribution with another batch shape."""
        return expanded(self, ZeroInflated, batch_shape, _instance, ("base_dist", "gate_logits"))

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats."""
        if self._validate_args:
            self._validate_sample(value)
        log_closed, log_open = -softplus(-self.gate_logits), -softplus(self.gate_logits)
        by_base = log_open + self.base_dist.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(log_closed, by_base), by_base)


class Multinomial(TorchDistribution):
    """Counts of D kinds, of a total that may differ by row (torch's has one total for all rows).

        log p(x) = log n! - sum_d log x_d! + sum_d x_d log softmax(logits)_d,  n = sum_d x_d

    Args:
        logits: [..., D].
        total_count: n, whole numbers, [...].

    Example:
        >>> p = Multinomial(torch.zeros(2, 3), torch.tensor([4.0, 7.0]))
        >>> p.sample().sum(-1)
        tensor([4., 7.])

    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "logits": constraints.real_vector,
        "total_count": constraints.nonnegative_integer,
    }

    def __init__(self, logits: Tensor, total_count: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(logits.shape[:-1], total_count.shape)
        self.total_count = total_count.expand(shape)
        self._given_logits = logits.expand(*shape, logits.shape[-1])
        self.logits = logits.log_softmax(-1).expand(*shape, logits.shape[-1])
        super().__init__(shape, logits.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Counts that sum to the row's total."""
        return _CountsOfTotal(self.total_count)

    def expand(self, batch_shape: Sequence[int], _instance: Multinomial | None = None) -> Multinomial:
        """The same distribution with another batch shape."""
        return expanded(self, Multinomial, batch_shape, _instance, ("_given_logits", "logits", "total_count"))

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, [...]."""
        if self._validate_args:
            self._validate_sample(value)
        logits, x = _wide(self._given_logits, value)
        arrangements = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)
        return (arrangements + (x * logits.log_softmax(-1)).sum(-1)).to(self.logits.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts in the logits' dtype; takes memory for the largest total."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            probs = self.logits.exp().expand(shape).reshape(-1, shape[-1])
            totals = self.total_count.expand(shape[:-1]).reshape(-1, 1)
            counts = torch.zeros_like(probs)
            most = int(totals.max()) if totals.numel() else 0
            if most:
                kinds = torch.multinomial(probs, most, replacement=True)
                counts.scatter_add_(-1, kinds, (torch.arange(most, device=kinds.device) < totals).to(counts))
            return counts.reshape(shape)

    @property
    def mean(self) -> Tensor:
        """E[x], [..., D]."""
        return self.total_count.unsqueeze(-1) * self.logits.exp()

    @property
    def variance(self) -> Tensor:
        """Var[x] of each count, [..., D]."""
        return self.mean * -torch.expm1(self.logits)


class _CountsOfTotal(constraints.Constraint):
    is_discrete = True
    event_dim = 1

    def __init__(self, total_count: Tensor) -> None:
        self.total_count = total_count
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        counts = ((value >= 0) & (value == value.floor())).all(-1)
        return counts & (value.sum(-1) == self.total_count)

    def __repr__(self) -> str:
        return "whole, not negative and to the row's total count summing"
