"""Verdicts on VAEs whose rows share latents: given draws of these, or averaged over them."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from tests.shared_models import counts, exact_guide, hierarchy

X = 1.0 + 1.1 * torch.randn(30, generator=torch.Generator().manual_seed(5))


def narrow_rows(x):
    mean = pyro.sample("mean", dist.Normal(0.9, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal((4 * x + mean) / 5, 0.2))


def test_calibration_is_of_rows_given_draws_of_theta():
    """The guide of rows that reads theta is exact at each draw, however wide these lie."""

    def wide(x):
        mean = pyro.sample("mean", dist.Normal(0.9, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal((4 * x + mean) / 5, 5**-0.5))

    exact = pv.calibrate(pv.VAE(hierarchy, wide, example=X), num_simulations=205, num_draws=19, seed=1)
    assert exact.ranks.shape == (205, 3)
    assert exact.passed
    assert exact.shared == ("mean",)
    assert "given draws of mean" in str(exact)
    narrow = pv.calibrate(
        pv.VAE(hierarchy, narrow_rows, example=X), num_simulations=200, num_draws=19, seed=1
    )
    assert not narrow.passed
    assert narrow.to_frame().loc["z", "verdict"] == "guide too narrow"


def test_context_is_gone_through_once_over_all_draws_of_theta():
    def model(x, c):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(mean + c, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    seen = {"c": lambda z, x, c: c.expand(z.shape)}
    c = torch.arange(30.0)
    vae = pv.VAE(model, example=(X, c))
    found = pv.calibrate(vae, c, num_simulations=60, num_draws=9, quantities=seen, seed=0)
    assert found.recovery.truth[:, found.recovery.quantities.index("c")].tolist() == [*range(30), *range(30)]


def test_calibration_of_rows_without_latents_is_refused():
    with pytest.raises(ValueError, match="rows have no latents of their own"):
        pv.calibrate(pv.VAE(counts, example=X.abs().round()))


def test_diagnosis_is_given_a_draw_of_theta():
    vae = pv.VAE(hierarchy, exact_guide(X), example=X)
    page = pv.diagnose(vae, X, num_samples=30, reverse_rows=20, seed=0)
    mean = vae.sample_shared(1, seed=0)["mean"][0]
    expected = dist.Normal(mean, 1.25**0.5).log_prob(X).double()
    torch.testing.assert_close(page.quality.log_marginal, expected, rtol=1e-4, atol=1e-4)
    assert "given one draw of mean" in page.notes[0]
    assert "shared_check" in str(page)


def test_predictive_checks_draw_a_theta_for_each_set():
    vae = pv.VAE(hierarchy, narrow_rows, example=X)
    found = pv.predictive_check(vae, X, statistics={"mean": lambda x: x.mean()}, num_draws=60, seed=0)
    # The sets' means vary as theta does, by 1, and by what rows add, 1.25 / 30.
    assert float(found.drawn["mean"].std()) == pytest.approx((1 + 1.25 / 30) ** 0.5, rel=0.3)
