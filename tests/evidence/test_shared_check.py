"""q(theta) against weights of whole data sets, in models whose posterior is known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta

import pyrovae as pv
from tests.shared_models import counts, evidence, exact_guide, hierarchy, posterior_of_mean

X = 1.0 + 1.1 * torch.randn(30, generator=torch.Generator().manual_seed(5))


def off_guide(x):
    loc, scale = posterior_of_mean(X)
    mean = pyro.sample("mean", dist.Normal(loc + scale, 1.3 * scale))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal((4 * x + mean) / 5, 5**-0.5))


def narrow_guide(x):
    loc, scale = posterior_of_mean(X)
    mean = pyro.sample("mean", dist.Normal(loc + scale, scale / 4))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal((4 * x + mean) / 5, 5**-0.5))


def test_nothing_against_the_posterior():
    found = pv.shared_check(
        pv.VAE(hierarchy, exact_guide(X), example=X), X, num_samples=100, row_samples=20, seed=0
    )
    assert found.verdict == "good"
    assert "mean: nothing against q(theta)" in str(found)
    assert found.evidence == pytest.approx(
        evidence(X), abs=0.3
    )  # of twenty weights a row, two of them the prior's


def test_a_guide_that_is_off_and_by_how_much():
    vae = pv.VAE(hierarchy, off_guide, example=X)
    found = pv.shared_check(vae, X, num_samples=300, row_samples=50, seed=0)
    loc, scale = posterior_of_mean(X)
    line = found.table.iloc[0]
    assert found.verdict == "off"
    assert line["off"] == pytest.approx(1.0, abs=0.25)
    assert line["scale_ratio"] == pytest.approx(1.3, rel=0.15)
    assert line["posterior_mean"] == pytest.approx(loc, abs=0.25 * scale)
    assert "What to try" in str(found)


def test_a_guide_too_narrow_has_a_bad_k():
    found = pv.shared_check(
        pv.VAE(hierarchy, narrow_guide, example=X), X, num_samples=300, row_samples=4, seed=0
    )
    assert found.verdict == "poor"
    assert not found.khat < found.good_k
    few = pv.shared_check(pv.VAE(hierarchy, narrow_guide, example=X), X, num_samples=10, seed=0)
    assert few.verdict == "unknown"


def test_what_has_no_weights_is_refused():
    rows = X.abs().round()
    point = pv.VAE(counts, pv.guides.AutoGuide(counts, shared_family=AutoDelta), example=rows)
    with pytest.raises(ValueError, match="no density"):
        pv.shared_check(point, rows)
    with pytest.raises(ValueError, match="num_samples is 1: weights of draws are compared"):
        pv.shared_check(pv.VAE(counts, example=rows), rows, num_samples=1)
    model = pv.models.LinearGaussian(1, 2)
    with pytest.raises(ValueError, match="no latents that rows share"):
        pv.shared_check(pv.VAE(model, pv.guides.ExactGuide(model)), torch.zeros(5, 2))
