"""log p(x) by stages, each row at the first that is good enough for it: guide, proposal of its own, annealing.

Which stage a row's figure comes from is decided by pilot draws that the figure does not use. So no figure is chosen by
its value, and exp of each stays unbiased for p(x), however the stages are chosen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from pyrovae.checks import check_count, is_number
from pyrovae.data import Batch, Rows
from pyrovae.evidence.annealed_rows import CHAINS, annealed
from pyrovae.evidence.importance import PROBE_ROWS, ImportanceSampling, Weigh, draws_of_prior
from pyrovae.evidence.joint import Joint
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.proposal import OF_PRIOR, Mixture, Proposals, fitted
from pyrovae.evidence.psis import unknown_k
from pyrovae.evidence.results import STAGES, Stages
from pyrovae.evidence.row_normals import MOST_NUMBERS
from pyrovae.evidence.weights import (
    WITHOUT_DENSITY,
    Estimates,
    Tally,
    estimates,
    refuse_rows,
)
from pyrovae.pair.row_keys import Draws, RowKeys
from pyrovae.pair.row_noise import DrawnByRow
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

# Draws of a row that decide on its stage, and the Pareto k that they have to be below: it is noisy, and lower than that
# of the final draws may be.
PILOT_DRAWS = 512
PILOT_K = 0.5
# Final draws: this many times what the pilot says are needed, the most of them or a quarter, or of that.
MARGIN = 2.0
COARSER = 4
FEWEST_DRAWS = 200
# What draws are for: of each stage the pilot and the final ones, the search for proposals, annealing.
_GUIDE, _PROPOSAL, _SEARCH, _ANNEALING = (0, 1), (2, 3), 4, 5


@dataclass(frozen=True)
class EscalatingSampling:
    """Log p(x) of each row at the least cost that is good for it, a method of `log_marginal`; "auto" is this.

    1. "guide": importance weights of the guide, a tenth of the draws from the prior (`ImportanceSampling`).
    2. "proposal": a row whose Pareto k or error is not good gets a proposal of its own: normals with every
       covariance, which maximize its ELBO, widened to Student's t, mixed with guide and prior. Where latents have at
       most 10 numbers other modes are looked for, from draws of the prior.
    3. "annealed": a row that is still not good is annealed from that proposal, over as many temperatures as pilot
       chains ask for (annealed importance sampling, Neal 2001), and back again: `upper` beside its figure.

    Pilot draws of each row choose its stage and its number of draws, and are thrown away: Pareto k (below 0.5) and
    the error that they promise. So exp of each figure is unbiased for p(x). A row has up to `num_samples` draws, fewer
    where fewer will do; annealed rows have 32 chains.

    Discrete latents that the guide draws, and latents without a map to real numbers or of more than 128, have the
    first stage alone; `LogMarginal.first_stage_alone` says why. So have rows whose density leaves some of their latents
    out (padding).

    Args:
        target_error: nats that a row's figure may err by; its own error says what was reached.
        of_mean: it is the mean over many rows that may err by so much: rows' errors average out and their biases,
            half their variances, do not, so that a row may err by the root of it.
        most_temperatures: of the third stage.

    Raises:
        ValueError: a target that is not positive, a count below 1. When used: as `ImportanceSampling`.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> x = torch.bernoulli(torch.full((5, 64), 0.5))
        >>> result = pv.log_marginal(vae, x, method=pv.EscalatingSampling(target_error=0.05), seed=0)
        >>> bool((result.std_error < 0.1).all()), result.to_frame().columns.tolist()[5:]
        (True, ['stage', 'num_samples', 'upper'])

    """

    target_error: float = 0.1
    of_mean: bool = False
    most_temperatures: int = 1024

    def __post_init__(self) -> None:
        if not (is_number(self.target_error) and 0 < self.target_error < math.inf):
            raise ValueError(f"target_error is {self.target_error!r}: expected a positive number of nats.")
        check_count("most_temperatures", self.most_temperatures)

    @property
    def error_of_row(self) -> float:
        """What a row may err by, in nats."""
        return self.target_error**0.5 if self.of_mean else self.target_error

    def estimator(
        self, vae: VAE, data: Rows, num_samples: int, limits: Limits, rounding: float
    ) -> ByStages | str:
        """How rows go through the stages; why they have but the first, where it is so.

        Raises:
            ValueError: too few samples, or too little memory.

        """
        if num_samples < FEWEST_DRAWS:
            raise ValueError(
                f"num_samples is {num_samples}: escalating takes at least {FEWEST_DRAWS} draws of a row."
            )
        if not vae.layout.latents:
            return "the latents are all summed out, and each weight is p(x)"
        try:
            joint = Joint.of(vae, data, num_samples, limits, score_guide=_scores_any_draw(vae, data, limits))
        except ValueError as error:
            if "memory_budget" in str(error):
                raise
            return str(error).splitlines()[0]
        if joint.d > MOST_NUMBERS:
            return (
                f"the latents of a row are {joint.d} numbers, and covariances are found up to {MOST_NUMBERS}"
            )
        alone = functools.partial(ImportanceSampling().weigher, vae, data, num_samples, limits)
        return ByStages(self, joint, num_samples, rounding, alone)

    def first_stage(self, vae: VAE, data: Rows, limits: Limits) -> ImportanceSampling:
        """Weights of the guide, with draws of the prior among them where the guide scores these."""
        return ImportanceSampling(OF_PRIOR) if _scores_any_draw(vae, data, limits) else ImportanceSampling()


def _scores_any_draw(vae: VAE, data: Rows, limits: Limits) -> bool:
    """Whether the guide's density at draws of the prior is known."""
    few = data[slice(0, PROBE_ROWS)]
    # How much is scored at once is no matter of the guide.
    limits = replace(limits, batch_size=None, chunk_size=None)
    try:
        weigh = ImportanceSampling(0.5).weigher(vae, few, 4, limits)
        for _ in weigh(few.take(slice(None), vae.device), RowKeys(few, 0).of(slice(None), vae.device)):
            pass
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Part:
    """What some rows of a block have come to, at these places."""

    places: Tensor
    estimates: Estimates
    stages: Stages


