"""What `log_marginal(..., given=...)` gives: differences of two estimates by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pyrovae.evidence.results import LogMarginal, RowWise, with_error


@dataclass(frozen=True, repr=False)
class LogConditional(RowWise):
    """What `log_marginal(..., given=...)` gives, per row: log p(the other sites | given) = log p(all) - log p(given).

    `log_marginal` is the difference, `std_error` its Monte Carlo error: that of a paired difference, for both terms
    share their noise (runs of `SequentialMonteCarlo` until they are resampled). `joint` and `given` are the terms, with
    their own errors, effective sample sizes and Pareto k; `ess` and `khat` are the worse of theirs. `variance` is the
    squared error without what `std_error` is widened by for few samples.

    Each term errs on its own, so that the probabilities of a row's labels need not sum to one, and one alone may come
    out above one: `above_one`, [N], are the rows where the others are discrete and the figure is above 0 by more than
    rounding. `impute(...).probabilities` weighs all labels by the same draws, and they sum to one.
    """

    log_marginal: Tensor
    std_error: Tensor
    variance: Tensor
    joint: LogMarginal
    given: LogMarginal
    above_one: Tensor

    columns: ClassVar[tuple[str, ...]] = ("log_marginal", "std_error", "ess", "khat")

    @classmethod
    def of(
        cls, joint: LogMarginal, given: LogMarginal, correlation: Tensor, rounding: float, discrete: bool
    ) -> LogConditional:
        """The difference of two estimates by row that are so correlated; whether it is of a probability."""
        covariance = correlation * (joint.variance * given.variance).sqrt()
        variance = (joint.variance + given.variance - 2 * covariance).clamp(min=0.0)
        rounded = rounding * torch.hypot(joint.log_marginal, given.log_marginal)
        widening = torch.maximum(_widening(joint), _widening(given))
        difference = joint.log_marginal - given.log_marginal
        return cls(
            difference,
            torch.maximum(variance.sqrt() * widening, rounded),
            torch.maximum(variance, rounded**2),
            joint,
            given,
            (difference > rounded) & discrete,
        )

    @property
    def ess(self) -> Tensor:
        """The smaller of the two effective sample sizes, [N]."""
        return torch.minimum(self.joint.ess, self.given.ess)

    @property
    def khat(self) -> Tensor:
        """The larger of the two Pareto k, [N]."""
        return torch.maximum(self.joint.khat, self.given.khat)

    @property
    def verdict(self) -> Literal["good", "tails", "poor", "unknown"]:
        """The worse of the two verdicts: see `LogMarginal.verdict`."""
        verdicts = {self.joint.verdict, self.given.verdict}
        return next(v for v in ("poor", "tails", "unknown", "good") if v in verdicts)

    @property
    def total(self) -> tuple[float, float]:
        """The sum over the rows and its Monte Carlo error, in nats."""
        return float(self.log_marginal.sum()), float(self.variance.sum().sqrt())

    def __str__(self) -> str:
        total, error = self.total
        others = "; so many are bad that the others are no better" if self.verdict == "poor" else ""
        above = int(self.above_one.sum())
        return (
            f"log p(others | given) {with_error(total / len(self), error / len(self))} nats per row over {len(self)} "
            f"rows ({self.joint.num_samples} samples; of all: {self.joint.reliability}; of what is given: "
            f"{self.given.reliability}{others})"
            + (
                f". {above} of {len(self)} rows are above 0, which no log probability is: for labels take impute(), "
                "whose probabilities sum to one"
                if above
                else ""
            )
        )


def _widening(result: LogMarginal) -> Tensor:
    """By what errors are widened for few samples, where they are not those of rounding."""
    return torch.where(result.variance > 0, result.std_error / result.variance.sqrt(), 1.0)
