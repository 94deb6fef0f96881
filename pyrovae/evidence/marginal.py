"""Row-wise estimates of log p(x) and of its lower bound, each with its error.

    ELBO(x)  = E_q[log p(x|z)] - KL(q(z|x) || p(z))                       `elbo`
    log p(x) = log E[w], e.g. w = p(x, z) / q(z|x) with z ~ q(z|x)        `log_marginal`

`pyrovae.evidence.importance` and `pyrovae.evidence.annealing` draw weights w, `pyrovae.evidence.weights` sums them
up. Latents are drawn in blocks whose size depends on the pair alone, each from a seed of its own. So figures do not
depend on how many rows or samples are scored at once, which is a matter of memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import check_count
from pyrovae.data import Batch, Rows
from pyrovae.evidence.importance import ImportanceSampling, Method
from pyrovae.evidence.memory import NUMBERS_AT_ONCE as NUMBERS_AT_ONCE
from pyrovae.evidence.memory import ROWS_AT_ONCE as ROWS_AT_ONCE
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.psis import good_k, unknown_k
from pyrovae.evidence.weights import Tally, estimates, refuse_rows, without_density
from pyrovae.pair.observed import observations_of
from pyrovae.pair.running import row_terms
from pyrovae.pair.support import check_support
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.traced.compilation import Compile
from pyrovae.vae import VAE

GUIDE = ImportanceSampling()
WITHOUT_DENSITY = (
    "the model gives these rows no density at the draws, or its parameters are not finite. Check them with elbo(), "
    "or leave them out."
)


@dataclass(frozen=True)
class RowWise:
    """Results by row: float64 tensors [N] on the CPU, in nats."""

    columns: ClassVar[tuple[str, ...]] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row a data row."""
        return pd.DataFrame({name: getattr(self, name).numpy() for name in self.columns})

    def __len__(self) -> int:
        """N."""
        return len(getattr(self, self.columns[0]))


@dataclass(frozen=True)
class Elbo(RowWise):
    """What `elbo` gives: per row the bound and its two parts, `elbo = reconstruction - rate`.

    `std_error` is the Monte Carlo error of each row's `elbo`, NaN for a single sample.
    """

    elbo: Tensor
    reconstruction: Tensor
    rate: Tensor
    std_error: Tensor
    num_samples: int

    columns: ClassVar[tuple[str, ...]] = ("elbo", "reconstruction", "rate")

    def __str__(self) -> str:
        error = float((self.std_error**2).sum().sqrt() / len(self))
        return (
            f"ELBO {_with_error(float(self.elbo.mean()), error)} nats per row over {len(self)} rows "
            f"(reconstruction {self.reconstruction.mean():.3f}, rate {self.rate.mean():.3f}; "
            f"{self.num_samples} samples)"
        )


# In nats per row: up to here log p(x) less the mean log weight tells of weights that hardly vary.
SMALL_GAP = 0.1


