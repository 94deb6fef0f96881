"""What sequential Monte Carlo says of rows: figures of its runs, and the effective sample size by step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
from torch import Tensor

from pyrovae.evidence.results import BAD_ROWS_ALLOWED, LogMarginal

# In nats: up to here a run's log p(x) is nearly normal, its bias half its variance, and runs tell their error.
LARGEST_ERROR_OF_RUN = 1.0


@dataclass(frozen=True, repr=False, kw_only=True)
class SequentialLogMarginal(LogMarginal):
    """What `log_marginal` gives by `SequentialMonteCarlo`, per row.

    The figures of `LogMarginal`, of R = `num_runs` weights of mean p(x), one a run: `std_error` is that among them,
    `elbo` the mean logarithm of a run's estimate, a lower bound with as many particles as a run has. So few weights
    have no Pareto k (NaN). In its place is the effective sample size of the particles by step, all runs together,
    `step_ess` [N,T], NaN in padding, by the weights by which they would be resampled, the lookahead's among them; `ess`
    is its smallest over a row's steps. A small one
    at a step tells of an observation that the proposal did not foresee, and where it stays small the proposal is poor.
    """

    step_ess: Tensor
    num_runs: int

    @classmethod
    def of(cls, result: LogMarginal, step_ess: Tensor, num_runs: int) -> Self:
        """Figures of runs, with what their steps say."""
        ess = step_ess.nan_to_num(torch.inf).amin(1)
        khat = torch.full_like(result.khat, torch.nan)
        own = {field.name: getattr(result, field.name) for field in fields(LogMarginal)}
        return cls(**{**own, "ess": ess, "khat": khat}, step_ess=step_ess, num_runs=num_runs)

    @property
    def error_of_run(self) -> Tensor:
        """Standard error of log p(x) by a single run, [N], in nats."""
        return (self.variance * self.num_runs).sqrt()

    @property
    def verdict(self) -> Literal["good", "tails", "poor", "unknown"]:
        """What the runs say of each other.

        "good": a single run errs by less than a nat on all but a quarter of the rows, so that its mean is all but
        unbiased and the error among runs holds. "poor": it errs by more, and log p(x) errs low by more than is stated:
        take more particles, or a better proposal. "unknown": an error is not finite. It tells of what particles came
        across: none can tell of a mode that no proposal goes to, or that a
        lookahead drops.
        """
        if not bool(self.error_of_run.isfinite().all()):
            return "unknown"
        bad = (self.error_of_run > LARGEST_ERROR_OF_RUN).double().mean()
        return "good" if float(bad) <= BAD_ROWS_ALLOWED else "poor"

    @property
    def reliability(self) -> str:
        """How far runs differ, and the effective sample size at the worst step, in words."""
        good = float((self.error_of_run <= LARGEST_ERROR_OF_RUN).double().mean())
        return (
            f"{self.num_runs} runs, each within {LARGEST_ERROR_OF_RUN:g} nat for {good:.1%} of rows; median effective "
            f"sample size at a row's worst step {float(self.ess.median()):.0f}"
        )

    def __str__(self) -> str:
        poor = "; so many are bad that the others are no better" if self.verdict == "poor" else ""
        return (
            f"log p(x) {self.mean_with_error} nats per row over {len(self)} rows "
            f"({self.num_samples} particles in {self.reliability}{poor})."
        )
