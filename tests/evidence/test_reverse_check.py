"""What a guide misses, found on simulated rows: against divergences in closed form, and modes that are known."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.criticism import inference_gap
from pyrovae.evidence.reverse_check import ReverseCheck
from pyrovae.plots.panels.importance_weights import of_weights
from tests.components import MODELS
from tests.oracles import ExactGuide, LinearGaussian, WideGuide
from tests.pairs import binary_rows, methods


def square(x):
    """x ~ N(z^2, 0.4): the posterior has a mode on either side, equal in all."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z**2, 0.4), obs=x)


def positive(x):
    return dist.Normal(x.clamp(min=0.05).sqrt(), (0.2 / x.clamp(min=0.05).sqrt()).clamp(max=0.5))


def positive_side(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", positive(x))


def both_sides(x):
    q = positive(x)
    sides = dist.Normal(torch.stack([q.loc, -q.loc], -1), torch.stack([q.scale, q.scale], -1))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.ones(len(x), 2)), sides))


def squares(N, seed=1):
    vae = pv.VAE(square, both_sides, example=torch.rand(5))
    return vae.sample_prior(N, seed=seed)[1]["x"]


def sided(guide):
    return pv.VAE(square, guide, example=torch.rand(5))


def scaled(K, factor):
    """A posterior whose dimensions are independent, and a guide whose scales are off by a factor."""
    model = LinearGaussian(K=K, D=K + 1)
    with torch.no_grad():
        model.W.zero_()
        model.W[range(K), range(K)] = 1.0
    return pv.VAE(model, WideGuide(model, factor, 0.0), example=model.data(5))


def truth_of_squares(x):
    """log p(x) by quadrature."""
    z = torch.linspace(-8, 8, 20001, dtype=torch.float64)[:, None]
    joint = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    joint = joint + torch.distributions.Normal(z**2, 0.4).log_prob(x.double())
    return torch.trapezoid(joint.exp(), z, dim=0).log()


@pytest.mark.parametrize("K, factor", [(1, 0.8), (3, 0.9), (2, 1.2)])
def test_the_excess_is_the_divergence_in_closed_form(K, factor):
    found = pv.reverse_check(scaled(K, factor), num_rows=4000, num_samples=400, seed=0)
    truth = K * (math.log(factor) + (1 / factor**2 - 1) / 2)
    for values in (found.excess, found.divergence):
        assert float(values.mean()) == pytest.approx(truth, abs=4 * float(values.std()) / math.sqrt(4000))
    assert bool((found.divergence >= 0).all())
    assert float(found.divergence.std()) < float(found.excess.std())


@pytest.mark.parametrize("factor", [0.5, 0.7])
def test_the_bound_holds_of_what_log_marginal_errs_by(factor):
    vae = scaled(4, factor)
    x = vae.model.data(3000)
    found = pv.reverse_check(vae, num_rows=3000, num_samples=100, seed=0)
    errors = pv.log_marginal(vae, x, num_samples=100, seed=1).log_marginal - vae.model.evidence().log_prob(x)
    bound, error = found.bias_bound
    assert -float(errors.mean()) < bound + 2 * error
    assert bound < 6 * -float(errors.mean())  # and is no empty word


def test_exact_guides_are_never_accused():
    for seed in range(20):
        model = LinearGaussian(K=1 + seed % 4, D=4, scale=0.1 + 0.1 * seed, seed=seed)
        vae = pv.VAE(model, ExactGuide(model), example=model.data(5))
        found = pv.reverse_check(vae, num_rows=50, num_samples=50, seed=seed)
        assert found.passed
        assert not found.poor
        assert found.harmless
        assert float(found.excess.abs().max()) < 1e-4
        assert "nothing against the guide" in str(found)


def test_nearly_exact_guides_pass():
    vae = scaled(1, 0.95)  # KL 0.003
    assert sum(pv.reverse_check(vae, num_rows=200, seed=seed).passed for seed in range(20)) >= 19


@pytest.mark.parametrize(
    "make", [lambda: sided(positive_side), lambda: scaled(1, 0.8), lambda: scaled(5, 0.5)]
)
def test_broken_guides_are_found(make):
    vae = make()
    assert sum(not pv.reverse_check(vae, num_rows=200, seed=seed).passed for seed in range(10)) >= 9


def test_a_missing_mode_is_poor_whatever_pareto_k_says_and_two_modes_are_not():
    x = squares(100)
    missing, both = (
        pv.diagnose(sided(guide), x, num_samples=1000, seed=0) for guide in (positive_side, both_sides)
    )
    assert missing.verdict == "poor"
    assert "GUIDE: POOR" in str(missing)
    assert "the guide is NOT the posterior" in str(missing)
    lacking = float((truth_of_squares(x) - missing.quality.log_marginal).mean())
    # Where x is small the sides meet, and less than half is missed: what is said is not above the truth.
    assert 0.2 < -math.log1p(-missing.reverse.share_missed) < lacking + 0.1
    assert both.reverse.mean_excess[0] < 0.5
    assert both.verdict == "good"
    assert "GUIDE: good for importance weights." in str(both)


