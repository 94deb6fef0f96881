"""The gated transition of a deep Markov model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.nn.mlp import MLP


class GatedTransition(nn.Module):
    """From z_{t-1} to (location, raw scale) of z_t: each dimension chooses between a linear and a free move.

        g = sigmoid(MLP(z))    h = MLP(z)    location = (1 - g) (A z + b) + g h    raw scale = C relu(h) + d

    with A = I and b = 0 at the start. Krishnan, Shalit, Sontag, "Structured Inference Networks for Nonlinear
    State Space Models" (2017), https://arxiv.org/abs/1609.09869.

    Args:
        latent_size: K.
        hidden_size: width of the hidden layer of both perceptrons.

    Raises:
        ValueError: at a call, states of another size.

    Example:
        >>> from pyrovae.models import Normal
        >>> transition = Normal(GatedTransition(2, hidden_size=16))
        >>> transition(torch.zeros(3, 5, 2)).event_shape
        torch.Size([2])

    """

    def __init__(self, latent_size: int, hidden_size: int) -> None:
        super().__init__()
        self.gate = MLP(latent_size, latent_size, [hidden_size])
        self.proposal = MLP(latent_size, latent_size, [hidden_size])
        self.linear = nn.Linear(latent_size, latent_size)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.scale = nn.Linear(latent_size, latent_size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """[..., K] -> [..., K] and [..., K]."""
        gate, proposal = torch.sigmoid(self.gate(z)), self.proposal(z)
        location = (1 - gate) * self.linear(z) + gate * proposal
        return location, self.scale(torch.relu(proposal))
