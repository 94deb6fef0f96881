"""Derived guides of latents above the rows: posteriors of conjugate models, what heads read, what is refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

import pyrovae as pv
from pyrovae.guides import AutoGuide
from tests.shared_models import (
    Regression,
    counts,
    hierarchy,
    posterior_of_regression,
)

torch.manual_seed(5)
X = 1.0 + 1.1 * torch.randn(30)


def trained(model, data, *, steps=350, rate=0.06, **guide):
    torch.manual_seed(0)
    vae = pv.VAE(model, AutoGuide(model, hidden=(8,), **guide), example=data, seed=0)
    pv.fit(
        vae,
        data,
        epochs=steps,
        batch_size=100,
        optimizer=lambda p: torch.optim.Adam(p, lr=rate),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.01 ** (1 / steps)),
        objective=pv.objectives.ELBO(2),
        seed=0,
        progress=False,
    )
    return vae


def test_gamma_poisson():
    x = torch.poisson(torch.full((25,), 3.3), generator=torch.Generator().manual_seed(0))
    draws = trained(counts, x).sample_shared(2000, seed=0)["rate"]
    shape, speed = 2.0 + float(x.sum()), 1.0 + len(x)
    assert abs(float(draws.mean()) - shape / speed) < 0.1 * shape**0.5 / speed
    assert float(draws.std()) == pytest.approx(shape**0.5 / speed, rel=0.1)


def test_bayesian_linear_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]) + 0.5
    y = x @ torch.tensor([1.0, -0.5]) + 0.3 + 0.5 * torch.randn(40, generator=generator)
    mean, covariance = posterior_of_regression(x, y)
    drawn = trained(Regression(), (x, y), shared_family=AutoMultivariateNormal).sample_shared(2000, seed=0)
    flat = torch.cat([drawn["linear.weight"][:, 0], drawn["linear.bias"]], 1).double()
    scale = covariance.diag().sqrt()
    assert float(((flat.mean(0) - mean) / scale).abs().max()) < 0.15
    assert float((flat.std(0) / scale - 1).abs().max()) < 0.12
    assert float((torch.corrcoef(flat.T) - covariance / scale[:, None] / scale).abs().max()) < 0.12


def weakly_observed(x):
    """mean ~ N(0, 2), z_n ~ N(mean, 1), x_n ~ N(z_n, 2): rows' latents lean on what they share."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 2.0), obs=x)


def test_heads_that_read_what_rows_share():
    """p(z|x,mean) has the slope 1 / (1 + 1/4) in the mean, and what heads without it lose by that is known."""
    x = 2 * X[:8]
    precision = 1 / 4 + 8 / 5  # of the mean given x; with the rows' latents beside it, 1/4 + 8
    evidence = dist.MultivariateNormal(torch.zeros(8), 4 * torch.ones(8, 8) + 5 * torch.eye(8)).log_prob(x)
    lost = 0.5 * math.log((1 / 4 + 8) / precision)  # (sum of log L_ii - log det L) / 2: 0.75 nats
    mean, scale = float(x.sum()) / 5 / precision, precision**-0.5
    slopes, bounds = {}, {}
    for reads, steps in ((False, 20), (True, 350)):
        vae = trained(weakly_observed, x, steps=steps, reads_shared=reads)
        low, high = (
            vae.given_shared({"mean": torch.tensor(mean + s * scale)}).encode(x) for s in (-1.0, 1.0)
        )
        slopes[reads] = (high - low) / (2 * scale)
        bounds[reads] = pv.elbo(vae, x, num_samples=400, seed=0).total
    (without, error_without), (bound, error) = bounds.values()
    assert not slopes[False].any()
    assert without < float(evidence) - lost + 4 * error_without
    # A slope that is a fifth too small costs 0.009 nats a row, which training leaves; without a slope it is 0.2.
    torch.testing.assert_close(slopes[True].mean(), torch.tensor(0.8), rtol=0.2, atol=0.0)
    assert error < lost / 20
    assert float(evidence) - lost + 4 * error < bound < float(evidence) + 4 * error


@pytest.mark.parametrize("reads", [False, True])
def test_the_step_of_a_derived_guide_is_traced(monkeypatch, reads):
    monkeypatch.setattr("pyrovae.training.steps.MIN_STEPS", 0)
    monkeypatch.setattr("pyrovae.traced.traced.tracing_pays_off", lambda work, calls, **_: True)
    losses = []
    for how in ("auto", False):
        torch.manual_seed(0)
        vae = pv.VAE(hierarchy, AutoGuide(hierarchy, hidden=(4,), reads_shared=reads), example=X, seed=0)
        history = pv.fit(vae, X, epochs=3, batch_size=10, compile=how, seed=0, progress=False)
        losses.append(torch.tensor(history["loss"].values))
        assert ("plain" in history.attrs["engine"]) == (how is False), history.attrs["engine"]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "automatic",
    [
        lambda model: AutoNormal(model, create_plates=lambda x: pyro.plate("rows", len(x))),
        AutoLowRankMultivariateNormal,
    ],
    ids=["plates by hand", "plates of the prototype"],
)
def test_the_step_of_an_automatic_guide_is_traced(monkeypatch, automatic):
    """It makes its plates anew at each call, and holds on to them."""
    monkeypatch.setattr("pyrovae.training.steps.MIN_STEPS", 0)
    monkeypatch.setattr("pyrovae.traced.traced.tracing_pays_off", lambda work, calls, **_: True)

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    losses = []
    for how in ("auto", False):
        torch.manual_seed(0)
        vae = pv.VAE(model, automatic(model), example=X, seed=0)
        history = pv.fit(vae, X, epochs=3, batch_size=10, compile=how, seed=0, progress=False)
        losses.append(torch.tensor(history["loss"].values))
        assert ("plain" in history.attrs["engine"]) == (how is False), history.attrs["engine"]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


FAMILIES = [AutoNormal, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoDelta]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_automatic_family_is_trained_and_asked(family):
    vae = pv.VAE(hierarchy, AutoGuide(hierarchy, shared_family=family, hidden=(4,)), example=X)
    pv.fit(vae, X, epochs=2, batch_size=10, seed=0, progress=False)
    assert f"q(mean) by {family.__name__}" in repr(vae.guide)
    found = pv.elbo(vae, X, seed=0)
    assert bool(found.elbo.isfinite().all())
    assert (found.shared.rate == found.shared.rate) == (family is not AutoDelta)  # a point has no rate
    assert bool(pv.log_marginal(vae, X, num_samples=8, row_samples=4, seed=0).log_marginal.isfinite().all())


def test_masked_rows_below_shared_latents():
    """The model's own masks are read at the guide's draws of what rows share."""

    def model(x, there):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            with pyro.poutine.mask(mask=there):
                z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z * there, 1.0), obs=x)

    there = torch.arange(30) % 3 > 0
    vae = pv.VAE(model, example=(X, there))
    pv.fit(vae, (X, there), epochs=2, batch_size=10, seed=0, progress=False)
    assert bool(pv.elbo(vae, X, there, seed=0).elbo.isfinite().all())


def test_missing_entries_below_shared_latents():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean + z[..., None], 0.5).to_event(1), obs=x)

    x = torch.randn(30, 3)
    x[::2, 1] = torch.nan
    vae = pv.VAE(model, example=x)
    history = pv.fit(vae, x, epochs=2, batch_size=10, seed=0, progress=False)
    assert bool(history["elbo"].notna().all())
    assert bool(pv.log_marginal(vae, x, num_samples=8, row_samples=4, seed=0).log_marginal.isfinite().all())