def test_a_missing_mode_that_leaves_every_pareto_k_good():
    def wide_on_the_positive_side(x):
        q = positive(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(q.loc, 1.3 * q.scale))

    x = torch.linspace(2.0, 5.0, 50)
    page = pv.diagnose(sided(wide_on_the_positive_side), x, num_samples=1000, seed=0)
    assert page.quality.verdict == "good"
    lacking = truth_of_squares(x) - page.quality.log_marginal
    torch.testing.assert_close(lacking, torch.full_like(lacking, math.log(2)), atol=0.05, rtol=0)
    assert page.verdict == "poor"
    assert "GUIDE: POOR" in str(page)
    assert any("richer family" in line for line in page.advice())
    assert "more likely too low" in of_weights(page.quality, page.reverse).sentence


def test_a_model_is_not_better_than_itself_under_a_guide_that_misses_a_mode():
    vaes = {"both": sided(both_sides), "one": sided(positive_side)}
    for seed in range(3):
        result = pv.compare(vaes, squares(200), num_samples=1000, seed=seed)
        assert "'both' is ahead, perhaps by a better guide only, of 'one'" in str(result)
        assert list(result.reverse) == ["one"]
        # By weights alone it is better: what is told apart is not the models.
        assert "'both' is better than 'one'" in str(replace(result, reverse={}))


def test_gaps_without_a_posterior_with_covariances_are_at_least_what_is_said(monkeypatch):
    monkeypatch.setattr(
        inference_gap, "_with_covariances", lambda *arguments, **settings: (None, "too large")
    )
    model = LinearGaussian()
    page = pv.diagnose(pv.VAE(model, WideGuide(model)), model.data(20), num_samples=100, gap_rows=4, seed=0)
    assert page.gaps.loc["inference", "bound"] == ">="
    assert "those with covariances failed: too large" in str(page)


def test_gaps_of_a_missing_mode_are_at_least_what_is_said():
    page = pv.diagnose(sided(positive_side), squares(30), num_samples=500, gap_rows=6, seed=0)
    assert page.gaps.loc[["approximation", "inference"], "bound"].tolist() == [">=", ">="]
    assert "so does the refined one" in str(page)


def test_log_marginal_says_what_pareto_k_cannot_see():
    found = pv.log_marginal(sided(positive_side), squares(10), num_samples=200, seed=0)
    assert "No k can tell of a mode that the draws miss; reverse_check() can." in str(found)


def gamma_pair():
    """A Gamma(10) posterior and its lognormal: every tail is too light, and next to nothing lacks."""

    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.full((len(x),), 10.0), 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            shape = x + 10.0
            pyro.sample("rate", dist.LogNormal(torch.digamma(shape) - math.log(2), shape.rsqrt()))

    return pv.VAE(model, guide, example=torch.ones(5))


def test_tails_that_do_no_harm_are_left_alone():
    vae = gamma_pair()
    x = vae.sample_prior(100, seed=0)[1]["x"]
    page = pv.diagnose(vae, x, num_samples=1000, seed=0)
    assert page.reverse.harmless
    assert page.verdict == "good"


def test_tails_are_not_left_alone_where_the_rows_are_unlike_simulated_ones():
    vae = scaled(1, 0.9)

    def guide(x):  # good where the model puts its rows, far too narrow where these are
        exact = vae.model.posterior(x)
        scale = exact.variance.sqrt() * torch.where(x[:, :1] > 10, 0.2, 0.95)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(exact.mean, scale).to_event(1))

    x = vae.model.data(50) + 20.0
    page = pv.diagnose(pv.VAE(vae.model, guide), x, num_samples=1000, seed=0)
    assert page.reverse.harmless
    assert page.verdict == "poor"


def test_enumerated_latents_context_and_several_sites():
    mixture = pv.VAE(*MODELS["GaussianMixture"].make())
    mixture.rows(*MODELS["GaussianMixture"].data(9))
    exact = pv.reverse_check(mixture, num_rows=30, num_samples=20, seed=0)  # nothing is left to a guide
    assert float(exact.excess.abs().max()) < 1e-5
    vae, context = methods(), (torch.eye(3)[torch.arange(20) % 3], 2.0)
    vae.rows(binary_rows(20), *context)
    found, again = (
        pv.reverse_check(
            vae, *context, num_rows=20, num_samples=30, as_x=lambda o: next(iter(o.values())), seed=0
        )
        for _ in range(2)
    )
    assert bool(found.excess.isfinite().all())
    assert torch.equal(found.excess, again.excess)
    levels = pv.VAE(*MODELS["HierarchicalModel"].make())
    levels.rows(*MODELS["HierarchicalModel"].data(9))
    assert pv.reverse_check(levels, num_rows=20, num_samples=30, seed=0).excess.isfinite().all()


def test_rows_that_cannot_be_simulated():
    with pytest.raises(ValueError, match="num_rows is 1"):
        pv.reverse_check(scaled(1, 1.0), num_rows=1)

    def reads_x(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.1 * x, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    page = pv.diagnose(pv.VAE(reads_x, guide), torch.randn(20), num_samples=50, seed=0)
    assert page.reverse is None
    assert any(note.startswith("no reverse check: ") for note in page.notes)
    assert "Pareto k cannot see modes that the guide misses." in str(page)


@pytest.mark.parametrize("mean, impossible", [(-1.5, True), (-0.05, False), (0.0, False), (2.0, False)])
def test_a_divergence_below_zero_is_laid_to_the_model(mean, impossible):
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = torch.full((200,), -3.0, dtype=torch.float64)
    found = ReverseCheck(level + mean + noise - noise.mean(), level, level, 1000)
    assert found.impossible is impossible
    assert ("draws and its densities disagree" in str(found)) is impossible
