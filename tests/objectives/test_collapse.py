"""A sequence model whose decoder can do without its latent: it collapses, unless the objective keeps the rate."""

import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.objectives import ELBO, Cyclical, FreeBits, LinearWarmUp

V, T, N = 4, 4, 256
STEPS = 200


def random_walks():
    """Rows of tokens that stay or go one up or down, around a circle: each is told by the one before it."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(V, (N, 1), generator=generator)
    steps = torch.randint(3, (N, T - 1), generator=generator) - 1
    steps[torch.rand(N, T - 1, generator=generator) < 0.5] = 0
    return torch.cat([first, first + steps.cumsum(1)], 1) % V


def rate_after_training(objective):
    torch.manual_seed(1)
    decoder = pv.models.AutoregressiveCategorical(pv.nn.AutoregressiveGRU(2, V, hidden_size=12), T)
    encoder = pv.nn.SequenceEncoder(8, (2, 2), hidden_size=12, embedding=nn.Embedding(V, 8))
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), decoder)
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(encoder)))
    x = random_walks()
    vae.rows(x)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    with vae.scope():
        for step in range(STEPS):
            objective.advance(step, None)
            losses = objective.evaluate(vae, Batch((x[torch.randint(N, (64,))],)))
            optimizer.zero_grad()
            losses.surrogate.mean().backward()
            optimizer.step()
    return float(pv.elbo(vae, x, num_samples=1, seed=0).rate.mean())


def test_the_plain_elbo_collapses():
    assert rate_after_training(ELBO()) < 0.1


@pytest.mark.parametrize(
    "objective, floor",
    [
        (ELBO(beta=LinearWarmUp(steps=100)), 0.3),
        (ELBO(beta=Cyclical(steps=160, num_cycles=2)), 0.3),
        (ELBO(free_bits=FreeBits(0.5)), 0.4),
        (ELBO(free_bits=FreeBits(0.25, per_dimension=True)), 0.4),
    ],
    ids=["warm-up", "cyclical", "free bits", "free bits by dimension"],
)
def test_the_rate_is_held(objective, floor):
    assert rate_after_training(objective) > floor
