"""Likelihoods p(x|z): conditional distributions of the latents (and of context).

Each holds a network from [..., K] to the parameters of one row's event, [..., *event]. `Normal` serves as a
conditional prior and as an amortized posterior too. Counts live in `pyrovae.models.counts`, 8-bit data in
`pyrovae.models.discretized`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.models import distributions
from pyrovae.models.parameters import Spread, check_positive, independent, outputs_of, spread
from pyrovae.nn import Units

# Of a log-normal distribution, whose mean grows with the exponential of both.
LARGEST_LOGARITHM, LARGEST_SPREAD = 40.0, 8.0


class Bernoulli(nn.Module):
    """Independent binary entries: the network gives their logits, [..., *event].

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> Bernoulli(MLP(2, 64))(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        (logits,) = outputs_of(self, self.network(*inputs), ["logits"])
        return dist.Bernoulli(logits=logits).to_event(event_dim(logits, inputs))


class ContinuousBernoulli(nn.Module):
    """Independent entries in [0, 1], such as grey values: the network gives their logits, [..., *event].

    p(x) = C(l) exp(l x) for the logit l. Unlike a Bernoulli of grey values it is a density: Loaiza-Ganem &
    Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders" (2019),
    https://arxiv.org/abs/1907.06845.

    Args:
        network: from the inputs to the logits.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> ContinuousBernoulli(MLP(2, 64))(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        (logits,) = outputs_of(self, self.network(*inputs), ["logits"])
        return independent(distributions.ContinuousBernoulli(logits), event_dim(logits, inputs))


class Categorical(nn.Module):
    """Independent entries that are one of k options each, coded 0, ..., k - 1.

    Args:
        network: from the inputs to the options' logits, [..., *event, k].
        num_options: k, where the network gives all logits in one dimension, [..., D * k], the k of one
            feature side by side, as an `MLP` does; the event is then [D].

    Raises:
        ValueError: `num_options` below 2; at a call, a number of logits that is no multiple of it.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> Categorical(MLP(2, 6 * 4), num_options=4)(torch.zeros(5, 2)).event_shape
        torch.Size([6])

    """

    def __init__(self, network: nn.Module, num_options: int | None = None) -> None:
        super().__init__()
        if num_options is not None and num_options < 2:
            raise ValueError(f"num_options is {num_options}: expected at least 2.")
        self.network = network
        self.num_options = num_options

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        (logits,) = outputs_of(self, self.network(*inputs), ["logits"])
        if self.num_options is not None:
            if logits.shape[-1] % self.num_options:
                raise ValueError(
                    f"the network of Categorical gave {logits.shape[-1]} logits: expected a multiple of "
                    f"num_options = {self.num_options}. Give it D * {self.num_options} outputs for D features."
                )
            logits = logits.unflatten(-1, (-1, self.num_options))
        return dist.Categorical(logits=logits).to_event(event_dim(logits, inputs) - 1)


class LocationScale(nn.Module, ABC):
    """Independent entries of a family with a location and a scale.

    The network gives the location alone, [..., *event], beside a `scale` that is fixed (a number) or learned
    (`pyrovae.nn.PositiveParameter`: per model a number, per feature a tensor); or, without `scale`, the pair
    (location, raw scale), the scale being `pyrovae.nn.positive(raw)`: finite and positive for any finite
    output. With `units` both are in units of the data, as `pyrovae.nn.Units` says.
    """

    def __init__(self, network: nn.Module, scale: Spread = None, *, units: Units | None = None) -> None:
        super().__init__()
        check_positive("scale", scale)
        self.network = network
        self.scale = scale
        self.units = units

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        names = ["location", *["raw scale"] * (self.scale is None)]
        location, *raw = outputs_of(self, self.network(*inputs), names)
        scale = spread(self.scale, raw)
        if self.units is not None:
            location, scale = self.units.location(location), self.units.scale(scale)
        return self.family(location, scale).to_event(event_dim(location, inputs))

    @abstractmethod
    def family(self, location: Tensor, scale: Tensor | float) -> dist.TorchDistribution:
        """The distribution of one entry."""


class Normal(LocationScale):
    """Independent normal entries.

    The network gives the location alone, [..., *event], beside a `scale` that is fixed (a number) or learned
    (`pyrovae.nn.PositiveParameter`); or, without `scale`, the pair (location, raw scale), the scale being
    `pyrovae.nn.positive(raw)`: finite and positive for any finite output.

    Args:
        network: from the inputs to the location, or to (location, raw scale).
        scale: standard deviation: a positive number, a module that returns one, or None.
        units: of the data, if location and scale are not to be in them; see `pyrovae.nn.Units`.

    Raises:
        ValueError: a scale that is not positive.
        TypeError: at a call, a network that gives one tensor where two are needed or the reverse.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP, PositiveParameter
        >>> x = torch.zeros(5, 2)
        >>> fixed = Normal(MLP(2, 64), scale=0.1)(x)
        >>> learned = Normal(MLP(2, 64), scale=PositiveParameter(torch.full((64,), 0.1)))(x)
        >>> by_network = Normal(MLP(2, (64, 64)))(x)

    """

    def family(self, location: Tensor, scale: Tensor | float) -> dist.TorchDistribution:
        """The normal distribution of one entry."""
        return dist.Normal(location, scale)


class LogNormal(LocationScale):
    """Independent positive entries whose logarithms are normal.

        log p(x) = log N(log x; location, scale) - log x

    The mean exp(location + scale^2 / 2) is finite for any output: locations are kept within 40, scales below 8.

    Args:
        network: from the inputs to the location of log x, or to (location, raw scale).
        scale: standard deviation of log x: a positive number, a module that returns one, or None, as in `Normal`.
        units: of log x, see `pyrovae.nn.Units`.

    Raises:
        ValueError, TypeError: as `Normal`.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> LogNormal(MLP(2, (64, 64)))(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def family(self, location: Tensor, scale: Tensor | float) -> dist.TorchDistribution:
        """The log-normal distribution of one entry."""
        return dist.LogNormal(
            location.clamp(-LARGEST_LOGARITHM, LARGEST_LOGARITHM),
            torch.as_tensor(scale).clamp(max=LARGEST_SPREAD),
        )


class Laplace(LocationScale):
    """Independent Laplace entries, p(x) = exp(-|x - location| / scale) / (2 scale): absolute errors.

    Args:
        network: from the inputs to the location, or to (location, raw scale).
        scale: mean absolute deviation: a positive number, a module that returns one, or None, as in `Normal`.
        units: of the data, see `pyrovae.nn.Units`.

    Raises:
        ValueError, TypeError: as `Normal`.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> Laplace(MLP(2, 64), scale=0.1)(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def family(self, location: Tensor, scale: Tensor | float) -> dist.TorchDistribution:
        """The Laplace distribution of one entry."""
        return dist.Laplace(location, scale)


class StudentT(LocationScale):
    """Independent Student-t entries: like `Normal` with tails that let outliers be.

    Args:
        network: from the inputs to the location, or to (location, raw scale).
        scale: a positive number, a module that returns one, or None, as in `Normal`. The standard deviation
            is scale * sqrt(df / (df - 2)).
        df: degrees of freedom: a positive number, or a module that returns one. There is no mean at 1 and
            below, no variance at 2 and below.
        units: of the data, see `pyrovae.nn.Units`.

    Raises:
        ValueError, TypeError: as `Normal`; `df` that is not positive.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP, PositiveParameter
        >>> StudentT(MLP(2, (64, 64)), df=PositiveParameter(4.0))(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def __init__(
        self,
        network: nn.Module,
        scale: Spread = None,
        df: float | nn.Module = 4.0,
        *,
        units: Units | None = None,
    ) -> None:
        super().__init__(network, scale, units=units)
        check_positive("df", df)
        self.df = df

    def family(self, location: Tensor, scale: Tensor | float) -> dist.TorchDistribution:
        """The Student-t distribution of one entry."""
        return dist.StudentT(spread(self.df), location, scale)


def event_dim(parameter: Tensor, inputs: tuple[Tensor, ...]) -> int:
    """How many dimensions of a parameter are one row's event, the inputs being [..., features].

    At least one: a network that sums up images or sequences gives fewer dimensions than it takes, and what
    it gives is a vector.
    """
    return max(1, parameter.dim() - max(i.dim() for i in inputs) + 1)
