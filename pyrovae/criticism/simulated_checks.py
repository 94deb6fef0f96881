"""What rows simulated in the context of the data say of a guide, and of the posteriors that refining makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.evidence.refinement import refine
from pyrovae.evidence.reverse_check import ReverseCheck, checked_at, reverse_check
from pyrovae.evidence.simulated_data import simulated
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

# Rows of the reverse check, of one whose rows are to be refined, and the draws of each at least.
SIMULATED_ROWS, REFINED_ROWS = 200, 50
LEAST_DRAWS = 100


def reverse_check_beside(
    vae: VAE, data: Rows, num_samples: int, seed: int
) -> tuple[ReverseCheck | None, list[str]]:
    """The reverse check in the context of these rows, or why there is none."""
    context = _context(vae, data, SIMULATED_ROWS)
    S = max(num_samples, LEAST_DRAWS)
    try:
        return reverse_check(vae, *context, num_rows=SIMULATED_ROWS, num_samples=S, seed=seed), []
    except ValueError as error:
        return None, [f"no reverse check: {str(error).splitlines()[0]}"]  # the trace of a program may follow


def refined_misses(vae: VAE, data: Rows, num_samples: int, seed: int, *, progress: bool) -> bool:
    """Whether refining leaves out part of the posterior too, in the context of these rows: modes it never came near."""
    seeds = seeds_from(seed)
    with fixed_seed(next(seeds), vae.device):
        truth, rows = simulated(vae, REFINED_ROWS, _context(vae, data, REFINED_ROWS), None)
    refined = refine(vae, rows, full_covariance=True, seed=next(seeds), progress=progress)
    return checked_at(refined.vae, truth, rows, max(num_samples, LEAST_DRAWS), next(seeds)).poor


def evenly(N: int, count: int) -> Tensor:
    """Places of some of N rows, evenly spaced; of more than N, some repeatedly."""
    return (torch.arange(count) * N) // count


def _context(vae: VAE, data: Rows, count: int) -> tuple[object, ...]:
    return data.take(evenly(len(data), count), vae.device).context
