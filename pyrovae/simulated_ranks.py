"""Ranks of true latents, and of what follows from them, among the draws of a guide."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pyrovae import rows
from pyrovae.layout import Arguments, pyro_layout, rows_first
from pyrovae.observed import entries_counted
from pyrovae.sites import Site
from pyrovae.vae import VAE

LIKELIHOOD, GUIDE = "log p(x|z)", "log q(z|x)"
NO_RANK = -1
# Draws whose weights make one importance-resampled draw.
WEIGHTS_PER_DRAW = 10


def ranks_of_truth(
    vae: VAE, arguments: Arguments, truth: Mapping[str, Tensor], num_draws: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Ranks of the true quantities among the guide's draws, and among resampled ones, by quantity: [B] each."""
    S = WEIGHTS_PER_DRAW * num_draws
    layout = vae.layout
    guide_sites = rows.run_guide(vae, arguments, S)
    latents = {name: guide_sites[name].value for name in layout.latents}
    # The truth is scored together with the draws: what is equal must come out equal, to rounding.
    both = {
        name: torch.cat([z, pyro_layout(truth[name][None], layout.latents[name], layout.sample_dim)])
        for name, z in latents.items()
    }
    model_sites = rows.run_model(vae, arguments, both, S + 1)
    terms = rows.RowTerms(model_sites, guide_sites, both, layout, broadcasts=False)
    joint, log_likelihood = terms.log_likelihood + terms.log_prior, terms.log_likelihood
    chosen = _resampled(joint[:S] - terms.log_guide if guide_sites else joint[:S], num_draws)
    quantities: dict[str, tuple[Tensor, Tensor]] = {}
    for name, site in layout.latents.items():
        kept = _counted_in_both(vae, name, guide_sites, model_sites)
        quantities |= _scalars(name, rows_first(both[name], site), kept)
    for name, draws in rows.enumerated_draws(vae, arguments, latents, S).items():
        values = torch.cat([rows_first(draws, layout.enumerated[name]), truth[name][None]])
        quantities |= _scalars(name, values, torch.ones_like(values[0], dtype=torch.bool))
    everywhere = torch.ones(log_likelihood.shape[1], dtype=torch.bool)
    if latents:
        quantities[LIKELIHOOD] = (log_likelihood, everywhere)
    if latents and set(guide_sites) == set(latents):
        scored = rows.run_guide(vae, arguments, S + 1, latents=both)
        quantities[GUIDE] = (torch.stack([site.log_prob for site in scored.values()]).sum(0), everywhere)
    return {
        name: (
            _rank(values[:num_draws], values[S]).cpu().masked_fill(~kept.cpu(), NO_RANK),
            _rank(values[:S].gather(0, chosen), values[S]).cpu().masked_fill(~kept.cpu(), NO_RANK),
        )
        for name, (values, kept) in quantities.items()
    }


def _resampled(log_weights: Tensor, num_draws: int) -> Tensor:
    """Places of draws taken by their weights, with replacement: [L,B]; evenly where no draw has any weight."""
    log_weights = log_weights.double().nan_to_num(nan=-torch.inf)
    hopeless = (log_weights == -torch.inf).all(0)
    weights = log_weights.masked_fill(hopeless, 0.0).softmax(0)
    return torch.multinomial(weights.T, num_draws, replacement=True).T


def _rank(draws: Tensor, truth: Tensor) -> Tensor:
    """How many draws [L,B] lie below the truth [B]; ties, to rounding, are broken at random."""
    precision = torch.finfo(draws.dtype).eps if draws.dtype.is_floating_point else 0.0
    equal = (draws == truth) | ((draws - truth).abs() <= 16 * precision * truth.abs())
    ties = equal.sum(0)
    extra = (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long()
    return ((draws < truth) & ~equal).sum(0) + torch.minimum(extra, ties)


def _scalars(name: str, values: Tensor, kept: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Every scalar of a latent [S,B,...] by its name, [S,B], with the rows in which it counts, [B]."""
    return {
        name + (f"[{','.join(map(str, index))}]" if index else ""): (
            values[(slice(None), slice(None), *index)],
            kept[(slice(None), *index)],
        )
        for index in np.ndindex(*values.shape[2:])
    }


def _counted_in_both(
    vae: VAE, name: str, guide_sites: Mapping[str, Site], model_sites: Mapping[str, Site]
) -> Tensor:
    """Which entries of a latent neither program masks, [B, *inner plates, *event]."""
    kept = torch.ones((), dtype=torch.bool)
    runs = ((guide_sites, vae.layout.guide_broadcasts), (model_sites, vae.layout.model_broadcasts))
    for sites, broadcasts in runs:
        site = sites.get(name)  # in the model, enumeration may have joined it with others
        if site is not None and site.distribution is not None:
            S = len(site.log_prob)
            kept = (
                kept
                & entries_counted(
                    site.distribution, site.mask, S, vae, vae.layout.latents[name], broadcasts=broadcasts
                )[0]
            )
    return kept
