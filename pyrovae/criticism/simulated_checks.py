"""What rows simulated in the context of the data say of the posteriors that refining makes of a guide."""

from __future__ import annotations

from pyrovae.data import Rows
from pyrovae.evidence.refinement import refine
from pyrovae.evidence.reverse_check import LEAST_DRAWS, checked_at
from pyrovae.evidence.simulated_data import simulated_like
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

# Rows that are simulated and refined.
REFINED_ROWS = 50


def refined_misses(vae: VAE, data: Rows, num_samples: int, seed: int, *, progress: bool) -> bool:
    """Whether refining leaves out part of the posterior too, in the context of these rows: modes it never came near."""
    seeds = seeds_from(seed)
    with fixed_seed(next(seeds), vae.device):
        truth, rows = simulated_like(vae, data, REFINED_ROWS)
    refined = refine(vae, rows, full_covariance=True, seed=next(seeds), progress=progress)
    return checked_at(refined.vae, truth, rows, max(num_samples, LEAST_DRAWS), next(seeds)).poor
