"""Sequential Monte Carlo: log p(x) of chains too long for importance weights, and draws of their states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyrovae.block_sizes import BYTES_OF_A_BLOCK, ROWS_AT_ONCE, power_of_two, slices
from pyrovae.checks import check_count, is_number
from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import refuse_without_density
from pyrovae.evidence.importance import PROBE_ROWS, measured
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.sequential_results import SequentialLogMarginal
from pyrovae.evidence.weights import WITHOUT_DENSITY, refuse_rows
from pyrovae.pair.chains import state_space
from pyrovae.pair.particle_filter import Filtered, backward_draws, bytes_ahead, particle_filter
from pyrovae.pair.particle_moves import Proposal
from pyrovae.pair.programs import Pair
from pyrovae.pair.row_keys import Draws
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

# Particles of a filter whose chains are traced back, if fewer chains are asked for.
FEWEST_SMOOTHED = 500


@dataclass(frozen=True)
class SequentialMonteCarlo:
    """Sequential Monte Carlo (particle filters) for chains: for `log_marginal` and `forecast`.

    Particles go from step to step: proposed, weighed by p(z_t|z_{t-1}) p(x_t|z_t) over what they were proposed from,
    and resampled where few of them carry the weight. The mean of a run's weights is unbiased for p(x), and the error
    of its logarithm grows with the number of steps, where that of importance sampling grows exponentially: Gordon,
    Salmond, Smith, "Novel approach to nonlinear/non-Gaussian Bayesian state estimation" (1993),
    https://doi.org/10.1049/ip-f-2.1993.0015; Del Moral, "Feynman-Kac Formulae" (2004), theorem 7.4.2.

    It applies where the model's one latent is a chain (`pyrovae.models.sequences.MarkovSequence`) and observations are
    what it emits (`PaddedSequence.emitted`), as in `pyrovae.models.DeepMarkovModel` and
    `pyrovae.models.LinearGaussianChain`. Particles are proposed from the steps of a guide that is a chain too
    (`pyrovae.guides.MarkovPosterior`), from the model's transitions (the bootstrap filter, which needs no guide), or
    from a mixture of both, whose weights no guide with light tails can make large. Steps that a row does not have are
    not gone through, absent ones (NaN) weigh nothing.

    What a filter does not know is the future: particles that the next observations will not keep are carried on, and a
    guide that knows the future proposes ones that look poor so far. With `lookahead`, log p(x_{t+1}, ..., x_T | z_t) is
    fitted first in each run, as a square in z_t, by a pilot of a quarter as many particles and a pass backwards over
    them (Guarniero, Johansen, Lee 2017, https://arxiv.org/abs/1511.06286; Heng, Bishop, Deligiannidis, Doucet 2020,
    https://arxiv.org/abs/1708.08396). Particles are resampled with an eye to it, and normal transitions are tilted by
    it and p(x_t|z_t), but for a tenth of them. In a linear-Gaussian chain the square is exact. Estimates stay unbiased
    whatever is fitted, at about four times the cost, and where a row's states have one mode they are several times as
    accurate. Where they have several, a square cannot tell these apart: each run may keep one and drop the others, log
    p(x) then errs low by the others' share, and its error does not tell. So nobody looks ahead unasked.

    In `log_marginal` S = `num_samples` counts all particles: R runs of S / R each, independent of each other. log p(x)
    is the logarithm of the runs' mean, its error that among them (jackknife and Student's t, as of so few weights),
    `elbo` the mean logarithm of a run, which is the bound of `pyrovae.objectives.FIVO`. The result is a
    `SequentialLogMarginal`, with the effective sample size by step and a verdict.

    In `VAE.sample_posterior` and `encode` draws are of p(z|x): chains traced back through a run of as many particles as
    draws, at least 500, by backward simulation (Godsill, Doucet, West 2004,
    https://doi.org/10.1198/016214504000000151).

    Args:
        transition_share: of the particles, how many are proposed from the model's transitions: 0 the guide alone; 1
            needs no guide: the bootstrap filter, where there is no `lookahead`.
        num_runs: R; `num_samples` is a multiple of it.
        resample_below: a run is resampled (systematically) where its effective sample size is below this share of its
            particles; 1 resamples at each step.
        lookahead: resample and propose by what the observations to come say too; for states of one mode.

    Raises:
        ValueError: a share out of its range, R below 2. When used: a pair of another kind, with what to do;
            `num_samples` that is no multiple of R; a `batch_size`, `chunk_size` or `memory_budget` below what is
            moved at once.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussianChain(2, 3)
        >>> vae, x = pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(4, 30, 3)
        >>> result = pv.log_marginal(vae, x, num_samples=100, method=pv.SequentialMonteCarlo())
        >>> result.verdict, result.step_ess.shape
        ('good', torch.Size([4, 30]))

    """

    transition_share: float = 0.0
    num_runs: int = 5
    resample_below: float = 0.5
    lookahead: bool = False

    def __post_init__(self) -> None:
        for name in ("transition_share", "resample_below"):
            share = getattr(self, name)
            if not (is_number(share) and 0 <= share <= 1):
                raise ValueError(f"{name} is {share!r}: expected a number from 0 to 1.")
        if not isinstance(self.lookahead, bool):
            raise ValueError(f"lookahead is {self.lookahead!r}: expected True or False.")
        check_count("num_runs", self.num_runs)
        if self.num_runs < 2:
            raise ValueError("num_runs is 1: the error is that among runs, so expected at least 2.")

    @property
    def proposal(self) -> Proposal:
        """How particles are moved."""
        return Proposal(float(self.transition_share), float(self.resample_below), lookahead=self.lookahead)

    def strata(self, num_samples: int) -> tuple[int, ...]:
        """All runs are alike; each is one weight."""
        if num_samples % self.num_runs or num_samples < 2 * self.num_runs:
            raise ValueError(
                f"num_samples is {num_samples}: expected a multiple of num_runs, {self.num_runs}, and at least two "
                "particles a run."
            )
        return (self.num_runs,)

    def weigher(self, vae: VAE, data: Rows, num_samples: int, limits: Limits) -> SequentialWeigh:
        """Weights of runs."""
        self.strata(num_samples)
        if self.transition_share < 1:
            refuse_without_density(vae)
        few = data.take(slice(0, PROBE_ROWS), vae.device)
        plain = replace(self, lookahead=False)
        footprint = measured(vae, lambda S: plain.filtered(vae, few, S, 1), few)
        of_row = footprint.of_run(1, num_samples)
        if self.lookahead:
            with vae.evaluating():
                space = state_space(vae, few, with_guide=False)
            of_row += bytes_ahead(space, num_samples // self.num_runs, self.num_runs)
        num_rows = min(power_of_two(BYTES_OF_A_BLOCK // of_row), ROWS_AT_ONCE, len(data))
        if limits.memory < num_rows * of_row:
            raise ValueError(
                f"memory_budget is {limits.memory} bytes: {num_samples} particles of {num_rows} rows, which are moved "
                f"at once and decide the figures, take about {num_rows * of_row}. Allow at least that."
            )
        for name, given, taken in (
            ("batch_size", limits.batch_size, num_rows),
            ("chunk_size", limits.chunk_size, num_samples),
        ):
            if given is not None and given < taken:
                raise ValueError(
                    f"{name} is {given}: {num_samples} particles of {num_rows} rows are moved at once, and the "
                    f"figures depend on it. Leave {name} out here."
                )
        return SequentialWeigh(self, vae, num_samples, num_rows)

    def filtered(
        self, vae: Pair, batch: Batch, num_particles: int, num_runs: int, keep: bool = False
    ) -> Filtered:
        """R runs of n particles on some rows. Run it under the pair's parameters."""
        space = state_space(vae, batch, with_guide=self.transition_share < 1)
        return particle_filter(space, num_particles, num_runs, self.proposal, keep=keep)

    def posterior_draws(
        self, pair: Pair, batch: Batch, num_samples: int, first_row: int = 0
    ) -> dict[str, Tensor]:
        """Draws of whole chains given all observations, by site, [S,B,T,K]; 0 in padding."""
        n = max(num_samples, FEWEST_SMOOTHED)
        few = state_space(pair, batch[:1], with_guide=False)
        ((name, latent),) = pair.layout.latents.items()
        K = latent.event_shape[-1]
        of_row = n * few.num_steps * (K + 1) * 8 + (bytes_ahead(few, n, 1) if self.lookahead else 0)
        rows_at_once = max(1, BYTES_OF_A_BLOCK // of_row)
        parts = []
        for some in slices(len(batch), rows_at_once):
            space = state_space(pair, batch[some], with_guide=self.transition_share < 1)
            filtered = particle_filter(space, n, 1, self.proposal, keep=True)
            refuse_rows(~filtered.log_evidence[0].isfinite(), first_row + some.start, WITHOUT_DENSITY)
            draws = torch.stack(list(backward_draws(space, filtered, num_samples))[::-1], 2)
            real = space.real_steps
            parts.append(draws if real is None else draws.where(real[..., None], 0.0))
        return {name: torch.cat(parts, 1)}


def refuse_other_than_sequential(method: object) -> None:
    """Raise TypeError for another way to draw chains, or a class in place of its instance."""
    if not isinstance(method, SequentialMonteCarlo):
        raise TypeError(
            f"method is {method!r}: expected SequentialMonteCarlo(), whose particles are drawn step by step."
        )


@dataclass(frozen=True)
class SequentialWeigh:
    """Runs a block of rows; effective sample sizes by step are kept, [rows, T] for each block."""

    method: SequentialMonteCarlo
    vae: VAE
    num_samples: int
    num_rows: int
    step_ess: list[Tensor] = field(default_factory=list)

    def __call__(self, batch: Batch, draws: Iterator[Draws]) -> Iterator[tuple[int, Tensor]]:
        """log Z of each run, [R,B]."""
        runs, found = self.method.num_runs, []
        for some in slices(len(batch), self.num_rows):
            with self.vae.evaluating(), fixed_seed(next(draws).seed, self.vae.device):
                filtered = self.method.filtered(self.vae, batch[some], self.num_samples // runs, runs)
            self.step_ess.append(filtered.ess.sum(1).T.cpu())
            found.append(filtered.log_evidence)
        yield 0, torch.cat(found, 1)

    def explained(self, result: LogMarginal) -> SequentialLogMarginal:
        """With what the steps say."""
        return SequentialLogMarginal.of(result, torch.cat(self.step_ess), self.method.num_runs)
