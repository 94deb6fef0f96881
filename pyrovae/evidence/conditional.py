"""log p(some sites | others) by row, as a difference whose two terms share their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from pyrovae.data import Batch, Rows
from pyrovae.evidence.conditional_results import LogConditional
from pyrovae.evidence.discrete_dimensions import discrete_dimensions, others_discrete
from pyrovae.evidence.importance import PROBE_ROWS, Method
from pyrovae.evidence.made_absent import only_given
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.sequential import SequentialWeigh
from pyrovae.evidence.weights import (
    WITHOUT_DENSITY,
    Estimates,
    PairedTally,
    correlation,
    estimates,
    refuse_rows,
    rounding_of,
    without_density,
)
from pyrovae.pair.row_keys import RowKeys
from pyrovae.pair.running import row_terms
from pyrovae.progress import Bar
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE


def log_conditional(
    vae: VAE,
    data: Rows,
    given: Sequence[str],
    method: Method,
    num_samples: int,
    limits: Limits,
    seed: int | None,
    bar: Bar,
) -> LogConditional:
    """See `log_marginal`, of which this is `given=`.

    log p(x) and log p(given) are estimated each with the guide of the rows that it is about, and from the same noise:
    so their errors go together where both guides are off in the same way, and that of the difference is smaller.
    """
    part = only_given(vae, data, given)
    weigh = method.weigher(vae, part, num_samples, limits)
    # Runs of particles keep what they say of steps.
    weigh_whole = replace(weigh, step_ess=[]) if isinstance(weigh, SequentialWeigh) else weigh
    with vae.evaluating(), fixed_seed(0, vae.device):
        rounding = rounding_of(row_terms(vae, part.take(slice(0, PROBE_ROWS), vae.device), 1))
    keys = RowKeys(data, seed)
    wholes: list[Estimates] = []
    parts: list[Estimates] = []
    correlations = []
    for first, batch in part.in_blocks(vae.device):
        rows = slice(first, first + len(batch))
        # As rows that may lack entries these too, so that both run the same operations.
        whole = Batch(data.take(rows, vae.device).arguments, absent=True)
        pairs = [PairedTally(size, num_samples) for size in method.strata(num_samples)]
        draws, same_draws = (keys.of(rows, vae.device) for _ in range(2))
        for (stratum, of_whole), (_, of_part) in zip(
            weigh_whole(whole, draws), weigh(batch, same_draws), strict=True
        ):
            pairs[stratum].add(of_whole, of_part)
            bar.update(of_whole.numel())
        tallies = [pair.whole for pair in pairs], [pair.part for pair in pairs]
        for some, found in zip(tallies, (wholes, parts), strict=True):
            refuse_rows(without_density(some), first, WITHOUT_DENSITY)
            found.append(estimates(some, rounding))
        correlations.append(correlation(pairs).cpu())
    joint, marginal = (
        LogMarginal(
            **vars(Estimates.joined(found)),
            num_samples=num_samples,
            dimensions=discrete_dimensions(vae, rows),
        )
        for found, rows in ((wholes, data), (parts, part))
    )
    if isinstance(weigh, SequentialWeigh) and isinstance(weigh_whole, SequentialWeigh):
        joint, marginal = weigh_whole.explained(joint), weigh.explained(marginal)
    discrete = others_discrete(vae, data, given)
    return LogConditional.of(joint, marginal, torch.cat(correlations), rounding, discrete)
