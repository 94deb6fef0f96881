"""Chunks by their traced and compiled operations: the figures of plain Pyro, and plain Pyro where that cannot be."""

import logging
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.traced.traced import Traced
from tests.oracles import LinearGaussian, WideGuide

METHODS = {
    "guide": pv.ImportanceSampling(),
    "mixture": pv.ImportanceSampling(prior_share=0.2),
    "prior": pv.ImportanceSampling(prior_share=1),
    "annealed": pv.AnnealedImportanceSampling(num_temperatures=5, num_leapfrog_steps=2),
    "annealed from the guide": pv.AnnealedImportanceSampling(5, 2, from_guide=True),
}


@pytest.fixture
def digits():
    torch.manual_seed(0)
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 20, [16]))
    )
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(20, (2, 2), [16]))))
    return vae, torch.bernoulli(torch.full((30, 20), 0.3))


@pytest.fixture
def traced(monkeypatch):
    """How many computations were traced; however few calls."""
    runs = []
    trace = Traced._trace

    def counted(self, *given):
        runs.append(trace(self, *given))
        return runs[-1]

    monkeypatch.setattr("pyrovae.traced.repeated.CALLS_TO_TRACE", 0)
    monkeypatch.setattr("pyrovae.traced.traced.tracing_pays_off", lambda work, calls, **_: True)
    monkeypatch.setattr(Traced, "_trace", counted)
    return runs


@pytest.mark.parametrize("method", METHODS)
def test_traced_figures_are_those_of_plain_pyro(digits, traced, method):
    vae, x = digits
    given = {"num_samples": 23, "method": METHODS[method], "seed": 3}
    if method not in ("mixture", "prior"):  # draws of the prior are scored as they are drawn
        given["chunk_size"] = 10
    plain = pv.log_marginal(vae, x, compile=False, **given)
    assert not traced
    fast = pv.log_marginal(vae, x, **given)
    assert traced
    np.testing.assert_allclose(fast.to_frame(), plain.to_frame(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["mixture", "annealed"])
def test_compiled_figures_are_those_of_plain_pyro_to_rounding(digits, traced, method):
    vae, x = digits
    given = {"num_samples": 64, "method": METHODS[method], "seed": 3}
    plain = pv.log_marginal(vae, x, compile=False, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of not being compiled
        fast = pv.log_marginal(vae, x, compile=True, **given)
    np.testing.assert_allclose(fast.log_marginal, plain.log_marginal, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_traced_operations_run(digits, traced, monkeypatch):
    def without(*given):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("pyrovae.traced.traced.compiled", without)
    vae, x = digits
    plain = pv.log_marginal(vae, x, num_samples=20, compile=False, seed=0)
    with pytest.warns(
        UserWarning, match="chunks are traced but not compiled: RuntimeError: no compiler here"
    ):
        fast = pv.log_marginal(vae, x, num_samples=20, compile=True, seed=0)
    torch.testing.assert_close(fast.log_marginal, plain.log_marginal)


def test_a_compiled_run_that_errs_is_not_used(digits, traced, monkeypatch):
    monkeypatch.setattr(
        "pyrovae.traced.traced.compiled",
        lambda graph, given: lambda *some: [r * 1.001 for r in graph.forward(*some)],
    )
    vae, x = digits
    plain = pv.log_marginal(vae, x, num_samples=20, compile=False, seed=0)
    with pytest.warns(UserWarning, match="its trace gives other numbers"):
        fast = pv.log_marginal(vae, x, num_samples=20, compile=True, seed=0)
    torch.testing.assert_close(fast.log_marginal, plain.log_marginal)


def test_programs_that_look_at_values_run_as_plain_pyro(traced, caplog):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * (2.0 if bool((x > 100).any()) else 1.0), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.tensor([0.3, -1.0])
    exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(x).double()
    vae = pv.VAE(model, guide)
    with pytest.warns(UserWarning, match="chunks run as plain Pyro: .* looks at values of a tensor"):
        result = pv.log_marginal(vae, x, num_samples=2000, compile=True, seed=0)
    assert bool(((result.log_marginal - exact).abs() < 4.5 * result.std_error).all())
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "pyrovae"):
        warnings.simplefilter("error")
        again = pv.log_marginal(vae, x, num_samples=2000, seed=0)
    torch.testing.assert_close(again.log_marginal, result.log_marginal)
    assert "chunks run as plain Pyro: " in caplog.text
    assert "looks at values of a tensor" in caplog.text


def exponential_prior(posterior):
    """z ~ Exponential(3), which x does not depend on, so that log p(x) is known whatever the guide."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Exponential(3.0))
            pyro.sample("x", dist.Normal(0 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", posterior.expand([len(x)]))

    return pv.VAE(model, guide), torch.zeros(1)


def test_draws_outside_the_priors_support_weigh_nothing_where_nothing_checks_them(traced):
    vae, x = exponential_prior(dist.StudentT(3.0, 0.3, 0.5))  # a quarter of it is negative
    with pytest.raises(ValueError, match="in the model it is Exponential, of support"):
        pv.log_marginal(vae, x, num_samples=4000, compile=False, seed=1)
    with pyro.validation_enabled(False):
        result = pv.log_marginal(vae, x, num_samples=4000, seed=1)
    assert traced
    assert float(result.std_error) < 0.05  # densities that went on below 0 would grow without limit
    assert abs(float(result.log_marginal) + 0.5 * math.log(2 * math.pi)) < 4.5 * float(result.std_error)
    # A draw in fifty: none in the first chunk, which is checked.
    vae, x = exponential_prior(dist.Normal(0.4, 0.2))
    with pyro.validation_enabled(False):
        plain = pv.log_marginal(vae, x, num_samples=4000, compile=False, seed=1)
    result = pv.log_marginal(vae, x, num_samples=4000, chunk_size=5, seed=1)
    torch.testing.assert_close(result.log_marginal, plain.log_marginal)


def test_few_calls_are_not_traced_and_compile_is_checked(digits, monkeypatch):
    vae, x = digits
    monkeypatch.setattr(Traced, "_trace", lambda self, *given: pytest.fail("traced"))
    pv.log_marginal(vae, x, num_samples=10)
    with pytest.raises(ValueError, match="compile is 'yes': expected 'auto', True or False"):
        pv.log_marginal(vae, x, num_samples=10, compile="yes")


def test_the_next_call_sees_changed_parameters(traced):
    model = LinearGaussian()
    vae, x = pv.VAE(model, WideGuide(model)), model.data(4)
    first = pv.log_marginal(vae, x, num_samples=50, seed=0).log_marginal
    with torch.no_grad():
        model.b += 1.0
    second = pv.log_marginal(vae, x, num_samples=50, seed=0).log_marginal
    torch.testing.assert_close(
        second, pv.log_marginal(vae, x, num_samples=50, seed=0, compile=False).log_marginal
    )
    assert not torch.allclose(first, second)
