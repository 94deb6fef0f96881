"""Does the guide miss part of the posterior? Asked of rows that the model itself has made.

The draws of a guide cannot tell of a mode that the guide never visits, nor can Pareto k of their weights. Rows
simulated from the model come with an exact draw of their posterior, the latents that made them, and that draw goes
where the posterior does. Its weight, p(x, z) / q(z|x), is large where the guide is too small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae.block_sizes import ROWS_AT_ONCE, slices
from pyrovae.checks import check_count
from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import checked_data
from pyrovae.evidence.importance import PROBE_ROWS, refuse_auxiliary_sites
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.results import SMALL_GAP, RowWise
from pyrovae.evidence.simulated_data import AsX, simulated, simulated_like
from pyrovae.pair.layout import pyro_layout
from pyrovae.pair.running import run_guide, run_model
from pyrovae.pair.sites import Term
from pyrovae.pair.support import zero_outside
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

# Nats of KL(p(z|x) || q(z|x)) that pass for none.
TOLERANCE = 0.01
FALSE_ALARM_RATE = 0.05
# Nats from which on a row tells tests no more: a few rows of hundreds of nats would be most of the error too.
MOST_OF_A_ROW = 5.0
# Of a one-sided 5% test, in standard errors.
ONE_SIDED = 1.645
# Nats of KL(p(z|x) || q(z|x)) above which a guide that Pareto k calls poor is not acquitted.
SMALL_DIVERGENCE = 0.6
# Of a check beside a figure of some data: rows to simulate, and draws for each at least.
ROWS_BESIDE, LEAST_DRAWS = 200, 100


@dataclass(frozen=True, repr=False)
class ReverseCheck(RowWise):
    """What `reverse_check` gives for M simulated rows, float64 tensors [M], in nats.

    `log_weight` is log w = log p(x, z) - log q(z|x) at the latents z that made the row, `log_marginal` and `elbo` are
    log p(x) and the mean log weight from S draws of the guide.

    Example:
        >>> few = torch.tensor([-3.0, -2.0], dtype=torch.float64)
        >>> exact = ReverseCheck(few, few, few, 1000)
        >>> exact.passed, exact.bias_bound
        (True, (0.0, 0.0))

    """

    log_weight: Tensor
    log_marginal: Tensor
    elbo: Tensor
    num_samples: int

    columns: ClassVar[tuple[str, ...]] = ("log_weight", "log_marginal", "elbo", "excess", "divergence")

    @property
    def excess(self) -> Tensor:
        """log w - log p(x), [M]: KL(p(z|x) || q(z|x)) on average, and more where log p(x) errs low."""
        return self.log_weight - self.log_marginal

    @property
    def divergence(self) -> Tensor:
        """excess + exp(-excess) - 1, [M]: of the same mean where log p(x) is right, never negative and less noisy.

        The mean of exp(-excess) = q(z|x) / p(z|x) over the posterior is 1, or less where the guide goes beyond it.
        """
        return self.excess + torch.expm1(-self.excess)

    @property
    def mean_excess(self) -> tuple[float, float]:
        """The mean of `excess` and its standard error over rows."""
        return _mean_with_error(self.excess)

    @property
    def impossible(self) -> bool:
        """Whether `mean_excess`, a divergence, is below zero by more than 4 of its errors: the model is to blame.

        It draws other rows than its densities say, as where a family's `log_prob` is not normalized.
        """
        mean, error = self.mean_excess
        return mean < -4 * error and mean < -TOLERANCE

    @property
    def bias_bound(self) -> tuple[float, float]:
        """By how much log p(x) of S draws errs low on average, at most, and the standard error of this over rows.

        With the latents that made the row as one more draw, the log of the mean weight errs high; from the guide's
        draws alone, low: "Sandwiching the marginal likelihood using bidirectional Monte Carlo" (Grosse, Ghahramani,
        Adams, 2015), https://arxiv.org/abs/1511.02543. Between them lies log((S + e^excess) / (S + 1)). Where the guide
        misses a mode this is far above what it costs, which `share_missed` tells nearer.
        """
        return _mean_with_error(self._bounds())

    def _bounds(self) -> Tensor:
        S = self.num_samples
        return torch.logaddexp(torch.full_like(self.excess, math.log(S)), self.excess) - math.log(S + 1)

    @property
    def share_missed(self) -> float:
        """The share of rows whose own latents weigh more than all S draws of the guide together.

        So much of the posterior lies where S draws hardly ever come; log p(x) lacks about -log(1 - share) by it.
        """
        return float((self.excess > math.log(self.num_samples)).double().mean())

    @property
    def p_value(self) -> float:
        """Of the hypothesis that KL(p(z|x) || q(z|x)) is at most 0.01 nats on average: a t-test, one-sided.

        Rows count 5 nats at most, which makes the mean smaller and its error much smaller.
        """
        from scipy.special import stdtr  # half a second that importing pyrovae need not take

        mean, error = _mean_with_error(self.divergence.clamp(max=MOST_OF_A_ROW))
        if error == 0:
            return float(mean <= TOLERANCE)
        return float(stdtr(len(self) - 1, (TOLERANCE - mean) / error))

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the guide; of exact and nearly exact ones at most 5% fail.

        A guide that fails may be good enough: `poor` says whether log p(x) suffers.
        """
        return self.p_value >= FALSE_ALARM_RATE

    @property
    def poor(self) -> bool:
        """Whether the guide misses so much of the posterior that log p(x) cannot be relied on.

        That is where `bias_bound` is above 0.1 nats by more than its own error, of rows that count 5 nats at most.
        """
        bound, error = _mean_with_error(self._bounds().clamp(max=MOST_OF_A_ROW))
        return not self.passed and bound - ONE_SIDED * error > SMALL_GAP

    @property
    def harmless(self) -> bool:
        """Whether log p(x) of S draws errs by less than 0.1 nats, whatever Pareto k says: `bias_bound` with its error.

        And KL(p(z|x) || q(z|x)) is small, below 0.6 nats.
        """
        bound, error = self.bias_bound
        return bound + ONE_SIDED * error < SMALL_GAP and float(self.divergence.mean()) < SMALL_DIVERGENCE

    def __str__(self) -> str:
        excess, bound = self.mean_excess, self.bias_bound
        said = "nothing against the guide" if self.passed else "the guide is NOT the posterior"
        if not self.passed and self.harmless:
            said += ", near enough to weigh its draws of such rows"
        text = (
            f"Reverse check: {said}. At the latents of {len(self)} simulated rows log w is {excess[0]:.3f} ± "
            f"{excess[1]:.3f} nats above log p(x) (an exact guide: 0; p = {self.p_value:.2g} for a KL "
            f"up to {TOLERANCE:g}); "
            f"log p(x) of {self.num_samples} draws errs low by at most {bound[0]:.3f} ± {bound[1]:.3f} on such rows"
        )
        if self.impossible:
            text += (
                "; below log p(x) no density can be on average: the model's draws and its densities disagree, so that "
                "one of its distributions is none, and log p(x) of it is no log density"
            )
        if self.share_missed:
            text += f"; {self.share_missed:.1%} of the posterior lie where so many draws hardly ever come"
        return text


