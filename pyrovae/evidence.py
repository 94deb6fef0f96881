"""Row-wise estimates of log p(x) and of its lower bound, each with its error.

    ELBO(x)  = E_q[log p(x|z)] - KL(q(z|x) || p(z))                       `elbo`
    log p(x) = log E_q[p(x, z) / q(z|x)]                                  `log_marginal`

Latents are drawn in blocks whose size depends on the pair alone, each from a seed of its own. So figures do
not depend on how many rows or samples are scored at once, which is a matter of memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import rows
from pyrovae.data import Rows
from pyrovae.layout import Arguments, slice_latents
from pyrovae.psis import GOOD_K, pareto_k
from pyrovae.support import check_support
from pyrovae.vae import VAE, check_count

ROWS_AT_ONCE = 256
# Numbers in the largest tensor of one pass: 2**22 floats are 16 MiB.
NUMBERS_AT_ONCE = 2**22


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
        return (
            f"ELBO {_mean_with_error(self.elbo, self.std_error)} nats per row over {len(self)} rows "
            f"(reconstruction {self.reconstruction.mean():.3f}, rate {self.rate.mean():.3f}; "
            f"{self.num_samples} samples)"
        )


@dataclass(frozen=True)
class LogMarginal(RowWise):
    """What `log_marginal` gives, per row.

    `log_marginal` is the estimate of log p(x), `std_error` its Monte Carlo error (delta method; NaN for a
    single sample), `ess` the effective sample size, `khat` the Pareto k of the weights (see
    `pyrovae.psis`; above 0.7 distrust the row), `elbo` the ELBO from the same samples.
    """

    log_marginal: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    num_samples: int

    columns: ClassVar[tuple[str, ...]] = ("log_marginal", "std_error", "ess", "khat", "elbo")

    @property
    def share_good(self) -> float:
        """The share of rows whose Pareto k is below 0.7."""
        return float((self.khat < GOOD_K).double().mean())

    def __str__(self) -> str:
        return (
            f"log p(x) {_mean_with_error(self.log_marginal, self.std_error)} nats per row over {len(self)} rows "
            f"({self.num_samples} samples; Pareto k below {GOOD_K} for {self.share_good:.1%} of rows)"
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
    for first, arguments in row_blocks(vae, data):
        totals = torch.zeros((), dtype=torch.float64)
        for count in _chunks(num_samples, samples_at_once):
            with vae.evaluating(), rows.fixed_seed(next(seeds), vae.device):
                if not totals.dim():
                    check_support(vae.model, arguments, first)
                terms = rows.row_terms(vae, arguments, count)
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
    batch_size: int | None = None,
    chunk_size: int | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> LogMarginal:
    """Estimate log p(x) of each row by importance sampling from the guide.

    log p(x) ~ log mean_s w_s with w_s = p(x, z_s) / q(z_s|x): Burda, Grosse, Salakhutdinov, "Importance
    Weighted Autoencoders" (2015), https://arxiv.org/abs/1509.00519, section 5. The mean of the weights is
    unbiased for p(x), so its logarithm errs low, by about std_error^2 / 2.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_samples: S, honoured exactly.
        batch_size: rows scored at once; chosen by size if None. Does not change the figures.
        chunk_size: samples scored at once; chosen by size if None. Does not change the figures.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar.

    Raises:
        ValueError, TypeError: as `elbo`; also rows all of whose weights are zero or not finite (named).

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> pv.log_marginal(vae, torch.zeros(5, 64), num_samples=100).to_frame().columns.tolist()
        ['log_marginal', 'std_error', 'ess', 'khat', 'elbo']

    """
    check_count("num_samples", num_samples)
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value is not None:
            check_count(name, value)
    data = vae.rows(x, *context)
    batch_size = batch_size or ROWS_AT_ONCE
    chunk_size = chunk_size or max(1, NUMBERS_AT_ONCE // (min(batch_size, ROWS_AT_ONCE) * _row_numbers(data)))
    results = []
    seeds = seeds_from(seed)
    with tqdm(
        total=len(data) * num_samples, desc="log p(x)", unit=" weights", disable=not progress, unit_scale=True
    ) as bar:
        for first, arguments in row_blocks(vae, data):
            log_weights = torch.empty(num_samples, rows.num_rows(arguments), dtype=torch.float64)
            with vae.evaluating(), rows.fixed_seed(0, vae.device):
                check_support(vae.model, arguments, first)
            done = 0
            for count in _chunks(num_samples, _draws_at_once(vae)):
                block = log_weights[done : done + count]
                with vae.evaluating(), rows.fixed_seed(next(seeds), vae.device):
                    _fill_log_weights(vae, arguments, block, batch_size, chunk_size)
                done += count
                bar.update(block.numel())
            results.append(_estimates(log_weights, first))
    estimate, std_error, ess, khat, bound = torch.cat(results, 1)
    return LogMarginal(estimate, std_error, ess, khat, bound, num_samples)


def _fill_log_weights(
    vae: VAE, arguments: Arguments, log_weights: Tensor, batch_size: int, chunk_size: int
) -> None:
    """Draw one block of latents and score it piece by piece into `log_weights`, [S,B]."""
    S, B = log_weights.shape
    guide_sites = rows.run_guide(vae, arguments, S)
    latents = {name: guide_sites[name].value for name in vae.layout.latents}
    log_weights.zero_()
    for site in guide_sites.values():
        log_weights -= site.log_prob.cpu()
    for b in range(0, B, batch_size):
        some_rows = slice(b, b + batch_size)
        some_arguments = tuple(a[some_rows] if isinstance(a, Tensor) else a for a in arguments)
        for s in range(0, S, chunk_size):
            some_samples = slice(s, s + chunk_size)
            given = slice_latents(latents, vae.layout, some_samples, some_rows)
            count = len(log_weights[some_samples])
            for site in rows.run_model(vae, some_arguments, given, count).values():
                log_weights[some_samples, some_rows] += site.log_prob.cpu()


def _estimates(log_weights: Tensor, first_row: int) -> Tensor:
    """The columns of LogMarginal from log weights [S,B]: [5,B]."""
    S = len(log_weights)
    bad = (log_weights == -math.inf).all(0) | log_weights.isnan().any(0) | (log_weights == math.inf).any(0)
    if bool(bad.any()):
        named = ", ".join(str(first_row + int(row)) for row in bad.nonzero()[:5, 0])
        raise ValueError(
            f"the importance weights of row {named} are all zero or not finite ({int(bad.sum())} such rows among "
            f"rows {first_row} to {first_row + len(bad) - 1}): the model gives these rows no density at the "
            "guide's draws, or its parameters are not finite. Check them with elbo()."
        )
    normalized = log_weights.softmax(0)
    if S > 1:
        std_error = (((normalized - 1 / S) ** 2).sum(0) * S / (S - 1)).sqrt()
    else:
        std_error = torch.full((log_weights.shape[1],), math.nan, dtype=torch.float64)
    return torch.stack(
        [
            log_weights.logsumexp(0) - math.log(S),
            std_error,
            1 / (normalized**2).sum(0),
            pareto_k(log_weights),
            log_weights.mean(0),
        ]
    )


def row_blocks(vae: VAE, data: Rows) -> Iterator[tuple[int, Arguments]]:
    """The data in blocks of rows on the VAE's device, each with the place of its first row."""
    for first in range(0, len(data), ROWS_AT_ONCE):
        yield first, data.take(slice(first, first + ROWS_AT_ONCE), vae.device)


def _chunks(total: int, at_once: int) -> Iterator[int]:
    for first in range(0, total, at_once):
        yield min(at_once, total - first)


def _draws_at_once(vae: VAE) -> int:
    """How many samples of one block of rows the guide draws: a matter of the pair alone."""
    return max(1, NUMBERS_AT_ONCE // (ROWS_AT_ONCE * _latent_numbers(vae)))


def _latent_numbers(vae: VAE) -> int:
    return max(1, sum(latent.numel for latent in vae.layout.latents.values()))


def _row_numbers(data: Rows) -> int:
    return max(1, math.prod(data.arguments[0].shape[1:]))


def seeds_from(seed: int | None) -> Iterator[int]:
    """An endless stream of seeds; the only draw from torch's own random state is the first, without a seed."""
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**62, (), generator=generator))


def _mean_with_error(values: Tensor, std_error: Tensor) -> str:
    error = float((std_error**2).sum().sqrt() / len(values))
    return f"{values.mean():.3f}" + ("" if math.isnan(error) else f" ± {error:.3f} (Monte Carlo)")
