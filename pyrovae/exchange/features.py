"""Posterior means as features: numbers for each row, and their names."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.vae import VAE


def features(vae: VAE, x: object, *context: object) -> Tensor:
    """Posterior means E[z|x] of all latent sites of the guide side by side, [N, K].

    Beside AnnData's cells: `adata.obsm["X_vae"] = pv.features(vae, adata).numpy()`.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.

    Raises:
        ValueError: as `VAE.encode`, such as where all latents are discrete and summed out: labels have no mean.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> pv.features(pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(9, 4)).shape
        torch.Size([9, 2])

    """
    means = vae.encode(x, *context)
    sites = [means] if isinstance(means, Tensor) else list(means.values())
    return torch.cat([site.reshape(len(site), -1) for site in sites], 1)


def feature_names(vae: VAE) -> list[str]:
    """The names of the columns of `features`: site and place, as z[0], z[1]; of a single number the site."""
    return [name for site in vae.layout.latents for name in site_names(vae, site)]


def site_names(vae: VAE, site: str) -> list[str]:
    """The names of one latent site's numbers."""
    layout = vae.layout.latents[site]
    if not (*layout.inner_sizes, *layout.event_shape):
        return [site]
    return [f"{site}[{k}]" for k in range(layout.numel)]
