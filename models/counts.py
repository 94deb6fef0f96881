"""Likelihoods of counts, with each row's library size or exposure as context where they are asked for.

A *library size* n is the row's expected total: the means are n times shares that sum to one over the event, as in
single-cell models (Lopez et al. 2018, who call it l). An *exposure* t is how long, or over which area, each count was
taken: the means are t times rates that are free of each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

import pyro.distributions as dist
import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from pyrovae.models import distributions
from pyrovae.models.likelihoods import event_dim
from pyrovae.models.parameters import Spread, check_positive, independent, outputs_of, spread
from pyrovae.nn import positive
from pyrovae.nn.positive import SMALLEST_SCALE

# Means beyond it say nothing about data, and leave room for their products at float32.
LARGEST_MEAN = 1e30


class Poisson(nn.Module):
    """Independent Poisson counts, of mean `pyrovae.nn.positive(raw)`.

    Args:
        network: from the inputs to the raw mean, [..., *event].
        library_size: the last input is each row's library size n, [..., 1] and positive, such as its total
            `x.sum(1, keepdim=True)`, which the network does not get. The mean of count d is then n softmax(raw)_d,
            over the whole event: expected totals are n.
        exposure: the last input is each row's exposure t, [..., 1] and positive, such as years or an area, which the
            network does not get. The mean is then t `positive(raw)`.

    Raises:
        ValueError: both a library size and an exposure.
        ValueError, TypeError: at a call, a library size or exposure that is missing, not [..., 1] or not positive; a
            library size of an event of one count.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> z, network = torch.zeros(3, 2), MLP(2, 64)
        >>> Poisson(network)(z).event_shape
        torch.Size([64])
        >>> Poisson(network, library_size=True)(z, torch.tensor([[10.0], [200.0], [5000.0]])).mean.sum(1).round()
        tensor([  10.,  200., 5000.], grad_fn=<RoundBackward0>)

    """

    def __init__(self, network: nn.Module, *, library_size: bool = False, exposure: bool = False) -> None:
        super().__init__()
        self.network = network
        self.library_size, self.exposure = library_size, exposure
        _refuse_both(self)

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        inputs, size = _split(self, inputs)
        (raw,) = outputs_of(self, self.network(*inputs), ["raw mean"])
        events = event_dim(raw, inputs)
        counts = distributions.Poisson(_mean(self, raw, size, events))  # type: ignore[no-untyped-call]
        return independent(counts, events)


class OverdispersedCounts(nn.Module, ABC):
    """Independent counts around a negative binomial with a mean and a dispersion: `NegativeBinomial` says which.

    The network gives what a subclass asks for `before` the raw mean, the raw mean, and without `dispersion` the raw
    dispersion, [..., *event] each.
    """

    before: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        network: nn.Module,
        dispersion: Spread = None,
        *,
        library_size: bool = False,
        exposure: bool = False,
        typical: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_positive("dispersion", dispersion)
        if typical is not None and not bool((typical > 0).all()):
            raise ValueError(f"typical is {typical.min():g}: expected positive means.")
        self.network = network
        self.dispersion = dispersion
        self.library_size, self.exposure = library_size, exposure
        self.typical: Tensor | None
        self.register_buffer("typical", typical)
        _refuse_both(self)

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        inputs, size = _split(self, inputs)
        names = [*self.before, "raw mean", *["raw dispersion"] * (self.dispersion is None)]
        outputs = outputs_of(self, self.network(*inputs), names)
        count = len(self.before)
        raw, *others = outputs[count:]
        events = event_dim(raw, inputs)
        mean = _mean(self, raw, size, events)
        if self.typical is not None:
            mean = mean * self.typical.to(mean.dtype)
        counts = distributions.NegativeBinomial(mean, spread(self.dispersion, others))
        return independent(self.family(counts, *outputs[:count]), events)

    @abstractmethod
    def family(self, counts: dist.TorchDistribution, *before: Tensor) -> dist.TorchDistribution:
        """The distribution of one count, by the negative binomial and what the network gives before the mean."""


class NegativeBinomial(OverdispersedCounts):
    """Independent negative binomial counts: variance = mean + dispersion * mean^2.

    The mean is `pyrovae.nn.positive(raw)`, or that of the row's library size or exposure, as in `Poisson`.

    Args:
        network: from the inputs to the raw mean, [..., *event], or to (raw mean, raw dispersion).
        dispersion: a positive number, a module that returns one (`pyrovae.nn.PositiveParameter`: per model a
            number, per feature a tensor), or None if the network gives it. Its inverse is what single-cell
            packages call theta.
        library_size, exposure: what the last input is, as in `Poisson`.
        typical: means that go with a raw mean of 0, [*event]: the mean is `typical * positive(raw)`. 1 if None.

    Raises:
        ValueError: a dispersion that is not positive; both a library size and an exposure; typical means that are not
            positive.
        ValueError, TypeError: at a call, as `Poisson`; a network that gives too few or too many tensors.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP, PositiveParameter
        >>> NegativeBinomial(MLP(2, 64), PositiveParameter(torch.ones(64)))(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def family(self, counts: dist.TorchDistribution, *before: Tensor) -> dist.TorchDistribution:
        """The negative binomial itself."""
        return counts


class ZeroInflatedNegativeBinomial(OverdispersedCounts):
    """Negative binomial counts that are also 0 with a probability of their own (dropout).

    p(x) = g [x = 0] + (1 - g) NegativeBinomial(x; mean, dispersion): Lopez, Regier, Cole, Jordan, Yosef, "Deep
    generative modeling for single-cell transcriptomics" (2018), https://doi.org/10.1038/s41592-018-0229-2.

    Args:
        network: from the inputs to (gate logits, raw mean), each [..., *event], or to (gate logits, raw mean,
            raw dispersion); g = sigmoid(gate logits).
        dispersion, typical: as in `NegativeBinomial`.
        library_size, exposure: what the last input is, as in `Poisson`: of the negative binomial's mean, so that
            expected totals are the library size where no count drops out.

    Raises:
        ValueError, TypeError: as `NegativeBinomial`.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> ZeroInflatedNegativeBinomial(MLP(2, (64, 64)), dispersion=0.5)(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    before = ("gate logits",)

    def family(self, counts: dist.TorchDistribution, *before: Tensor) -> dist.TorchDistribution:
        """Zeros beside the negative binomial."""
        return distributions.ZeroInflated(counts, gate_logits=before[0])  # type: ignore[no-untyped-call]


class Multinomial(nn.Module):
    """A bag of words: counts of D kinds given their total, p(x | z, n) with n = sum_d x_d.

    The total is no part of what is modelled: each row's own is given as the last input, so that the density is
    normalized over the counts of that total and rows can be drawn.

    Args:
        network: from the inputs to the logits of the kinds, [..., D].
        total_count: the same total for all rows, which then is no input; None if it is the last input, [..., 1]:
            for counts x, context `x.sum(1, keepdim=True)`. The network does not get it.

    Raises:
        ValueError: `total_count` below 1.
        ValueError, TypeError: at a call, totals that are missing or not [..., 1].

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> x = Multinomial(MLP(2, 64))(torch.zeros(3, 2), torch.tensor([[5.0], [10.0], [20.0]])).sample()
        >>> x.sum(1)
        tensor([ 5., 10., 20.])

    """

    def __init__(self, network: nn.Module, total_count: int | None = None) -> None:
        super().__init__()
        if total_count is not None and total_count < 1:
            raise ValueError(f"total_count is {total_count}: expected at least 1, or None for totals by row.")
        self.network = network
        self.total_count = total_count

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of x given the inputs."""
        if self.total_count is None:
            inputs, totals = _last(self, inputs, "total count")
            (logits,) = outputs_of(self, self.network(*inputs), ["logits"])
            return distributions.Multinomial(logits, totals.squeeze(-1))
        (logits,) = outputs_of(self, self.network(*inputs), ["logits"])
        return distributions.Multinomial(logits, logits.new_tensor(self.total_count))


def _refuse_both(part: Counts) -> None:
    if part.library_size and part.exposure:
        raise ValueError(
            f"library_size and exposure of {type(part).__name__} are both True: expected one of them. A library size "
            "is what a row's counts sum to (means are shares of it), an exposure multiplies each mean by itself."
        )


def _split(part: Counts, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The network's inputs, and the library size or exposure where the part takes one."""
    if not (part.library_size or part.exposure):
        return inputs, None
    what = "library size" if part.library_size else "exposure"
    inputs, size = _last(part, inputs, what)
    if is_validation_enabled() and not bool((size > 0).all()):
        wrong = size[~(size > 0)][0]
        raise ValueError(
            f"{'a' if part.library_size else 'an'} {what} of {type(part).__name__} is {wrong:g}: expected positive "
            f"numbers. Drop rows without counts, or give them the {what} 1."
        )
    return inputs, size


def _last(part: nn.Module, inputs: tuple[Tensor, ...], what: str) -> tuple[tuple[Tensor, ...], Tensor]:
    if len(inputs) < 2:
        raise TypeError(
            f"{type(part).__name__} got one input: expected z, then the rows' {what} as the last one. Pass it as "
            f"context, [B, 1], in (x, {what.replace(' ', '_')})."
        )
    last = inputs[-1]
    if last.dim() < min(inputs[0].dim(), 2) or last.shape[-1] != 1:
        raise ValueError(
            f"the {what} of {type(part).__name__} has shape {list(last.shape)}: expected [..., 1], one number a "
            f"row. Give it as {what.replace(' ', '_')}[:, None], a column of a data frame as frame[[name]]."
        )
    return inputs[:-1], last


def _mean(part: Counts, raw: Tensor, size: Tensor | None, events: int) -> Tensor:
    if size is None:
        mean = positive(raw)
    else:
        size = size.reshape(size.shape[:-1] + (1,) * events)
        mean = size * (_shares(part, raw, events) if part.library_size else positive(raw))
    return torch.clamp(mean, SMALLEST_SCALE, LARGEST_MEAN)


def _shares(part: Counts, raw: Tensor, events: int) -> Tensor:
    """Of each count in the row's total: they sum to one over the event."""
    if math.prod(raw.shape[raw.dim() - events :]) == 1:
        raise ValueError(
            f"{type(part).__name__} has a library size and one count a row: its share of the total is always one. "
            "Say exposure=True where the last input multiplies a rate."
        )
    return raw.flatten(-events).softmax(-1).reshape(raw.shape)


Counts: TypeAlias = Poisson | OverdispersedCounts
