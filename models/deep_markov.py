"""The deep Markov model: a latent chain beside an observed sequence."""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution
from pyrovae.models.sequences import MarkovSequence, PaddedSequence


class DeepMarkovModel(nn.Module):
    """p(z_1) p(x_1|z_1) prod_t p(z_t|z_{t-1}, u_t) p(x_t|z_t) over each row's real steps.

    Krishnan, Shalit, Sontag, "Structured Inference Networks for Nonlinear State Space Models" (2017),
    https://arxiv.org/abs/1609.09869. The latent "z" of a row is its whole chain, [T,K], and "x" its whole
    sequence, [T, *event]: one site each, so that densities come in one pass over all steps. Steps beyond a
    row's length are no part of it: neither read, nor trained on, nor counted; draws hold 0 there. Steps that are
    absent (NaN) are integrated out. With controls u it takes (x, lengths, u), lengths being None where all are full.

    Args:
        initial: a conditional distribution of nothing, event [K]: p(z_1).
        transition: a conditional distribution of z_{t-1} (and controls), event [K], e.g.
            `Normal(pyrovae.nn.GatedTransition(K, hidden_size))`.
        emission: a conditional distribution of z_t.

    Raises:
        ValueError: at a call, a length below 1 or beyond T, with its row; controls of another number of steps;
            transitions that do not fit p(z_1).

    Example:
        >>> import torch
        >>> from pyrovae.models import Bernoulli, Normal, StandardNormal
        >>> from pyrovae.nn import MLP, GatedTransition
        >>> transition = Normal(GatedTransition(2, hidden_size=16))
        >>> model = DeepMarkovModel(StandardNormal(2), transition, Bernoulli(MLP(2, 88, hidden=[16])))
        >>> model(torch.zeros(5, 7, 88), torch.tensor([7, 1, 2, 3, 4]))

    """

    def __init__(
        self,
        initial: ConditionalDistribution,
        transition: ConditionalDistribution,
        emission: ConditionalDistribution,
    ) -> None:
        super().__init__()
        self.initial = initial
        self.transition = transition
        self.emission = emission

    def forward(self, x: Tensor, lengths: Tensor | None = None, *controls: Tensor) -> None:
        """The generative story for rows x [B, T, *event], lengths [B] (None: all are full), controls [B, T, U]."""
        with pyro.plate("rows", len(x)):
            chain = MarkovSequence(self.initial(), self.transition, x.shape[1], controls, lengths)
            z = pyro.sample("z", chain)
            pyro.sample("x", PaddedSequence.emitted(self.emission, z, lengths=lengths), obs=x)
