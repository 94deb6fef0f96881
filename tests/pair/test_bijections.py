"""Bijections of supports: those of torch, of mixtures, and of copies of both."""

import copy

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, constraints

from pyrovae.pair.bijections import bijection_to, is_real

WEIGHTS = dist.Categorical(torch.tensor([0.2, 0.3, 0.5]))
ONES = torch.ones(3)


def mixture(components):
    return dist.MixtureSameFamily(WEIGHTS, components)


MIXTURES = {
    "normals": mixture(dist.Normal(torch.randn(3, 2), 1.0).to_event(1)),
    "full normals": mixture(dist.MultivariateNormal(torch.randn(3, 2), torch.eye(2))),
    "numbers": mixture(dist.Normal(torch.randn(3), 1.0)),
    "gammas": mixture(dist.Gamma(ONES, 1.0)),
    "shares": mixture(dist.Dirichlet(torch.ones(3, 4))),
    "uniforms": mixture(dist.Uniform(-ONES, 2 * ONES)),
    "uniform vectors": mixture(
        dist.Uniform(torch.zeros(3, 2), torch.tensor([1.0, 5.0]).expand(3, 2)).to_event(1)
    ),
    "of rows": mixture(dist.Uniform(-torch.ones(5, 3), torch.ones(5, 3))),
    "in events": mixture(dist.Beta(torch.ones(5, 3), 1.0)).to_event(1),
}


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("copied", [False, True])
def test_mixtures_have_the_bijection_of_their_components(name, copied):
    mixed = MIXTURES[name]
    support = copy.deepcopy(mixed.support) if copied else mixed.support
    bijection = bijection_to(support)
    u = torch.randn(bijection.inverse_shape((7, *mixed.batch_shape, *mixed.event_shape)))
    value = bijection(u)
    assert bool(support.check(value).all())
    torch.testing.assert_close(bijection.inv(value), u, rtol=1e-3, atol=1e-3)
    assert is_real(support) == ("normals" in name or name == "numbers")
    # Its density in these coordinates is a density: both ways to it agree.
    moved = dist.TransformedDistribution(mixed, [bijection.inv])
    log_det = bijection.log_abs_det_jacobian(u, value)
    while log_det.dim() > 1 + len(mixed.batch_shape):
        log_det = log_det.sum(-1)
    torch.testing.assert_close(moved.log_prob(u), mixed.log_prob(value) + log_det, rtol=1e-3, atol=1e-3)


def test_what_is_no_mixture_has_what_torch_has():
    for support in (constraints.positive, constraints.simplex, constraints.interval(-1.0, 2.0)):
        assert bijection_to(support) == biject_to(support)
        assert not is_real(support)
    assert is_real(copy.deepcopy(constraints.real_vector))


def test_components_of_different_supports_have_none():
    with pytest.raises(NotImplementedError, match="components of a mixture have different supports"):
        bijection_to(mixture(dist.Uniform(torch.arange(3.0), torch.arange(3.0) + 1)).support)


def test_torch_is_left_as_it_was():
    bijection_to(MIXTURES["normals"].support)
    with pytest.raises(NotImplementedError):
        biject_to(MIXTURES["normals"].support)
