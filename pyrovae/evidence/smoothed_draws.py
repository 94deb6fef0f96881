"""Draws of whole chains from p(z|x), equally weighted, where others are the guide's and weighed."""

from __future__ import annotations

import torch

from pyrovae.data import Batch
from pyrovae.evidence.sequential import SequentialMonteCarlo
from pyrovae.evidence.weighted_draws import WeightedDraws
from pyrovae.pair.layout import pyro_layout
from pyrovae.pair.running import run_model
from pyrovae.vae import VAE


def smoothed_draws(
    vae: VAE, batch: Batch, method: SequentialMonteCarlo, num_samples: int, first_row: int
) -> WeightedDraws:
    """Chains traced back through a particle filter, with weights of 1; so few filters have no Pareto k (NaN).

    `first_row` is the place of the first of these rows in the data, for what is said of them.
    """
    chains, layout = method.posterior_draws(vae, batch, num_samples, first_row), vae.layout
    latents = {name: pyro_layout(z, layout.latents[name], layout.sample_dim) for name, z in chains.items()}
    sites = run_model(vae, batch, latents, num_samples)
    observed = {name: site.log_prob for name, site in sites.items() if site.observed}
    even = torch.zeros(num_samples, len(batch), dtype=torch.float64, device=batch.device)
    return WeightedDraws(latents, observed, even, torch.full_like(even[0], torch.nan))
