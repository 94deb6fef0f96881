"""The guide of a model that knows its own posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn


class KnowsPosterior(Protocol):
    """A model with p(z|x) in closed form, such as `pyrovae.models.LinearGaussian`."""

    @property
    def posterior(self) -> Callable[..., TorchDistribution]:
        """p(z|x): from x (and context) to a distribution over one row's latent."""


class ExactGuide(nn.Module):
    """q(z|x) = p(z|x): each row's latent is sampled from the posterior that the model itself gives.

    Then p(x, z) / q(z|x) = p(x) for every z: the ELBO is log p(x) and importance weights do not vary. The
    parameters are the model's own, so that training maximizes the evidence itself.

    Args:
        model: has `posterior(x, *context)`, a Pyro distribution over its one latent.
        site: the latent's name in the model.

    Raises:
        TypeError: a model without `posterior`.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 64)
        >>> vae = pv.VAE(model, ExactGuide(model))

    """

    def __init__(self, model: KnowsPosterior, site: str = "z") -> None:
        super().__init__()
        if not callable(getattr(model, "posterior", None)):
            raise TypeError(
                f"{type(model).__name__} has no method posterior(x, *context): expected a model whose posterior has "
                "a closed form, such as LinearGaussian."
            )
        self.model = model
        self.site = site

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """Sample the latent of rows x, [B, *event]."""
        with pyro.plate("rows", len(x)):
            pyro.sample(self.site, self.model.posterior(x, *context))