@dataclass(frozen=True)
class LogMarginal(RowWise):
    """What `log_marginal` gives, per row.

    `log_marginal` is the estimate of log p(x), `std_error` its Monte Carlo error (delta method with each weight's
    effect in full, made for intervals of 1.96 errors; NaN for a single sample), `ess` the effective sample size,
    `khat` the Pareto k of the weights (see `pyrovae.evidence.psis`; not below `good_k` distrust the row), `elbo` the
    mean log weight: the ELBO, from the same samples, with what they were drawn from in place of the guide.

    What is said of all rows needs two things more. `variance` is the squared error without what `std_error` is widened
    by for few samples: the errors of a sum add up by it. `bias` says how far log p(x) errs on average, which is low, by
    about half its variance (both by the jackknife). Biases add up over rows while errors average out: with many rows
    the bias is the larger of the two.
    `dimensions` is how many discrete numbers of each row are observed, [N], or says why there is no such count.
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

    columns: ClassVar[tuple[str, ...]] = ("log_marginal", "std_error", "ess", "khat", "elbo")

    @property
    def good_k(self) -> float:
        """The Pareto k below which a row can be relied on: min(1 - 1 / log10 S, 0.7)."""
        return good_k(self.num_samples)

    @property
    def unknown(self) -> Tensor:
        """Which rows' Pareto k is unknown, [N]: there are too few draws, or too few different ones, to fit a tail."""
        return unknown_k(self.khat, self.ess, self.num_samples)

    @property
    def unreliable(self) -> Tensor:
        """Which rows' Pareto k is known and not below `good_k`, [N]."""
        return ~(self.khat < self.good_k) & ~self.unknown

    @property
    def share_good(self) -> float:
        """The share of rows with a Pareto k below `good_k` among those where it is known; NaN where there are none."""
        return float((~self.unreliable)[~self.unknown].double().mean())

    @property
    def reliability(self) -> str:
        """How many rows' Pareto k is good, and for how many it is unknown, in words."""
        unknown = int(self.unknown.sum())
        if unknown == len(self):
            return "Pareto k unknown: too few different draws to fit a tail"
        text = f"Pareto k below {self.good_k:.2f} for {self.share_good:.1%} of rows"
        return text + (f" where it is known, unknown for {unknown}" if unknown else "")

    @property
    def verdict(self) -> Literal["good", "tails", "poor", "unknown"]:
        """What Pareto k says of all rows' weights together.

        "good": no row is `unreliable`. "tails": some are, although weights hardly vary: the median effective sample
        size is above half of the draws, and log p(x) less `elbo` below 0.1 nats on average. Then the tails of the
        weights are heavier than so many draws can tell, and log p(x) of these rows may err low, usually little.
        "poor": some are, and weights vary much. "unknown": no row's k is known.
        """
        if self.unknown.all():
            return "unknown"
        if not self.unreliable.any():
            return "good"
        gap = float((self.log_marginal - self.elbo).mean())
        return "tails" if self.ess.median() > self.num_samples / 2 and gap < SMALL_GAP else "poor"

    @property
    def total(self) -> tuple[float, float]:
        """The sum of log p(x) over the rows and its Monte Carlo error, in nats; `total_bias` comes on top of that."""
        return float(self.log_marginal.sum()), float(self.variance.sum().sqrt())

    @property
    def total_bias(self) -> float:
        """By how much the total errs on average, in nats; not positive."""
        return float(self.bias.sum())

    @property
    def mean_with_error(self) -> str:
        """The mean over rows with its Monte Carlo error, and by how much it errs low."""
        total, error = self.total
        errs = f", errs low by about {abs(self.total_bias) / len(self):.3f}" if self.num_samples > 1 else ""
        return _with_error(total / len(self), error / len(self)) + errs

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
        return (
            f"log p(x) {self.mean_with_error} nats per row over {len(self)} rows "
            f"({self.num_samples} samples; {self.reliability}{undefined})"
        )


