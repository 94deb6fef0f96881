"""Posteriors over latent chains."""

from __future__ import annotations

import pytest
import torch

from pyrovae.guides import DiagonalNormal, MarkovPosterior
from pyrovae.nn import GRU, MLP

LENGTHS = torch.tensor([4, 1, 3])


def posterior(**directions: bool) -> MarkovPosterior:
    torch.manual_seed(0)
    network = GRU(2, 4, **directions)
    return MarkovPosterior(network, DiagonalNormal(MLP(3 + network.out_features, (3, 3))), latent_size=3)


def test_density_is_the_product_of_its_steps():
    chain = posterior(past=False, future=True)
    x = torch.randn(3, 4, 2)
    q = chain(x, LENGTHS)
    z = q.sample((5,))
    states = chain.network(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        before, expected = chain.before.expand(5, 3), torch.zeros(5)
        for t in range(length):
            expected = expected + chain.step(before, states[row, t]).log_prob(z[:, row, t])
            before = z[:, row, t]
        torch.testing.assert_close(q.log_prob(z)[:, row], expected)


@pytest.mark.parametrize("past", [True, False])
def test_the_first_state_knows_the_future_and_the_last_only_what_it_may(past):
    chain = posterior(past=past, future=True)
    x = torch.randn(3, 4, 2, requires_grad=True)
    z = torch.randn(3, 4, 3)
    # log q at one step alone: the difference between two rows that are cut behind and before it.
    first = chain.step(chain.before, chain.network(x, LENGTHS)[:, 0]).log_prob(z[:, 0])
    gradient = torch.autograd.grad(first.sum(), x)[0]
    assert torch.equal((gradient != 0).all(-1), torch.arange(4) < LENGTHS.unsqueeze(1))
    last = chain.step(z[:, 2], chain.network(x, LENGTHS)[:, 3]).log_prob(z[:, 3])
    gradient = torch.autograd.grad(last[0], x)[0]
    assert (gradient[0] != 0).all(-1).tolist() == [past, past, past, True]


def test_every_parameter_gets_a_gradient_through_draws():
    chain = posterior(future=True)
    (chain(torch.randn(3, 4, 2), LENGTHS).rsample((2,)) ** 2).sum().backward()
    assert all(bool((p.grad != 0).any()) for p in chain.parameters())


def test_a_step_of_another_size_is_named():
    with pytest.raises(ValueError, match=r"latent_size is 0"):
        MarkovPosterior(GRU(2, 4), DiagonalNormal(MLP(4, (3, 3))), 0)
    chain = MarkovPosterior(GRU(2, 4), DiagonalNormal(MLP(2 + 4, (3, 3))), 2)
    with pytest.raises(ValueError, match=r"events of shape \(3,\) and latent_size is 2"):
        chain(torch.zeros(3, 4, 2))
