"""Mixture priors: of learned normals, and of a posterior at learned pseudo-inputs (VampPrior)."""

from __future__ import annotations

import warnings

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution
from pyrovae.models.priors import check_latent_size
from pyrovae.nn import PositiveParameter

# Layers of one pass from the base, and of one for each dimension towards it.
_AUTOREGRESSIVE = (
    transforms.AffineAutoregressive,
    transforms.ConditionalAffineAutoregressive,
    transforms.SplineAutoregressive,
    transforms.ConditionalSplineAutoregressive,
)


class NormalMixture(nn.Module):
    """p(z) = sum_c w_c N(z; location_c, diag(scale_c^2)), everything learned.

    Locations start at draws from N(0, I), scales at 1, weights equal.

    Args:
        latent_size: K.
        num_components: how many normals.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> NormalMixture(8, num_components=10)().event_shape
        torch.Size([8])

    """

    def __init__(self, latent_size: int, num_components: int) -> None:
        super().__init__()
        check_latent_size(latent_size)
        if num_components < 1:
            raise ValueError(f"num_components is {num_components}: expected at least 1.")
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.locations = nn.Parameter(torch.randn(num_components, latent_size))
        self.scales = PositiveParameter(torch.ones(num_components, latent_size))

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution of z, event [K], whatever the context."""
        components = dist.Normal(self.locations, self.scales()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


class VampPrior(nn.Module):
    """p(z) = sum_c w_c q(z|u_c): the posterior q averaged over learned pseudo-inputs u_c.

    Tomczak & Welling, "VAE with a VampPrior" (2018), https://arxiv.org/abs/1705.07120. Share the
    posterior with the guide, as the paper does, by giving both the same module. Pseudo-inputs are kept
    strictly between `low` and `high` by a sigmoid; initial values are moved into the range by a hundredth of
    it at the ends, so that those of binary data can be learned too.

    Each draw is scored under the posterior of every pseudo-input. Under an autoregressive flow
    (`InverseAutoregressiveFlow`, `NeuralSplineFlow`) that takes a pass for each of the K dimensions, and a training
    step some 10 to 25 times as long (8 dimensions, 50 pseudo-inputs): making such a prior warns of it. A
    `CouplingFlow` takes one pass.

    Args:
        posterior: a conditional distribution of x (and of context).
        pseudo_inputs: where they start, [C, *event]: rows of the data, e.g. `x[:500]`, or random numbers,
            e.g. `torch.rand(500, 64)`.
        pseudo_context: the posterior's context for the pseudo-inputs, each [C, ...]; not learned.
        low: the smallest value that data have, a number or a tensor that broadcasts to [*event].
        high: the largest value that data have.
        learned_weights: learn the w_c; else they are equal.

    Raises:
        ValueError: `low` not below `high`, or pseudo-inputs outside them (says which); pseudo-context of
            another number of rows.

    Example:
        >>> from pyrovae.models import Normal
        >>> from pyrovae.nn import MLP
        >>> VampPrior(Normal(MLP(64, (8, 8))), torch.rand(20, 64))().event_shape
        torch.Size([8])

    """

    def __init__(
        self,
        posterior: ConditionalDistribution,
        pseudo_inputs: Tensor,
        *pseudo_context: Tensor,
        low: float | Tensor = 0.0,
        high: float | Tensor = 1.0,
        learned_weights: bool = False,
    ) -> None:
        super().__init__()
        start = pseudo_inputs.detach().to(torch.get_default_dtype())
        self.low: Tensor
        self.width: Tensor
        self.logits: Tensor
        self.register_buffer("low", torch.as_tensor(low, dtype=start.dtype, device=start.device))
        self.register_buffer(
            "width", torch.as_tensor(high, dtype=start.dtype, device=start.device) - self.low
        )
        share = self._share(start)
        self.posterior = posterior
        layers = posterior.modules() if isinstance(posterior, nn.Module) else ()
        if any(isinstance(layer, _AUTOREGRESSIVE) for layer in layers):
            warnings.warn(
                f"VampPrior scores every draw under the posteriors of {len(start)} pseudo-inputs, and under an "
                "autoregressive flow that takes a pass for each latent dimension: training steps may take 10 to 25 "
                "times as long. A CouplingFlow takes one pass; so does affine_flow as a prior.",
                stacklevel=2,
            )
        self.raw = nn.Parameter((0.01 + 0.98 * share).logit())
        logits = torch.zeros(len(start), dtype=start.dtype, device=start.device)
        if learned_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)
        for place, tensor in enumerate(pseudo_context, 1):
            if len(tensor) != len(start):
                raise ValueError(
                    f"there are {len(start)} pseudo-inputs and pseudo-context {place} has {len(tensor)} rows: each "
                    "pseudo-input needs its own."
                )
            self.register_buffer(f"context_{place}", tensor.detach().clone())
        self.num_contexts = len(pseudo_context)

    @property
    def pseudo_inputs(self) -> Tensor:
        """Their present values, [C, *event], between `low` and `high`."""
        return self.low + self.width * torch.sigmoid(self.raw)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution of z, whatever the context."""
        pseudo_context = [getattr(self, f"context_{place}") for place in range(1, self.num_contexts + 1)]
        components = self.posterior(self.pseudo_inputs, *pseudo_context)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    def _share(self, start: Tensor) -> Tensor:
        """How far from low to high each initial value lies, in [0, 1]."""
        if not bool((self.width > 0).all()):
            raise ValueError(
                f"low is {self.low} and high is {self.low + self.width}: expected low below high."
            )
        if start.dim() < 2 or len(start) == 0:
            raise ValueError(f"pseudo_inputs have shape {list(start.shape)}: expected rows, [C, *event].")
        share = (start - self.low) / self.width
        if not bool(((share >= 0) & (share <= 1)).all()):
            raise ValueError(
                f"pseudo_inputs run from {start.min():.4g} to {start.max():.4g}, beyond low = {self.low.min():.4g} "
                f"and high = {(self.low + self.width).max():.4g}: give the range of the data, e.g. "
                "low=x.amin(0), high=x.amax(0)."
            )
        return share
