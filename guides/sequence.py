"""Posteriors q(z_1..z_T|x) over latent chains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution
from pyrovae.guides.posteriors import DiagonalNormal
from pyrovae.models.sequences import MarkovSequence
from pyrovae.nn import GRU, MLP, join


class MarkovPosterior(nn.Module):
    """A chain given the data: q(z|x) = prod_t q(z_t | z_{t-1}, h_t), with states h_t of a recurrent network.

    A conditional distribution of x and lengths, for `AmortizedGuide`. With states that know the future,
    h_t = h(x_t..x_T), it has the structure of the true posterior of a `DeepMarkovModel`: Krishnan, Shalit,
    Sontag, "Structured Inference Networks for Nonlinear State Space Models" (2017),
    https://arxiv.org/abs/1609.09869. With `past=True` too it is the paper's ST-LR.

    Args:
        network: from x [..., T, D] and lengths [...] to states [..., T, H], e.g. `pyrovae.nn.GRU`.
        step: a conditional distribution of (z_{t-1}, h_t), event [K], e.g.
            `DiagonalNormal(MLP(K + network.out_features, (K, K), hidden=[64]))`.
        latent_size: K: z_0 is a parameter of this size.

    With controls u [..., T, U], which follow the lengths, the network reads them joined to x, [..., T, D + U].

    Raises:
        ValueError: at a call, a step whose event is not [K]; a length below 1 or beyond T, with its row.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.nn import GRU, MLP
        >>> network = GRU(3, 16, past=False, future=True)
        >>> posterior = MarkovPosterior(network, DiagonalNormal(MLP(2 + 16, (2, 2))), latent_size=2)
        >>> posterior(torch.zeros(5, 7, 3), torch.tensor([7, 1, 2, 3, 4])).event_shape
        torch.Size([7, 2])

    """

    def __init__(self, network: nn.Module, step: ConditionalDistribution, latent_size: int) -> None:
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"latent_size is {latent_size}: expected at least 1.")
        self.network = network
        self.step = step
        self.before = nn.Parameter(torch.zeros(latent_size))

    def forward(self, x: Tensor, lengths: Tensor | None = None, *controls: Tensor) -> MarkovSequence:
        """The distribution of z [T,K] given x [..., T, D], lengths [...] (None: all are full) and controls."""
        states = self.network(join(x, *controls) if controls else x, lengths)
        first = self.step(self.before, states[..., 0, :])
        if first.event_shape != self.before.shape:
            raise ValueError(
                f"the step gives events of shape {tuple(first.event_shape)} and latent_size is {len(self.before)}: "
                "both are the size of z_t."
            )
        return MarkovSequence(first, self.step, x.shape[-2], [states], lengths)


def steps_of(x: Tensor, shows_presence: bool) -> Tensor:
    """Of sequences [B, T, ...] what each step has, [B, T, F]; where entries may be absent also which are there."""
    steps = x.flatten(2)
    if not shows_presence:
        return steps
    present = ~steps.isnan()
    return torch.cat([torch.where(present, steps, 0.0), present.to(steps)], -1)


def chain_posterior(fn: MarkovSequence, x: Tensor, width: int) -> MarkovPosterior:
    """The posterior of a model's chain, whose network reads the steps [B, T, F] from the last to the first."""
    latent_size = fn.event_shape[-1]
    network = GRU(x.shape[-1], width, past=False, future=True)
    step = DiagonalNormal(MLP(latent_size + network.out_features, (latent_size, latent_size), [width]))
    return MarkovPosterior(network, step, latent_size)
