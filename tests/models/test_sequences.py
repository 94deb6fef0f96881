"""Distributions over ragged sequences: exact densities, draws that agree, padding that is never read."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyrovae.models.sequences import CategoricalSequence, MarkovSequence, PaddedSequence
from pyrovae.nn import AutoregressiveGRU

LENGTHS = torch.tensor([4, 1, 3])
T = 4


def padded() -> PaddedSequence:
    loc = torch.arange(24.0).reshape(3, T, 2) / 10
    return PaddedSequence(dist.Normal(loc, loc.detach() + 0.5).to_event(1), LENGTHS)


def chain(lengths: torch.Tensor | None = LENGTHS) -> MarkovSequence:
    """z_1 ~ N(1, 0.5), z_t ~ N(0.8 z_{t-1} + u_t, 0.3) in two dimensions."""
    inputs = torch.arange(12.0).reshape(3, T, 1) / 4
    return MarkovSequence(
        dist.Normal(torch.tensor([1.0, -1.0]), 0.5).to_event(1),
        lambda z, u: dist.Normal(0.8 * z + u, 0.3).to_event(1),
        T,
        [inputs],
        lengths,
    )


def tokens() -> CategoricalSequence:
    torch.manual_seed(0)
    return CategoricalSequence(AutoregressiveGRU(2, 3, hidden_size=4), torch.randn(3, 2), T, LENGTHS)


EVERY = pytest.mark.parametrize("make", [padded, chain, tokens])


@EVERY
def test_padding_is_never_read(make):
    torch.manual_seed(0)
    sequence = make()
    value = sequence.sample((5,))
    garbage = value.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        assert not value[:, row, length:].any()
        garbage[:, row, length:] = -100 if value.dtype == torch.long else torch.nan
    assert torch.equal(sequence.log_prob(garbage), sequence.log_prob(value))
    changed = value.clone()
    changed[:, 2, 2] = (changed[:, 2, 2] + 1) % 3  # the last real step counts
    assert bool((sequence.log_prob(changed)[:, 2] != sequence.log_prob(value)[:, 2]).all())


@EVERY
def test_shapes_and_expansion(make):
    torch.manual_seed(0)
    sequence = make()
    larger = sequence.expand([5, 3])
    value = larger.sample()
    assert value.shape == (5, 3, *sequence.event_shape)
    assert larger.batch_shape == (5, 3)
    assert sequence.batch_shape == (3,)
    torch.testing.assert_close(larger.log_prob(value), sequence.log_prob(value))
    assert larger.log_prob(value[0]).shape == (5, 3)
    assert sequence.sample((2, 6)).shape == (2, 6, 3, *sequence.event_shape)


@EVERY
def test_values_out_of_the_support_are_refused(make):
    sequence = make()
    value = sequence.sample()
    value[1, 0] = 3 if value.dtype == torch.long else torch.nan
    assert sequence.support.check(value).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="within the support"):
        sequence.log_prob(value)


def test_padded_density_is_the_sum_of_its_real_steps():
    torch.manual_seed(0)
    sequence = padded()
    value = sequence.sample()
    by_step = sequence.steps.log_prob(value)
    expected = torch.stack([by_step[row, :length].sum() for row, length in enumerate(LENGTHS.tolist())])
    torch.testing.assert_close(sequence.log_prob(value), expected)
    assert not sequence.mean[1, 1:].any()
    torch.testing.assert_close(sequence.mean[1, 0], sequence.steps.mean[1, 0])


def test_chain_density_is_that_of_a_joint_normal():
    """Unrolled: z = L e with e the chain's noises, so z is one multivariate normal."""
    torch.manual_seed(0)
    sequence = chain()
    value = sequence.sample()
    step = torch.eye(T) - 0.8 * torch.diag(torch.ones(T - 1), -1)
    noise = torch.diag(torch.tensor([0.5**2] + [0.3**2] * (T - 1)))
    unrolled = step.inverse()
    covariance = unrolled @ noise @ unrolled.mT
    for row, length in enumerate(LENGTHS.tolist()):
        expected = 0.0
        for dimension, start in enumerate([1.0, -1.0]):
            drift = sequence.inputs[0][row, :, 0].clone()
            drift[0] = start
            joint = dist.MultivariateNormal((unrolled @ drift)[:length], covariance[:length, :length])
            expected = expected + joint.log_prob(value[row, :length, dimension])
        torch.testing.assert_close(sequence.log_prob(value)[row], expected)


def test_chain_draws_have_the_moments_of_the_joint_normal():
    torch.manual_seed(0)
    draws = chain(lengths=None).sample((20_000,))[:, 1, :, 0]
    drift = torch.tensor([1.0, 1.25, 1.5, 1.75])
    unrolled = (torch.eye(T) - 0.8 * torch.diag(torch.ones(T - 1), -1)).inverse()
    covariance = unrolled @ torch.diag(torch.tensor([0.5**2] + [0.3**2] * (T - 1))) @ unrolled.mT
    mean = unrolled @ drift
    assert bool(((draws.mean(0) - mean).abs() < 5 * (covariance.diag() / 20_000).sqrt()).all())
    products = (draws - mean).unsqueeze(-1) * (draws - mean).unsqueeze(-2)
    assert bool(((products.mean(0) - covariance).abs() < 5 * products.std(0) / 20_000**0.5).all())


def test_gradients_pass_through_draws_of_a_chain():
    start = torch.zeros(2, requires_grad=True)
    sequence = MarkovSequence(
        dist.Normal(start, 1.0).to_event(1), lambda z: dist.Normal(0.5 * z, 1.0).to_event(1), 3
    )
    sequence.rsample()[2].sum().backward()
    torch.testing.assert_close(start.grad, torch.full((2,), 0.25))
    with pytest.raises(NotImplementedError, match="no reparameterized draws"):
        tokens().rsample()


def test_padding_reaches_no_gradient():
    sequence = padded()
    loc = torch.zeros(3, T, 2, requires_grad=True)
    sequence = PaddedSequence(dist.Normal(loc, 1.0).to_event(1), LENGTHS)
    sequence.log_prob(torch.full((3, T, 2), 2.0)).sum().backward()
    assert torch.equal((loc.grad != 0).all(-1), torch.arange(T) < LENGTHS.unsqueeze(-1))


def test_a_chain_of_one_step():
    sequence = MarkovSequence(dist.Normal(torch.zeros(2), 1.0).to_event(1), lambda z: padded(), 1)
    sequence.transition = lambda z: dist.Normal(z, 1.0).to_event(1)
    value = sequence.sample((5,))
    torch.testing.assert_close(sequence.log_prob(value), sequence.initial.log_prob(value[:, 0]))


def test_bad_input_is_named():
    normal = dist.Normal(torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match=r"event shape \(\): expected a vector"):
        MarkovSequence(normal, lambda z: normal, 3)
    with pytest.raises(ValueError, match=r"chain of 3 steps have shape \[4, 1\]"):
        MarkovSequence(normal.to_event(1), lambda z: normal.to_event(1), 3, [torch.zeros(4, 1)])
    with pytest.raises(ValueError, match=r"no batch dimension"):
        PaddedSequence(normal.to_event(1))
    with pytest.raises(ValueError, match=r"row 1 of the batch has length 9: expected 1 to 2"):
        PaddedSequence(normal, torch.tensor([2, 9]))