DrawsOf: TypeAlias = Callable[[Tensor, int], Iterator[Draws]]


@dataclass(frozen=True)
class ByStages:
    """Estimates of one block of rows after another, each row at its stage."""

    method: EscalatingSampling
    joint: Joint
    num_samples: int
    rounding: float
    guide_alone: Callable[[], Weigh]

    def __call__(self, batch: Batch, keys: RowKeys, first: int) -> tuple[Estimates, Stages]:
        """Of rows that begin at place `first` of the data."""

        def draws(places: Tensor, purpose: int) -> Iterator[Draws]:
            return keys.of(first + places.cpu(), batch.device, purpose)

        left, parts = torch.arange(len(batch), device=batch.device), list[_Part]()
        if self.joint.score_guide:
            parts, left = self._sampled("guide", batch, None, left, draws, _GUIDE)
        if len(left):
            flat = self._flat(batch[left], draws(left, _SEARCH))
            if bool(flat.any()):
                parts.append(self._last(batch, left[flat], draws))
                left = left[~flat]
        if len(left):
            proposals = fitted(self.joint, batch[left], draws(left, _SEARCH))
            some = torch.arange(len(batch), device=batch.device)
            some[left] = torch.arange(len(left), device=batch.device)
            found, rest = self._sampled("proposal", batch, proposals, left, draws, _PROPOSAL)
            parts += found
            if len(rest):
                parts.append(self._annealed(batch, proposals[some[rest]], rest, draws))
        order = torch.cat([part.places for part in parts]).argsort().cpu()
        found_estimates = Estimates.joined(part.estimates for part in parts)[order]
        refuse_rows(~found_estimates.log_marginal.isfinite(), first, WITHOUT_DENSITY)
        return found_estimates, Stages.joined(part.stages for part in parts)[order]

    def _sampled(
        self,
        stage: str,
        batch: Batch,
        proposals: Proposals | None,
        rows: Tensor,
        draws: DrawsOf,
        purposes: tuple[int, int],
    ) -> tuple[list[_Part], Tensor]:
        """Rows whose pilot draws promise a good figure, with that figure, and the others."""
        pilot = self._weighed(batch[rows], proposals, PILOT_DRAWS, draws(rows, purposes[0]))
        good, needed = self._promised(stage, pilot)
        parts, S, waiting = [], self.num_samples, good.clone()
        while bool(waiting.any()):
            fewer = S // COARSER
            here = waiting & (MARGIN * needed > fewer) if fewer >= FEWEST_DRAWS else waiting
            if bool(here.any()):
                some = rows[here]
                mine = None if proposals is None else proposals[here]
                found = self._weighed(batch[some], mine, S, draws(some, purposes[1]))
                parts.append(_Part(some, found, _stages(stage, len(some), S)))
            waiting, S = waiting & ~here, fewer
        return parts, rows[~good]

    def _promised(self, stage: str, pilot: Estimates) -> tuple[Tensor, Tensor]:
        """Of which rows a pilot promises a good figure at a stage, and of how many draws, [B] each."""
        bad = ~(pilot.khat < PILOT_K) & ~unknown_k(pilot.khat, pilot.ess, PILOT_DRAWS)
        needed = pilot.variance * PILOT_DRAWS / self.method.error_of_row**2
        return ~bad & (needed <= self.num_samples) & pilot.log_marginal.isfinite(), needed

    def _flat(self, batch: Batch, draws: Iterator[Draws]) -> Tensor:
        """Rows whose density leaves numbers of the latents out, [B]: padding, say. No normal in these is the best."""
        vae, drawn = self.joint.vae, next(draws)
        with vae.evaluating(), fixed_seed(drawn.seed, vae.device):
            with DrawnByRow(drawn.keys):
                u = self.joint.space.flatten(draws_of_prior(vae, batch, 2)[0])
            return self.joint.flat(batch, u)

    def _last(self, batch: Batch, rows: Tensor, draws: DrawsOf) -> _Part:
        """Rows that no other stage can take, with all the draws that they may have."""
        some, own = batch[rows], draws(rows, _GUIDE[1])
        if self.joint.score_guide:
            found = self._weighed(some, None, self.num_samples, own)
        else:  # which has a density at its own draws
            tally = Tally(self.num_samples, self.num_samples)
            for _, log_weights in self.guide_alone()(some, own):
                tally.add(log_weights)
            found = estimates([tally], self.rounding)
        return _Part(rows, found, _stages("guide", len(rows), self.num_samples))

    def _weighed(
        self, batch: Batch, proposals: Proposals | None, num_samples: int, draws: Iterator[Draws]
    ) -> Estimates:
        mixture = Mixture(self.joint, proposals)
        tallies = [Tally(size, num_samples) for size in mixture.sizes(num_samples)]
        for part, log_weights in mixture.weigh(batch, num_samples, draws):
            tallies[part].add(log_weights)
        # Draws of the prior are there for the tails: their mean log weight says nothing of guide or proposal.
        own = tallies[: mixture.own_parts]
        elbo = torch.stack([tally.sum_of_logs for tally in own]).sum(0) / sum(tally.size for tally in own)
        return replace(estimates(tallies, self.rounding), elbo=elbo)

    def _annealed(self, batch: Batch, proposals: Proposals, rows: Tensor, draws: DrawsOf) -> _Part:
        found = annealed(
            self.joint,
            batch[rows],
            proposals,
            lambda places, T: draws(rows[places], _ANNEALING + T),
            target_error=self.method.error_of_row,
            most_temperatures=self.method.most_temperatures,
            rounding=self.rounding,
        )
        return _Part(rows, found.estimates, _stages("annealed", len(rows), CHAINS, found.upper))


def _stages(stage: str, num_rows: int, num_samples: int, upper: Tensor | None = None) -> Stages:
    return Stages(
        torch.full((num_rows,), STAGES.index(stage)),
        torch.full((num_rows,), num_samples),
        torch.full((num_rows,), math.nan, dtype=torch.float64) if upper is None else upper,
    )
