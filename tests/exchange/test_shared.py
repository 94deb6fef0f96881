"""ArviZ of VAEs with latents above their rows: draws, log-likelihood by row, leave-one-out."""

import math
import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from tests.shared_models import NOISE, SPREAD, exact_guide, hierarchy, posterior_of_mean, predictive

torch.manual_seed(5)
X = 1.0 + 1.1 * torch.randn(30)


@pytest.fixture(scope="module")
def idata():
    vae = pv.VAE(hierarchy, exact_guide(X), example=X)
    return pv.to_arviz(vae, X, num_samples=200, row_samples=3, seed=0)


def test_groups_and_dims(idata):
    assert dict(idata.posterior["mean"].sizes) == {"chain": 1, "draw": 200}
    assert dict(idata.posterior["z"].sizes) == {"chain": 1, "draw": 200, "row": 30}
    assert dict(idata.log_likelihood["x"].sizes) == {"chain": 1, "draw": 200, "row": 30}
    assert dict(idata.sample_stats["log_weight"].sizes) == {"chain": 1, "draw": 200}
    assert dict(idata.prior["mean"].sizes) == {"chain": 1, "draw": 200}
    assert dict(idata.prior_predictive["x"].sizes) == {"chain": 1, "draw": 200, "row": 30}
    assert dict(idata.posterior_predictive["x"].sizes) == {"chain": 1, "draw": 200, "row": 30}
    np.testing.assert_allclose(idata.observed_data["x"], X)


def test_draws_are_theta_s_and_of_rows_given_them(idata):
    loc, scale = posterior_of_mean(X)
    mean, z = idata.posterior["mean"].values[0], idata.posterior["z"].values[0]
    assert abs(mean.mean() - loc) < 4.5 * scale / math.sqrt(200)
    precision = 1 / SPREAD**2 + 1 / NOISE**2
    expected = (X.numpy()[None] / NOISE**2 + mean[:, None] / SPREAD**2) / precision
    residual = (z - expected) * precision**0.5
    assert abs(residual.mean()) < 4.5 / math.sqrt(residual.size)
    assert residual.std() == pytest.approx(1.0, abs=0.05)
    assert idata.prior["mean"].values.std() == pytest.approx(2.0, rel=0.25)


def test_log_likelihood_is_of_rows_given_theta_without_their_latents(idata):
    mean = torch.as_tensor(idata.posterior["mean"].values[0])
    expected = dist.Normal(mean[:, None], math.sqrt(SPREAD**2 + NOISE**2)).log_prob(X)
    np.testing.assert_allclose(idata.log_likelihood["x"].values[0], expected, rtol=1e-4, atol=1e-4)


def test_leave_one_out_is_exact_leave_one_out(idata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loo = az.loo(idata, pointwise=True)
    exact = np.array([float(predictive(torch.cat([X[:n], X[n + 1 :]]), X[n : n + 1])) for n in range(len(X))])
    pointwise = np.asarray(loo.loo_i if hasattr(loo, "loo_i") else loo.elpd_i)
    total = float(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)
    assert abs(total - exact.sum()) < 0.5
    assert abs(pointwise - exact).max() < 0.25


def too_wide(x):
    pyro.sample("mean", dist.Normal(0.5, 0.6))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x, 0.7))


def test_resampling_takes_theta_nearer_to_its_posterior():
    vae = pv.VAE(hierarchy, too_wide, example=X)
    found = pv.to_arviz(vae, X, num_samples=150, resample_from=600, row_samples=20, seed=0)
    loc, scale = posterior_of_mean(X)
    mean = found.posterior["mean"].values[0]
    assert abs(mean.mean() - loc) < 0.15 * 0.6
    assert mean.std() == pytest.approx(scale, rel=0.25)
    assert float(found.sample_stats["khat"]) < 0.7
    assert "draws of q(theta)" in found.posterior.attrs["draws_of"]


def test_groups_of_latents_have_dims_and_coords():
    def model(x, group):
        with pyro.plate("groups", 3):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(effect[group], 0.5), obs=x)

    group = torch.arange(30) % 3
    vae = pv.VAE(model, example=(X, group))
    found = pv.to_arviz(
        vae, X, group, num_samples=20, seed=0, dims={"effect": ["hospital"]}, coords={"hospital": list("abc")}
    )
    assert found.posterior["effect"].dims == ("chain", "draw", "hospital")
    effect = torch.as_tensor(found.posterior["effect"].values[0])
    np.testing.assert_allclose(
        found.log_likelihood["x"].values[0],
        dist.Normal(effect[:, group], 0.5).log_prob(X),
        rtol=1e-4,
        atol=1e-4,
    )
    assert len(az.summary(found, var_names=["effect"])) == 3
