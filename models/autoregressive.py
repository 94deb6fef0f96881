"""Autoregressive likelihoods: conditional distributions of the latents whose entries come one after another."""

from __future__ import annotations

from torch import Tensor, nn

from pyrovae.models.sequences import CategoricalSequence
from pyrovae.nn import AutoregressiveGRU


class AutoregressiveCategorical(nn.Module):
    """Token sequences given z: p(x|z) = prod_t p(x_t | x_1..x_{t-1}, z) over each row's real steps.

    Bowman et al., "Generating Sentences from a Continuous Space" (2016), https://arxiv.org/abs/1511.06349.
    With `LatentVariableModel` it is the sequence VAE, lengths being the context. The density takes one pass,
    teacher-forced; tokens beyond a row's length neither train nor count, whatever they hold.

    Tokens are whole numbers from 0 to V - 1 of any dtype; draws are int64. So binary images, flattened to
    [T] pixels in raster order, are sequences of two categories.

    Args:
        network: the logits of each token given those before it and z.
        num_steps: T: what sequences are padded to.

    Raises:
        ValueError: `num_steps` below 1; at a call, a length below 1 or beyond T, with its row.

    Example:
        >>> import torch
        >>> network = AutoregressiveGRU(2, num_categories=10, hidden_size=16)
        >>> sequences = AutoregressiveCategorical(network, num_steps=7)(torch.zeros(5, 2))
        >>> sequences.event_shape, sequences.sample().dtype
        (torch.Size([7]), torch.int64)

    """

    def __init__(self, network: AutoregressiveGRU, num_steps: int) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}: expected at least 1.")
        self.network = network
        self.num_steps = num_steps

    def forward(self, z: Tensor, lengths: Tensor | None = None) -> CategoricalSequence:
        """The distribution of tokens [T] given z [..., K] and lengths [...] (None: all are full)."""
        return CategoricalSequence(self.network, z, self.num_steps, lengths)