def elbo(vae: VAE, x: Any, *context: Any, num_samples: int = 10, seed: int | None = None) -> Elbo:
    """Estimate the evidence lower bound of each row, with its reconstruction and rate.

    Kingma & Welling, "Auto-Encoding Variational Bayes" (2013), https://arxiv.org/abs/1312.6114, eq. 3:
    reconstruction = E_q[log p(x|z)] and rate = KL(q(z|x) || p(z)), the latter in closed form for each latent
    site where torch or Pyro has one, by sampling where not.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError, TypeError: data that do not fit the pair, or lie outside a likelihood's support (with
            the row); `num_samples` below 1.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> pv.elbo(vae, torch.zeros(5, 64)).to_frame().columns.tolist()
        ['elbo', 'reconstruction', 'rate']

    """
    check_count("num_samples", num_samples)
    data = vae.rows(x, *context)
    numbers = max(_row_numbers(data), _latent_numbers(vae))
    samples_at_once = max(1, NUMBERS_AT_ONCE // (ROWS_AT_ONCE * numbers))
    results = []
    seeds = seeds_from(seed)
    for first, batch in row_blocks(vae, data):
        totals = torch.zeros((), dtype=torch.float64)
        for count in _chunks(num_samples, samples_at_once):
            with vae.evaluating(), fixed_seed(next(seeds), vae.device):
                if not totals.dim():
                    check_support(vae.model, batch, first)
                terms = row_terms(vae, batch, count)
                reconstruction, rate = terms.log_likelihood.double().cpu(), terms.rate.double().cpu()
            bound = reconstruction - rate
            totals = totals + torch.stack(
                [bound.sum(0), reconstruction.sum(0), rate.sum(0), (bound**2).sum(0)]
            )
        results.append(totals)
    bound, reconstruction, rate, square = torch.cat(results, 1) / num_samples
    variance = (square - bound**2).clamp(min=0.0)
    std_error = (variance / (num_samples - 1)).sqrt() if num_samples > 1 else torch.full_like(bound, math.nan)
    return Elbo(bound, reconstruction, rate, std_error, num_samples)


def log_marginal(
    vae: VAE,
    x: Any,
    *context: Any,
    num_samples: int = 1000,
    method: Method = GUIDE,
    memory_budget: int = 2**31,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    compile: Compile = "auto",
    seed: int | None = None,
    progress: bool = False,
) -> LogMarginal:
    """Estimate log p(x) of each row from importance weights.

    log p(x) ~ log mean_s w_s with E[w_s] = p(x). From the guide, the default, w_s = p(x, z_s) / q(z_s|x):
    Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders" (2015), https://arxiv.org/abs/1509.00519,
    section 5. Whatever the method, the mean of the weights is unbiased for p(x), so that its logarithm errs low,
    by about half its variance (`LogMarginal.bias`), in proportion to 1 / S. More rows do not help against that.

    Which method? The guide's weights are best where Pareto k is good (below `LogMarginal.good_k`). Where it is
    not, a defensive mixture, a refined guide (`pv.refine(vae, x).vae` in place of `vae`) or annealing help, in this
    order of cost.

    Args:
        vae: the pair. Rows have latents of their own; latents that all rows share are refused, for with
            them log p(x) is no sum over rows.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S, honoured exactly.
        method: where the weights come from: `ImportanceSampling` or `AnnealedImportanceSampling`.
        memory_budget: bytes that may be taken beside data, parameters and results, whatever N and S are.
            Measured on a few rows. Does not change the figures.
        batch_size: at most so many rows are scored at once, of a block of 256; chosen by memory and speed if None.
            Does not change the figures.
        chunk_size: at most so many samples are scored at once, and no more than the budget allows; chosen likewise.
            Does not change the figures.
        compile: as for `fit`: False runs plain Pyro; "auto" traces the programs once, and compiles them, where
            that saves time over the chunks to come; True does both, and warns where that cannot be. Changes
            figures by rounding alone.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar.

    Raises:
        ValueError, TypeError: as `elbo`; a method that does not fit the pair, or a budget that is too small, before
            work starts; rows all of whose weights are zero or not finite (named).

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> result = pv.log_marginal(vae, torch.zeros(5, 64), num_samples=100)
        >>> result.to_frame().columns.tolist()
        ['log_marginal', 'std_error', 'ess', 'khat', 'elbo']
        >>> result.bits_per_dimension.shape
        torch.Size([5])

    """
    check_count("num_samples", num_samples)
    check_count("memory_budget", memory_budget)
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value is not None:
            check_count(name, value)
    if not (compile == "auto" or isinstance(compile, bool)):
        raise ValueError(f"compile is {compile!r}: expected 'auto', True or False.")
    if not (callable(getattr(method, "weigher", None)) and callable(getattr(method, "strata", None))):
        raise TypeError(
            f"method is {method!r}: expected an object such as ImportanceSampling() or "
            "AnnealedImportanceSampling()."
        )
    data = vae.rows(x, *context)
    sizes = method.strata(num_samples)
    with vae.evaluating(), fixed_seed(0, vae.device):
        for first, batch in row_blocks(vae, data):
            check_support(vae.model, batch, first)
    weigh = method.weigher(vae, data, num_samples, Limits(memory_budget, batch_size, chunk_size, compile))
    results = []
    seeds = seeds_from(seed)
    with tqdm(
        total=len(data) * num_samples, desc="log p(x)", unit=" weights", disable=not progress, unit_scale=True
    ) as bar:
        for first, batch in row_blocks(vae, data):
            tallies = [Tally(size, num_samples) for size in sizes]
            for stratum, log_weights in weigh(batch, seeds):
                tallies[stratum].add(log_weights)
                bar.update(log_weights.numel())
            refuse_rows(without_density(tallies), first, WITHOUT_DENSITY)
            results.append(estimates(tallies).cpu())
    estimate, std_error, ess, khat, bound, variance, bias = torch.cat(results, 1)
    dimensions = _discrete_dimensions(vae, data)
    return LogMarginal(estimate, std_error, ess, khat, bound, variance, bias, num_samples, dimensions)


def _discrete_dimensions(vae: VAE, data: Rows) -> Tensor | str:
    """How many discrete numbers of each row are observed, [N], or why there is no such count."""
    counts = []
    for _, batch in row_blocks(vae, data):
        with vae.evaluating(), fixed_seed(0, vae.device):
            observations = observations_of(vae, batch)
        for name, observation in observations.items():
            if not observation.discrete:
                return (
                    f"'{name}' ({observation.site.family}) has a density, whose value depends on the "
                    "unit of the data: only probabilities of discrete data are lengths of a code"
                )
        counts.append(torch.stack([observation.dimensions for observation in observations.values()]).sum(0))
    return torch.cat(counts)


def row_blocks(vae: VAE, data: Rows) -> Iterator[tuple[int, Batch]]:
    """The data in blocks of rows on the VAE's device, each with the place of its first row."""
    for first in range(0, len(data), ROWS_AT_ONCE):
        yield first, data.take(slice(first, first + ROWS_AT_ONCE), vae.device)


def _chunks(total: int, at_once: int) -> Iterator[int]:
    for first in range(0, total, at_once):
        yield min(at_once, total - first)


def _latent_numbers(vae: VAE) -> int:
    return max(1, sum(latent.numel for latent in vae.layout.latents.values()))


def _row_numbers(data: Rows) -> int:
    return max(1, math.prod(data.arguments[0].shape[1:]))


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f} (Monte Carlo)")
