"""What rows lack where they share latents, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv

LOC, WIDTH, NOISE = 0.9, 1.0, 0.5


def pairs(x):
    """mean ~ N(0, 2), z_n ~ N(mean, 1), both entries of x_n ~ N(z_n, 0.5)."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], NOISE).expand([*z.shape, 2]).to_event(1), obs=x)


def guide(x):
    pyro.sample("mean", dist.Normal(LOC, WIDTH))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x.nanmean(-1), 0.8))


X = torch.tensor([[4.0, torch.nan], [0.5, torch.nan], [1.0, 1.2]])


def test_draws_are_those_given_theta_averaged_over_q():
    """And not of theta as the row at hand would have it, of which q(theta) knows."""
    found = pv.impute(pv.VAE(pairs, guide, example=X), X, num_samples=1000, resample_from=10_000, seed=0)
    assert found.draws.shape == (1000, 3, 2)
    assert torch.equal(found.draws[:, 2], X[2].expand(1000, 2))
    expected = (X[:2, 0] / NOISE**2 + LOC) / 5  # weighed by the row, the first would be 0.28 above
    spread = math.sqrt((WIDTH / 5) ** 2 + 1 / 5 + NOISE**2)
    error = math.sqrt((WIDTH / 5) ** 2 / 50 + 1 / 5 / 10_000 * 4)  # of 50 draws of theta
    drawn = found.draws[:, :2, 1]
    assert float((found.mean[:2, 1] - expected).abs().max()) < 4 * error
    assert float((drawn.mean(0) - expected).abs().max()) < 4 * (error + spread / math.sqrt(1000))
    torch.testing.assert_close(drawn.std(0), torch.full((2,), spread), rtol=0.1, atol=0.0)
    assert "10000 weighted draws at 50 draws of mean" in str(found)
    low, high = found.interval(0.9)
    assert bool((low[:2, 1] < expected).all() & (expected < high[:2, 1]).all())


def test_weights_are_the_predictive_density_of_what_is_there():
    found = pv.impute(pv.VAE(pairs, guide, example=X), X, num_samples=200, seed=0).weights
    of_one = dist.Normal(LOC, math.sqrt(WIDTH**2 + 1 + NOISE**2)).log_prob(X[:2, 0]).double()
    assert float(((found.log_marginal[:2] - of_one) / found.std_error[:2]).abs().max()) < 4
    assert found.num_samples == 800
    assert float(found.ess.max()) <= 800
    assert found.shared.num_draws == 50
    assert "nested: 50 draws of mean, 16 of each row at each" in str(found)


def test_rows_without_latents_and_labels():
    def regression(y, a):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal((slope * a)[..., None], 0.1).expand([len(a), 2]).to_event(1), obs=y)

    def known(y, a):
        pyro.sample("slope", dist.Normal(2.0, 0.01))

    a = torch.tensor([1.0, -1.0, 0.5])
    y = 2 * a[:, None].repeat(1, 2)
    y[1, 0] = torch.nan
    found = pv.impute(pv.VAE(regression, known, example=(y, a)), y, a, num_samples=7, seed=0)
    assert found.draws.shape == (7, 3, 2)
    assert float(found.mean[1, 0]) == pytest.approx(-2.0, abs=0.05)
