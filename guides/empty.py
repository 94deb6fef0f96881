"""The guide of a model that leaves no latent to sample."""

from __future__ import annotations

from torch import Tensor, nn


class EmptyGuide(nn.Module):
    """Samples nothing: for models whose latents are all discrete and summed out, e.g. `models.GaussianMixture`.

    Then the ELBO is log p(x).

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(pv.models.GaussianMixture(3, num_features=2), EmptyGuide())
        >>> pv.elbo(vae, torch.zeros(5, 2)).rate
        tensor([0., 0., 0., 0., 0.], dtype=torch.float64)

    """

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """Take rows x, [B, *event], and their context, and do nothing."""
