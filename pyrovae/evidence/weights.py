"""Log weights of many samples summed up as they come, so that none of them need be kept.

A sum of S weights, of their squares and of their logarithms, and the largest few of them are all that an
estimate of log p(x), its error, effective sample size and Pareto k need. So memory does not grow with S, but
with its square root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.evidence.psis import k_of_largest, largest_of, tail_length
from pyrovae.evidence.results import Figures
from pyrovae.pair.terms import RowTerms

WITHOUT_DENSITY = (
    "the model gives these rows no density at the draws, or its parameters are not finite. Check them with elbo(), "
    "or leave them out."
)

# So many of the largest weights are kept at least: below it nothing is left out of the error.
KEPT = 100


class Tally:
    """The log weights of one stratum of draws, n of the S for each of B rows; float64 on their device.

    Args:
        size: n.
        num_samples: S.

    """

    def __init__(self, size: int, num_samples: int) -> None:
        self.size = size
        self.kept = max(tail_length(num_samples) + 1, KEPT)
        self.log_sum = self.log_sum_of_squares = self.sum_of_logs = torch.empty(0)
        self.largest = self.smallest = torch.empty(0)
        self.taken = 0

    def add(self, log_weights: Tensor) -> None:
        """Take some more, [s,B]."""
        log_weights = log_weights.double()
        log_sum, log_sum_of_squares = log_weights.logsumexp(0), (2 * log_weights).logsumexp(0)
        sum_of_logs, smallest, largest = log_weights.sum(0), log_weights.amin(0), log_weights
        if self.taken:
            log_sum = torch.logaddexp(log_sum, self.log_sum)
            log_sum_of_squares = torch.logaddexp(log_sum_of_squares, self.log_sum_of_squares)
            sum_of_logs = sum_of_logs + self.sum_of_logs
            smallest = torch.minimum(smallest, self.smallest)
            largest = torch.cat([self.largest, log_weights])
        self.log_sum, self.log_sum_of_squares = log_sum, log_sum_of_squares
        self.sum_of_logs, self.smallest = sum_of_logs, smallest
        self.largest = largest_of(largest, self.kept)
        self.taken += len(log_weights)


class PairedTally:
    """Log weights of one stratum of draws in pairs, which share their noise: those of x and those of a part of it.

    Args:
        size: n.
        num_samples: S.

    """

    def __init__(self, size: int, num_samples: int) -> None:
        self.whole, self.part = Tally(size, num_samples), Tally(size, num_samples)
        self.log_sum_of_products = torch.empty(0)

    def add(self, whole: Tensor, part: Tensor) -> None:
        """Take some more, [s,B] each."""
        log_sum = (whole.double() + part.double()).logsumexp(0)
        if self.whole.taken:
            log_sum = torch.logaddexp(log_sum, self.log_sum_of_products)
        self.log_sum_of_products = log_sum
        self.whole.add(whole)
        self.part.add(part)


def correlation(pairs: Sequence[PairedTally]) -> Tensor:
    """Of the two estimates of log mean w, [B], by the delta method."""
    wholes, parts = [pair.whole for pair in pairs], [pair.part for pair in pairs]
    log_sums = [torch.stack([tally.log_sum for tally in kind]).logsumexp(0) for kind in (wholes, parts)]

    def summed(
        products: Sequence[Tensor], some: Sequence[Tally], i: int, others: Sequence[Tally], j: int
    ) -> Tensor:
        total = torch.zeros_like(log_sums[i])
        for log_sum, one, other in zip(products, some, others, strict=True):
            shares = (one.log_sum - log_sums[i] + other.log_sum - log_sums[j]).exp()
            total = total + (log_sum - log_sums[i] - log_sums[j]).exp() - shares / one.size
        return total

    covariance = summed([pair.log_sum_of_products for pair in pairs], wholes, 0, parts, 1)
    variances = [
        summed([tally.log_sum_of_squares for tally in kind], kind, i, kind, i).clamp(min=0.0)
        for i, kind in enumerate((wholes, parts))
    ]
    product = (variances[0] * variances[1]).sqrt()
    return torch.where(product > 0, covariance / product, 0.0).clamp(-1.0, 1.0)


def without_density(tallies: Sequence[Tally]) -> Tensor:
    """Rows whose weights are all zero, or of which one is not finite: a mask [B]."""
    log_sum = torch.stack([tally.log_sum for tally in tallies]).logsumexp(0)
    return ~log_sum.isfinite()


def refuse_rows(bad: Tensor, first_row: int, advice: str) -> None:
    """Raise for a block of rows some of which, a mask [B], have no weights that anything can be made of."""
    if bool(bad.any()):
        named = ", ".join(str(first_row + int(row)) for row in bad.nonzero()[:5, 0])
        raise ValueError(
            f"the importance weights of row {named} are all zero or not finite ({int(bad.sum())} such rows among "
            f"rows {first_row} to {first_row + len(bad) - 1}): {advice}"
        )


@dataclass(frozen=True)
class Estimates(Figures):
    """What the weights of each row say, [B]: see `pyrovae.evidence.results.LogMarginal`, whose fields these are."""

    log_marginal: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    variance: Tensor
    bias: Tensor


def rounding_of(terms: RowTerms) -> float:
    """The relative rounding error of a pair's densities: that of the coarsest dtype among its sites'."""
    sites = (*terms.model_sites.values(), *terms.guide_sites.values())
    return max(torch.finfo(site.log_prob.dtype).eps for site in sites)


def estimates(tallies: Sequence[Tally], rounding: float = 0.0) -> Estimates:
    """Log of the mean weight, its standard error, effective sample size, Pareto k, mean log weight.

    Then, for sums over rows, the estimate's variance and its bias (see `_jackknife`). No error is below `rounding`
    (see `rounding_of`) of the estimate.
    """
    S = sum(tally.size for tally in tallies)
    log_sum = torch.stack([tally.log_sum for tally in tallies]).logsumexp(0)
    log_sum_of_squares = torch.stack([tally.log_sum_of_squares for tally in tallies]).logsumexp(0)
    largest = torch.cat([tally.largest for tally in tallies])
    largest = largest_of(largest, tail_length(S) + 1)
    smallest = torch.stack([tally.smallest for tally in tallies]).amin(0)
    variance, bias, widening = _jackknife(tallies, log_sum)
    log_marginal = log_sum - math.log(S)
    rounded = rounding * log_marginal.abs()
    return Estimates(
        log_marginal=log_marginal,
        std_error=torch.maximum(variance.sqrt() * widening, rounded),
        ess=(2 * log_sum - log_sum_of_squares).exp().clamp(max=S),
        khat=k_of_largest(largest, smallest, S),
        elbo=torch.stack([tally.sum_of_logs for tally in tallies]).sum(0) / S,
        variance=torch.maximum(variance, rounded**2),
        bias=bias,
    )


def _jackknife(tallies: Sequence[Tally], log_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The variance of log sum w and its bias, and by what the root of the former is to be widened for an interval.

    Without weight i the estimate changes by log(1 + d_i), d_i = n / (n - 1) (M / n - w_i), with w_i in units of the
    sum of all weights and M the share of its stratum. The delta method takes d_i for it, and so never finds an error
    above 1, even where one weight is all there is. The bias, (n - 1) times the mean change, is never positive: about
    half the variance where both are small. With few draws the error is itself uncertain: Student's t says by how much,
    so that 1.96 errors are a 95% interval (over strata with Welch's degrees of freedom). A sum over many rows is
    certain again, and takes the variance as it is.
    """
    if any(tally.size == 1 for tally in tallies):
        unknown = torch.full_like(log_sum, math.nan)
        return unknown, unknown, unknown
    variances, bias = [], torch.zeros_like(log_sum)
    for tally in tallies:
        n, factor = tally.size, tally.size / (tally.size - 1)
        share = (tally.log_sum - log_sum).exp()
        # Where nothing is left without a weight, the change counts as that to the rounding error of a float64.
        d = (factor * (share / n - (tally.largest - log_sum).exp())).clamp(min=-1 + 2**-53)
        change = d.log1p()
        rest = torch.zeros_like(log_sum)  # the sum of d^2 over the weights not kept, whose d is small
        if n > len(d):
            squares = (tally.log_sum_of_squares - 2 * log_sum).exp()
            rest = (factor**2 * (squares - share**2 / n) - (d**2).sum(0)).clamp(min=0.0)
        total = (change - d).sum(0) - rest / 2
        variances.append(((change**2).sum(0) + rest - total**2 / n).clamp(min=0.0) / factor)
        bias = bias + total / factor
    variance = torch.stack(variances)
    sizes = torch.tensor([[tally.size] for tally in tallies], device=variance.device)
    parts = variance / variance.sum(0)
    degrees = (1 / (parts**2 / (sizes - 1)).sum(0)).where(variance.sum(0) > 0, sizes.sum())
    return variance.sum(0), bias.clamp(max=0.0), widening(degrees)


def widening(degrees: Tensor) -> Tensor:
    """The quotient of Student's and the normal 97.5% quantile."""
    from scipy.special import ndtri, stdtrit  # half a second that importing pyrovae need not take

    return torch.as_tensor(stdtrit(degrees.cpu().numpy(), 0.975) / ndtri(0.975), device=degrees.device)
