"""What ArviZ sees: right numbers, names and shapes, and a file that it reads again."""

import arviz
import numpy as np
import pytest
import torch

import pyrovae as pv
from tests.oracles import LinearGaussian, WideGuide
from tests.pairs import PAIRS, binary_rows

GROUPS = [
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
]


@pytest.fixture
def linear():
    model = LinearGaussian(K=2, D=3)
    return pv.VAE(model, WideGuide(model)), model.data(5)


def test_groups_dims_and_numbers(linear):
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=400, seed=0)
    assert set(GROUPS) == {
        str(g).strip("/") for g in (tree.groups() if callable(tree.groups) else tree.groups)
    } - {""}
    posterior, stats = tree.posterior, tree.sample_stats
    assert dict(posterior["z"].sizes) == {"chain": 1, "draw": 400, "row": 5, "z_dim_0": 2}
    assert dict(tree.posterior_predictive["x"].sizes) == {"chain": 1, "draw": 400, "row": 5, "x_dim_0": 3}
    assert dict(tree.log_likelihood["x"].sizes) == {"chain": 1, "draw": 400, "row": 5}
    assert tree.prior["z"].sizes == posterior["z"].sizes
    np.testing.assert_array_equal(tree.observed_data["x"], x)
    z = torch.as_tensor(posterior["z"].values[0])
    expected = (
        torch.distributions.Normal(z @ vae.model.W.T + vae.model.b, vae.model.scale).log_prob(x).sum(-1)
    )
    np.testing.assert_allclose(tree.log_likelihood["x"].values[0], expected.detach())
    weights = torch.as_tensor(stats["log_weight"].values[0])
    estimate = weights.logsumexp(0) - np.log(400)
    truth = vae.model.evidence().log_prob(x)
    error = (weights.softmax(0) - 1 / 400).square().sum(0).sqrt()
    assert bool(((estimate - truth).abs() < 5 * error).all())
    np.testing.assert_allclose(stats["khat"], pv.psis.pareto_k(weights))


def test_prior_and_predictive_draws_have_the_right_moments(linear):
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=4000, seed=0)
    prior = tree.prior["z"].values
    assert abs(prior.mean()) < 5 / np.sqrt(prior.size)
    assert prior.var() == pytest.approx(1, abs=5 * np.sqrt(2 / prior.size))
    evidence = vae.model.evidence()
    drawn = torch.as_tensor(tree.prior_predictive["x"].values).flatten(0, 2)
    deviation = (drawn.mean(0) - evidence.mean) / (evidence.variance / len(drawn)).sqrt()
    assert float(deviation.abs().max()) < 5
    predictive = tree.posterior_predictive["x"].values[0]
    z = tree.posterior["z"].values[0]
    residual = predictive - (z @ vae.model.W.detach().numpy().T + vae.model.b.detach().numpy())
    assert residual.std() == pytest.approx(vae.model.scale, rel=0.02)


def test_a_seed_decides_and_the_random_state_is_left(linear):
    vae, x = linear
    before = torch.get_rng_state()
    a, b = (pv.to_arviz(vae, x, num_samples=3, seed=1) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert a.prior_predictive.equals(b.prior_predictive)


def test_users_dims_and_coords(linear):
    vae, x = linear
    tree = pv.to_arviz(
        vae,
        x,
        num_samples=3,
        dims={"x": ["feature"]},
        coords={"feature": ["a", "b", "c"], "row": list("vwxyz")},
    )
    assert tree.observed_data["x"].sel(row="w", feature="b") == x[1, 1]
    assert tree.posterior["z"].sel(row="w").sizes == {"chain": 1, "draw": 3, "z_dim_0": 2}
    with pytest.raises(ValueError, match="dims names 2 dims for 'x': it has 1"):
        pv.to_arviz(vae, x, num_samples=3, dims={"x": ["a", "b"]})


@pytest.mark.parametrize("name", PAIRS)
def test_any_pair_to_a_file_and_back(name, tmp_path):
    make, context = PAIRS[name]
    tree = pv.to_arviz(make(), binary_rows(8), *context(8), num_samples=10, seed=0)
    path = str(tmp_path / "pair.nc")
    tree.to_netcdf(path)
    again = arviz.from_netcdf(path)
    for group in GROUPS:
        assert again[group].equals(tree[group])
    if name == "methods":
        np.testing.assert_array_equal(again["constant_data"]["context_1"], context(8)[0])


def test_arvizs_functions_run_on_it(linear):
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=200, seed=0)
    summary = arviz.summary(tree, var_names=["z"])
    assert len(summary) == 10
    exact = vae.encode(x).flatten()
    np.testing.assert_allclose(summary["mean"].astype(float), exact, atol=0.35)
