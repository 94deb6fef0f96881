"""What evaluations give: figures row by row, tables of them, and a line in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Self

import pandas as pd
import torch
from torch import Tensor

from pyrovae.evidence.psis import chance_of_bad_k, good_k, unknown_k
from pyrovae.evidence.shared_results import SharedRate, SharedSampling
from pyrovae.shown import Part, Shown


@dataclass(frozen=True)
class Figures:
    """Several figures of each of B rows, [B] each, by name."""

    @classmethod
    def joined(cls, blocks: Iterable[Self]) -> Self:
        """The figures of one block of rows and then of others, on the CPU."""
        some = list(blocks)
        return cls(*(torch.cat([getattr(b, field.name) for b in some]).cpu() for field in fields(cls)))

    def __getitem__(self, places: Tensor) -> Self:
        """The figures of rows at these places, in their order."""
        return type(self)(*(getattr(self, field.name)[places] for field in fields(self)))


@dataclass(frozen=True, repr=False)
class RowWise(Shown):
    """Results by row: float64 tensors [N] on the CPU, in nats."""

    columns: ClassVar[tuple[str, ...]] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row a data row."""
        return pd.DataFrame({name: getattr(self, name).numpy() for name in self.columns})

    def sections(self) -> list[list[Part]]:
        """What is said of all rows, and the table."""
        return [[str(self)], [self.to_frame()]]

    def __len__(self) -> int:
        """N."""
        return len(getattr(self, self.columns[0]))


@dataclass(frozen=True, repr=False)
class Elbo(RowWise):
    """What `elbo` gives: per row the bound and its two parts, `elbo = reconstruction - rate`.

    `std_error` is the Monte Carlo error of each row's `elbo`, not below the rounding error of the densities; NaN for a
    single sample. Where rows share latents, all this is given these, and `shared` is what they cost.
    """

    elbo: Tensor
    reconstruction: Tensor
    rate: Tensor
    std_error: Tensor
    num_samples: int
    shared: SharedRate | None = None

    columns: ClassVar[tuple[str, ...]] = ("elbo", "reconstruction", "rate")

    @property
    def total(self) -> tuple[float, float]:
        """The lower bound of the evidence of all rows together and its Monte Carlo error, in nats."""
        if self.shared is not None:
            return self.shared.total, self.shared.total_error
        return float(self.elbo.sum()), float((self.std_error**2).sum().sqrt())

    def __str__(self) -> str:
        error = float((self.std_error**2).sum().sqrt() / len(self))
        text = (
            f"ELBO {with_error(float(self.elbo.mean()), error)} nats per row over {len(self)} rows "
            f"(reconstruction {self.reconstruction.mean():.3f}, rate {self.rate.mean():.3f}; "
            f"{self.num_samples} samples)"
        )
        if self.shared is None:
            return text
        return (
            f"{text.replace(' nats per row', f' nats per row given {self._names}')}. {self._names} cost "
            f"{with_error(self.shared.rate, self.shared.rate_error)} nats once: in all "
            f"{with_error(self.shared.total, self.shared.total_error)} nats"
        )

    @property
    def _names(self) -> str:
        assert self.shared is not None
        return ", ".join(self.shared.names)


STAGES = ("guide", "proposal", "annealed")


@dataclass(frozen=True)
class Stages(Figures):
    """Where figures come from that were escalated (`pyrovae.EscalatingSampling`), by row, [N].

    `stage` is a place in `STAGES`; `num_samples` how many weights the figure is the mean of; `upper` what annealing
    back again gives: at least log p(x) in expectation where chains have reached the posterior, NaN of other stages.
    """

    stage: Tensor
    num_samples: Tensor
    upper: Tensor


# In nats per row: up to here log p(x) less the mean log weight tells of weights that hardly vary.
SMALL_GAP = 0.1
# Nats between the two bounds of an annealed row, up to which nothing speaks against it.
WIDEST_BOUNDS = 1.0
# Rows with a bad Pareto k that a guide may have: k is noisy, and among many rows some are bad by chance.
BAD_ROWS_ALLOWED = 0.25


