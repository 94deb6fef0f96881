"""The judgement of `refine`: what a search has gained, on draws that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.block_sizes import counts, draws_at_once
from pyrovae.data import Batch
from pyrovae.evidence.moved_guide import MovedGuide
from pyrovae.evidence.results import Figures
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import row_terms
from pyrovae.random_state import fixed_seed

# A row takes its new posterior where the gain is beyond this many of its standard errors.
ERRORS_TO_BELIEVE = 2.0


@dataclass(frozen=True)
class Gains(Figures):
    """What refining brought each row, [B]: see `pyrovae.evidence.refinement.Refinement`, whose fields these are."""

    elbo_before: Tensor
    std_error_before: Tensor
    elbo_after: Tensor
    std_error_after: Tensor
    gain: Tensor
    std_error_gain: Tensor
    kept: Tensor


def keep_the_better(pair: Pair, guide: MovedGuide, batch: Batch, num_samples: int, seed: int) -> Gains:
    """Judge start and result on the same new draws, and take the start back where it is not worse."""
    start = Pair(pair.model, guide.at_start(), pair.layout)
    latents = sum(move.centre[..., :1, :].numel() for move in guide.of_sites())
    at_once = draws_at_once(max(latents, batch.x[:1].numel()), len(batch))
    before, after = (_bounds(which, batch, counts(num_samples, at_once), seed) for which in (start, pair))
    (lower, lower_error), (upper, upper_error), (gain, error) = map(
        _mean_with_error, (before, after, after - before)
    )
    rescued = ~lower.isfinite() & upper.isfinite()
    gain, error = gain.masked_fill(rescued, torch.inf), error.masked_fill(rescued, torch.nan)
    kept = ~(rescued | (gain > ERRORS_TO_BELIEVE * error))
    nothing = ~upper.isfinite()
    for move in guide.of_sites():
        move.to_start(kept)
    return Gains(
        elbo_before=lower,
        std_error_before=lower_error,
        elbo_after=torch.where(kept, lower, upper),
        std_error_after=torch.where(kept, lower_error, upper_error),
        gain=gain.masked_fill(nothing, 0.0),
        std_error_gain=error.masked_fill(nothing, 0.0),
        kept=kept,
    )


def _bounds(pair: Pair, batch: Batch, sizes: Iterable[int], seed: int) -> Tensor:
    """The ELBO by draw, [S,B]."""
    bounds = []
    with fixed_seed(seed, batch.device):
        for size in sizes:
            terms = row_terms(pair, batch, size)
            bounds.append((terms.log_likelihood - terms.rate).double())
    return torch.cat(bounds)


def _mean_with_error(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0) / len(values) ** 0.5
