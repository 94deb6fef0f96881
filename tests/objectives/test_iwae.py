"""The importance-weighted bound: its exact expectation by quadrature, its order in K, its gradient's mean."""

import itertools
import math

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.objectives import ELBO, IWAE, ReweightedWakeSleep
from tests.objectives.scalar import Scalar

X = 1.4
REPEATS, ROWS = 40, 2000


def by_quadrature(pair, K, nodes=24):
    """E[log 1/K sum w] over K noises by Gauss-Hermite quadrature, and its gradients, by autograd through it."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    grid = torch.tensor(list(itertools.product(points, repeat=K)))  # [nodes^K, K]
    weight = torch.tensor(list(itertools.product(weights, repeat=K))).prod(-1)
    normal, scale = torch.distributions.Normal, pair.log_scale.exp()
    z = pair.a * X + scale * grid
    log_w = normal(pair.w * z, pair.s).log_prob(torch.tensor(X).double())
    log_w = log_w + normal(torch.zeros_like(z), 1.0).log_prob(z) - normal(pair.a * X, scale).log_prob(z)
    bound = (weight * (log_w.logsumexp(1) - math.log(K))).sum()
    return float(bound.detach()), torch.stack(torch.autograd.grad(bound, list(pair.parameters())))


def estimates(pair, objective):
    """The mean value and gradient over many equal rows, each with its standard error from independent repeats."""
    x = torch.full((ROWS,), X, dtype=torch.float64)
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(x)
    torch.manual_seed(0)
    found = []
    with vae.scope():
        for _ in range(REPEATS):
            losses = objective.evaluate(vae, Batch((x,)))
            gradient = torch.stack(torch.autograd.grad(losses.surrogate.mean(), list(pair.parameters())))
            found.append(torch.cat([losses.value.mean().detach().reshape(1), gradient]))
    stacked = -torch.stack(found)
    return stacked.mean(0), stacked.std(0) / math.sqrt(REPEATS)


@pytest.mark.parametrize(
    "K, objective",
    [
        (1, ELBO()),
        (1, ELBO(sticking_the_landing=True)),
        (2, IWAE(2)),
        (3, IWAE(3)),
        (2, IWAE(2, num_bounds=3)),
        (3, IWAE(3, doubly_reparameterized=True)),
        (2, IWAE(2, num_bounds=3, doubly_reparameterized=True)),
    ],
    ids=repr,
)
def test_value_and_gradient_have_the_exact_mean(K, objective):
    """Two-sided at 5 standard errors with 39 degrees of freedom: a false alarm in 80 thousand comparisons."""
    pair = Scalar()
    bound, gradient = by_quadrature(pair, K)
    exact = torch.cat([torch.tensor([bound]), gradient])
    mean, error = estimates(pair, objective)
    assert bool(((mean - exact).abs() < 5 * error).all()), (mean, exact, error)
    assert bool((error < 0.02).all())  # the test has the power to see a wrong one


def test_quadrature_has_converged():
    pair = Scalar()
    coarse, fine = by_quadrature(pair, 2, 16), by_quadrature(pair, 2, 40)
    assert coarse[0] == pytest.approx(fine[0], abs=1e-5)
    torch.testing.assert_close(coarse[1], fine[1], atol=1e-4, rtol=1e-4)


def test_the_bound_rises_with_samples_to_log_p():
    """ELBO < IWAE(2) < IWAE(5) < IWAE(25) < log p(x), each step many standard errors wide."""
    pair = Scalar()
    truth = float(pair.log_evidence(torch.tensor(X).double()))
    bounds = [estimates(pair, IWAE(K)) for K in (1, 2, 5, 25)]
    values = [float(mean[0]) for mean, _ in bounds]
    errors = [float(error[0]) for _, error in bounds]
    for low, high, error in zip(values, [*values[1:], truth], errors, strict=True):
        assert high - low > 8 * error
    assert values[0] == pytest.approx(by_quadrature(pair, 1)[0], abs=5 * errors[0])


def test_the_loss_of_wake_sleep_is_the_same_bound():
    pair = Scalar()
    bound, gradient = by_quadrature(pair, 3)
    mean, error = estimates(pair, ReweightedWakeSleep(3))
    assert abs(float(mean[0]) - bound) < 5 * float(error[0])
    # And so is the model's gradient, not the guide's.
    order = [name for name, _ in pair.named_parameters()]
    w, a = order.index("w"), order.index("a")
    assert abs(float(mean[1 + w] - gradient[w])) < 5 * float(error[1 + w])
    assert abs(float(mean[1 + a] - gradient[a])) > 20 * float(error[1 + a])