@dataclass(frozen=True, repr=False)
class LogMarginal(RowWise):
    """What `log_marginal` gives, per row.

    `log_marginal` is the estimate of log p(x), `std_error` its Monte Carlo error (delta method with each weight's
    effect in full, made for intervals of 1.96 errors where weights are drawn well, too small where the guide is
    narrower than the posterior, and not below the rounding error of the densities; NaN for a single sample), `ess` the
    effective sample size,
    `khat` the Pareto k of the weights (see `pyrovae.evidence.psis`; not below `good_k` distrust the row), `elbo` the
    mean log weight: the ELBO, from the same samples, with what they were drawn from in place of the guide.
    None of these can tell of a mode that no draw came near: `pyrovae.reverse_check` can.

    What is said of all rows needs two things more. `variance` is the squared error without what `std_error` is widened
    by for few samples: the errors of a sum add up by it. `bias` says how far log p(x) errs low on average, at least:
    about half its variance (both by the jackknife, and so of the weights that were drawn; the large ones that were not
    can make it many times more; with ten draws of a guide too wide, the truth may be half of it). Biases add up over
    rows while errors average out: with many rows the bias is the larger of the two.
    Where rows share latents theta, `log_marginal` is the predictive density log E_q(theta)[p(x|theta)], each weight an
    estimate of p(x|theta) at a draw of theta: errors are of both levels. `shared` says of how many draws, and holds the
    error of the sum over rows, whose errors go together, for all have the same draws of theta.

    `dimensions` is how many discrete numbers of each row are observed, [N], or says why there is no such count.

    Where rows were escalated, `stages` says from which stage each figure comes, and `to_frame` has its columns too;
    `num_samples` is then the most draws of a row, and `elbo` is of the stage's own draws, without those of guide and
    prior that stand beside a proposal. `first_stage_alone` says why there was but one stage, if so.
    """

    log_marginal: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    variance: Tensor
    bias: Tensor
    num_samples: int
    dimensions: Tensor | str
    shared: SharedSampling | None = None
    stages: Stages | None = None
    first_stage_alone: str = ""

    columns: ClassVar[tuple[str, ...]] = ("log_marginal", "std_error", "ess", "khat", "elbo")

    def to_frame(self) -> pd.DataFrame:
        """One row a data row."""
        frame = super().to_frame()
        if self.stages is not None:
            frame["stage"] = [STAGES[place] for place in self.stages.stage.tolist()]
            frame["num_samples"] = self.stages.num_samples.numpy()
            frame["upper"] = self.stages.upper.numpy()
        return frame

    @property
    def good_k(self) -> float:
        """The Pareto k below which nothing in its weights speaks against a row: min(1 - 1 / log10 S, 0.7)."""
        return good_k(self.num_samples)

    @property
    def annealed(self) -> Tensor:
        """Which rows were escalated to annealing, [N]: two bounds tell of them, where k of so few chains does not."""
        if self.stages is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.stages.stage == STAGES.index("annealed")

    @property
    def unknown(self) -> Tensor:
        """Which rows' Pareto k is unknown, [N]: there are too few draws, or too few different ones, to fit a tail."""
        return self._by_count(lambda some, S: unknown_k(self.khat[some], self.ess[some], S)) & ~self.annealed

    @property
    def unreliable(self) -> Tensor:
        """Which rows' Pareto k is known and not below `good_k`, [N]; of annealed rows, whose bounds are a nat apart."""
        bad = self._by_count(lambda some, S: ~(self.khat[some] < good_k(S))) & ~self.unknown
        if self.stages is None:
            return bad
        return torch.where(self.annealed, ~(self.stages.upper - self.log_marginal < WIDEST_BOUNDS), bad)

    @property
    def _chance_of_bad(self) -> Tensor:
        """How probably a row's k is bad, [N]; whether the bounds of annealed rows are far apart."""
        chance = self._by_count(lambda some, S: chance_of_bad_k(self.khat[some].double(), S))
        return torch.where(self.annealed, self.unreliable.double(), chance)

    def _by_count(self, of: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Of all rows, [N], what is found of places of those with the same number of weights."""
        if self.stages is None:
            return of(torch.arange(len(self)), self.num_samples)
        parts = [
            (some, of(some, S))
            for S in self.stages.num_samples.unique().tolist()
            for some in [(self.stages.num_samples == S).nonzero()[:, 0]]
        ]
        order = torch.cat([places for places, _ in parts]).argsort()
        return torch.cat([found for _, found in parts])[order]

    @property
    def share_good(self) -> float:
        """The share of rows with a Pareto k below `good_k` among those where it is known; NaN where there are none."""
        return float((~self.unreliable)[~self.unknown].double().mean())

    @property
    def share_bad(self) -> tuple[float, float]:
        """The share of rows with a bad k and its standard error over rows, each row by how probably its k is bad.

        Of the rows where k is known. The chance of a draw decides on which side of `good_k` a row falls; counted so
        (`pyrovae.evidence.psis.chance_of_bad_k`) few rows tell nearly what many do.
        """
        bad = self._chance_of_bad[~self.unknown]
        error = float(bad.std()) / math.sqrt(len(bad)) if len(bad) > 1 else math.nan
        return float(bad.mean()), error

    @property
    def near_limit(self) -> bool:
        """Whether other rows or draws could well turn the verdict: `share_bad` is within two errors of a quarter."""
        if self.unknown.all():
            return False
        share, error = self.share_bad
        return abs(share - BAD_ROWS_ALLOWED) < 2 * error

    @property
    def reliability(self) -> str:
        """How many rows' Pareto k is good, and for how many it is unknown, in words."""
        unknown = int(self.unknown.sum())
        if unknown == len(self):
            return "Pareto k unknown: too few different draws to fit a tail"
        text = f"Pareto k below {self.good_k:.2f} for {self.share_good:.1%} of rows"
        if self.stages is not None:
            text = f"Pareto k good, or bounds less than a nat apart, for {self.share_good:.1%} of rows"
        return text + (f" where it is known, unknown for {unknown}" if unknown else "")

    @property
    def origins(self) -> str:
        """Which stages the figures come from, in words; empty where rows were not escalated."""
        if self.stages is None:
            return f"; the guide's stage alone: {self.first_stage_alone}" if self.first_stage_alone else ""
        shares = [(self.stages.stage == place).double().mean() for place in range(len(STAGES))]
        text = ", ".join(f"{name} {share:.1%}" for name, share in zip(STAGES, shares, strict=True))
        if not self.annealed.any():
            return f"; {text}"
        gap = (self.stages.upper - self.log_marginal)[self.annealed]
        return f"; {text} with bounds {gap.mean():.3f} apart"

    @property
    def verdict(self) -> Literal["good", "tails", "poor", "unknown"]:
        """What Pareto k says of all rows' weights together, by the share of rows with a bad k (`share_bad`).

        "good": at most a quarter of those whose k is known. "tails": more, although weights hardly vary: the median
        effective sample size is above half of the draws, and log p(x) less `elbo` below 0.1 nats on average. Then the
        tails of the weights are heavier than so many draws can tell, and log p(x) may err low.
        "poor": more, and weights vary much. Then the other rows are no better: one guide made them all, and a k below
        the limit may be chance. "unknown": no row's k is known.

        It tells of the draws alone. A guide that misses a mode may be "good": ask `pyrovae.reverse_check`.
        """
        if self.unknown.all():
            return "unknown"
        if self.share_bad[0] <= BAD_ROWS_ALLOWED:
            return "good"
        gap = float((self.log_marginal - self.elbo).mean())
        counts = self.num_samples if self.stages is None else self.stages.num_samples
        return "tails" if (self.ess / counts).median() > 0.5 and gap < SMALL_GAP else "poor"

    @property
    def total(self) -> tuple[float, float]:
        """The sum of log p(x) over the rows and its Monte Carlo error, in nats; `total_bias` comes on top of that."""
        if self.shared is not None:
            return float(self.log_marginal.sum()), self.shared.total_error
        return float(self.log_marginal.sum()), float(self.variance.sum().sqrt())

    @property
    def total_bias(self) -> float:
        """By how much the total errs on average, in nats, at least; not positive."""
        return float(self.bias.sum())

    @property
    def mean_with_error(self) -> str:
        """The mean over rows with its Monte Carlo error, and by how much it errs low at least."""
        total, error = self.total
        errs = (
            f", errs low by at least {abs(self.total_bias) / len(self):.3f}" if self.num_samples > 1 else ""
        )
        return with_error(total / len(self), error / len(self)) + errs

    @property
    def bits_per_dimension(self) -> Tensor:
        """-log2 p(x) divided by the number of observed dimensions of each row, [N]; its error is std_error likewise.

        What a mask leaves out or lies beyond a row's length is not observed, and a one-hot vector is one dimension.
        NaN for a row of which nothing is observed.

        Raises:
            ValueError: the likelihood is a density.

        """
        if isinstance(self.dimensions, str):
            raise ValueError(f"no bits per dimension: {self.dimensions}. Use log_marginal, in nats.")
        return -self.log_marginal / (self.dimensions * math.log(2))

    def __str__(self) -> str:
        undefined = "; a single sample has no error" if self.num_samples == 1 else ""
        others = "; so many are bad that the others are no better" if self.verdict == "poor" else ""
        most = "up to " if self.stages is not None else ""
        others += "; near the limit, where other rows could turn the verdict" if self.near_limit else ""
        if self.shared is not None:
            return (
                f"predictive density log E_q({self.shared})[p(x|{self.shared})] {self.mean_with_error} nats per row "
                f"over {len(self)} rows (nested: {self.shared.num_draws} draws of {self.shared}, "
                f"{self.shared.row_samples} of each row at each; {self.reliability}{others}{undefined}{self.origins})"
            )
        return (
            f"log p(x) {self.mean_with_error} nats per row over {len(self)} rows "
            f"({most}{self.num_samples} samples; {self.reliability}{others}{undefined}{self.origins}). "
            "No k can tell of a mode that the draws miss; reverse_check() can. Of light tails tail_check() tells."
        )


def with_error(value: float, error: float) -> str:
    """A figure in words."""
    return f"{value:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f} (Monte Carlo)")