def reverse_check(
    vae: VAE,
    *context: object,
    num_rows: int = 500,
    num_samples: int = 1000,
    as_x: AsX | None = None,
    seed: int | None = None,
) -> ReverseCheck:
    """Find what a guide misses, modes that it never visits among it, on rows simulated from the model.

    E[log w(z)] over the posterior is log p(x) + KL(p(z|x) || q(z|x)), at one evaluation a row. What it cannot show is
    whether the rows at hand are like the model's own.

    Args:
        vae: a pair that has seen data.
        context: what the pair takes beside `x`, for these rows.
        num_rows: rows to simulate, M, at least 2.
        num_samples: S, the draws of the guide from which log p(x) of a row is estimated.
        as_x: as for `calibrate`: makes `x` from the observations by site, where it is not what the one observed site
            observes.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError: as `calibrate`: rows that cannot be simulated, or do not observe what was (see `as_x`); a guide with
            auxiliary sites, whose density at given latents is unknown; as `log_marginal`.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2)))
        >>> model, guide = pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder)
        >>> vae = pv.VAE(model, guide, example=torch.zeros(5, 6))
        >>> found = pv.reverse_check(vae, num_rows=20, num_samples=50, seed=0)
        >>> len(found), found.excess.shape
        (20, torch.Size([20]))

    """
    check_count("num_rows", num_rows)
    check_count("num_samples", num_samples)
    if num_rows < 2:
        raise ValueError("num_rows is 1: a single row has no standard error.")
    seeds = seeds_from(seed)
    with fixed_seed(next(seeds), vae.device):
        truth, data = simulated(vae, num_rows, context, as_x, "reverse_check")
    return checked_at(vae, truth, data, num_samples, next(seeds))


def reverse_check_beside(
    vae: VAE,
    data: Rows,
    num_samples: int,
    seed: int,
    num_rows: int = ROWS_BESIDE,
    *,
    as_x: AsX | None = None,
    progress: bool = False,
) -> tuple[ReverseCheck | None, str]:
    """The reverse check in the context of these rows, of rows that lack what they lack, or why there is none."""
    if num_rows == 0:
        return None, "it was left out"
    seeds = seeds_from(seed)
    try:
        with fixed_seed(next(seeds), vae.device):
            truth, rows = simulated_like(vae, data, num_rows, as_x)
        S = max(num_samples, LEAST_DRAWS)
        return checked_at(vae, truth, rows, S, next(seeds), progress=progress), ""
    except ValueError as error:
        return None, str(error).splitlines()[0]  # the trace of a program may follow


def checked_at(
    vae: VAE,
    truth: Mapping[str, Tensor],
    data: Rows,
    num_samples: int,
    seed: int,
    *,
    progress: bool = False,
) -> ReverseCheck:
    """The check at exact draws `truth` of these rows' posterior, by site, [M, ...] each."""
    seeds = seeds_from(seed)
    data = checked_data(vae, data)
    refuse_auxiliary_sites(
        vae,
        data.take(slice(0, PROBE_ROWS), vae.device),
        "given latents is unknown. Use calibrate(), which needs none.",
    )
    found = log_marginal(vae, data, num_samples=num_samples, seed=next(seeds), progress=progress)
    log_weights = []
    for some in slices(len(data), ROWS_AT_ONCE):
        given = {
            name: pyro_layout(truth[name][some].unsqueeze(0), site, vae.layout.sample_dim)
            for name, site in vae.layout.latents.items()
        }
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            log_weights.append(_log_weight(vae, data.take(some, vae.device), given).cpu())
    return ReverseCheck(torch.cat(log_weights), found.log_marginal, found.elbo, num_samples)


def _log_weight(vae: VAE, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
    """log p(x, z) - log q(z|x) of given latents, [B]."""
    layout = vae.layout
    joint = _total(zero_outside(run_model(vae, batch, latents, 1), layout, layout.model_broadcasts))
    if not latents:
        return joint
    guide = run_guide(vae, batch, 1, latents=latents)
    return joint - _total(zero_outside(guide, layout, layout.guide_broadcasts))


def _total(sites: Mapping[str, Term]) -> Tensor:
    return torch.stack([site.log_prob.double()[0] for site in sites.values()]).sum(0)


def _mean_with_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))
