"""pythae's VAE around networks of ours, where pythae is installed (`pip install pythae`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def pythae_vae(encoder: nn.Module, decoder: nn.Module, input_shape: Sequence[int], latent: int) -> Any:
    """A `pythae.models.VAE` of binary rows; the encoder gives (location, scale), the decoder logits.

    Raises:
        ImportError: pythae is not installed.

    """
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, x: Tensor) -> Any:
            location, scale = self.network(x)
            return ModelOutput(embedding=location, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    config = VAEConfig(input_dim=tuple(input_shape), latent_dim=latent, reconstruction_loss="bce")
    return VAE(config, Encoder(), Decoder())
