"""ELBO and log p(x) against closed forms, with their errors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import pyrovae as pv
from pyrovae.models.distributions import Multinomial
from tests.oracles import ExactGuide, LinearGaussian, WideGuide


@pytest.fixture
def wide():
    model = LinearGaussian()
    return pv.VAE(model, WideGuide(model))


def test_elbo_equals_its_closed_form_within_its_error(wide):
    x = wide.model.data(300)
    result = pv.elbo(wide, x, num_samples=50, seed=0)
    truth = (wide.guide.reconstruction(x) - wide.guide.kl(x)).detach()
    z_scores = (result.elbo - truth) / result.std_error
    assert float(z_scores.mean().abs()) < 4 / math.sqrt(300)
    assert 0.8 < float(z_scores.std()) < 1.2
    torch.testing.assert_close(result.rate, wide.guide.kl(x).detach())
    torch.testing.assert_close(result.elbo, result.reconstruction - result.rate)


def test_elbo_is_below_log_p_and_both_frames_have_their_columns(wide):
    x = wide.model.data(20)
    bound = pv.elbo(wide, x, num_samples=2000, seed=0)
    marginal = pv.log_marginal(wide, x, num_samples=2000, seed=0)
    assert bool((bound.elbo < marginal.log_marginal).all())
    assert list(bound.to_frame()) == ["elbo", "reconstruction", "rate"]
    assert list(marginal.to_frame()) == ["log_marginal", "std_error", "ess", "khat", "elbo"]
    assert len(marginal.to_frame()) == len(marginal) == 20
    assert "log p(x)" in str(marginal)
    assert "ELBO" in str(bound)


@pytest.mark.parametrize("num_samples", [50, 1000])
def test_the_standard_error_covers_the_truth_at_its_rate(wide, num_samples):
    # 400 rows are 400 independent repetitions; a 95 % interval covers 380 of them, give or take 4.4.
    x = wide.model.data(400)
    result = pv.log_marginal(wide, x, num_samples=num_samples, seed=1)
    truth = wide.model.evidence().log_prob(x)
    covered = ((result.log_marginal - truth).abs() < 1.96 * result.std_error).double().mean()
    assert 0.90 < float(covered) < 0.99


def test_the_estimate_errs_low_by_half_its_variance(wide):
    x = wide.model.data(1).expand(2560, -1)
    truth = wide.model.evidence().log_prob(x)
    biases = {}
    for S in (5, 20):
        result = pv.log_marginal(wide, x, num_samples=S, seed=S)
        error = result.log_marginal - truth
        biases[S] = float(error.mean())
        standard_error = float(error.std()) / math.sqrt(len(x))
        assert biases[S] == pytest.approx(-0.5 * float(error.var()), abs=5 * standard_error)
    assert biases[5] < biases[20] < 0
    assert biases[5] / biases[20] == pytest.approx(4, rel=0.35)  # of order 1/S


def test_with_the_exact_posterior_every_weight_is_the_evidence():
    model = LinearGaussian(K=3, D=10)
    x = model.data(50)
    vae = pv.VAE(model, ExactGuide(model))
    result = pv.log_marginal(vae, x, num_samples=20, seed=0)
    assert float(result.std_error.max()) < 1e-4
    assert float(result.bias.max()) <= 0
    assert "± 0.000 (Monte Carlo), errs low by at least 0.000 nats per row" in str(result)
    torch.testing.assert_close(result.log_marginal, model.evidence().log_prob(x))
    torch.testing.assert_close(result.ess, torch.full((50,), 20.0, dtype=torch.float64))
    torch.testing.assert_close(pv.elbo(vae, x, num_samples=3000).elbo, result.log_marginal, atol=0.2, rtol=0)


def test_num_samples_is_honoured_exactly():
    # Equal weights have an effective sample size of exactly their number.
    model = LinearGaussian()
    vae, x = pv.VAE(model, ExactGuide(model)), model.data(7)
    for S in (1, 3, 10, 1001):
        for chunk_size in (None, 4, 5000):
            ess = pv.log_marginal(vae, x, num_samples=S, chunk_size=chunk_size, seed=0).ess
            torch.testing.assert_close(ess, torch.full((7,), float(S), dtype=torch.float64))


def test_a_single_sample_has_no_error(wide):
    result = pv.log_marginal(wide, wide.model.data(3), num_samples=1)
    assert bool(result.std_error.isnan().all())
    assert bool(pv.elbo(wide, wide.model.data(3), num_samples=1).std_error.isnan().all())
    assert "±" not in str(result)
    assert "errs low" not in str(result)
    assert bool(result.unknown.all())
    assert not bool(result.unreliable.any())
    assert "Pareto k unknown: too few different draws to fit a tail" in str(result)


def test_ten_draws_of_a_good_guide_are_not_called_unreliable(wide):
    result = pv.log_marginal(wide, wide.model.data(30), num_samples=10, seed=0)
    assert bool(result.khat.isinf().all())
    assert not bool(result.unreliable.any())
    assert math.isnan(result.share_good)
    assert "Pareto k unknown" in str(result)
    good = pv.log_marginal(wide, wide.model.data(30), num_samples=1000, seed=0)
    assert "Pareto k below 0.67 for 100.0% of rows" in str(good)


def test_figures_do_not_depend_on_what_is_scored_at_once(wide):
    x = wide.model.data(300)  # more than one block of rows
    reference = pv.log_marginal(wide, x, num_samples=103, seed=5)
    for batch_size, chunk_size in ((1000, 1000), (7, 10), (64, 1), (1, 103)):
        other = pv.log_marginal(
            wide, x, num_samples=103, seed=5, batch_size=batch_size, chunk_size=chunk_size
        )
        torch.testing.assert_close(reference.log_marginal, other.log_marginal, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(reference.khat, other.khat, rtol=1e-6, atol=1e-6)


def test_a_seed_decides_everything_and_leaves_the_random_state(wide):
    x = wide.model.data(5)
    before = torch.get_rng_state()
    a, b = (pv.log_marginal(wide, x, num_samples=10, seed=2).log_marginal for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(9)
    c = pv.log_marginal(wide, x, num_samples=10).log_marginal
    torch.manual_seed(9)
    assert torch.equal(c, pv.log_marginal(wide, x, num_samples=10).log_marginal)
    assert not torch.equal(c, pv.log_marginal(wide, x, num_samples=10).log_marginal)


def test_rows_without_weight_are_named():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1e-30), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    with pytest.raises(ValueError, match="importance weights of row 0, 1, 2 are all zero"):
        pv.log_marginal(pv.VAE(model, guide), torch.ones(3), num_samples=10)


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "chunk_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_counts_are_checked(wide, name, value):
    with pytest.raises(ValueError, match=f"{name} is .* at least 1"):
        pv.log_marginal(wide, wide.model.data(3), **{name: value})


def test_a_linear_vae_is_probabilistic_pca():
    """Lucas et al., "Don't Blame the ELBO!" (2019): trained, it reaches the evidence of PCA."""
    x = torch.as_tensor(load_digits().data / 16, dtype=torch.float32)
    decoder, scale = pv.nn.MLP(8, 64), pv.nn.PositiveParameter(0.3)
    vae = pv.VAE(
        pv.models.LatentVariableModel(pv.models.StandardNormal(8), pv.models.Normal(decoder, scale=scale)),
        pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(64, (8, 8)))),
    )
    for epochs, batch_size, rate in ((400, 256, 1e-2), (150, 512, 1e-3)):
        pv.fit(
            vae,
            x,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=lambda p, rate=rate: torch.optim.Adam(p, lr=rate),
            seed=0,
            progress=False,
        )
    weight, bias = (p.detach().double() for p in (decoder.heads[0].weight, decoder.heads[0].bias))
    covariance = weight @ weight.T + scale().detach().double() ** 2 * torch.eye(64, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(bias, covariance).log_prob(x.double())
    reachable = PCA(8).fit(x.numpy()).score(x.numpy())
    result = pv.log_marginal(vae, x, num_samples=200, seed=0)
    assert float(truth.mean()) == pytest.approx(reachable, abs=0.05)
    assert float(truth.mean()) < reachable + 1e-3
    assert float(result.log_marginal.mean()) == pytest.approx(float(truth.mean()), abs=0.02)
    covered = ((result.log_marginal - truth).abs() < 1.96 * result.std_error).double().mean()
    assert 0.90 < float(covered) < 0.99


class Levels(torch.nn.Module):
    """z2 -> z1 -> x, and a guide of the other order."""

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 0.5), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.7 * x, 0.5))
            pyro.sample("z2", dist.Normal(0.6 * z1, 0.6))


def test_the_rate_of_a_guide_that_does_not_follow_the_models_order():
    levels = Levels()
    vae, x = pv.VAE(levels.model, levels.guide), torch.randn(200)
    a, b = pv.elbo(vae, x, num_samples=2000, seed=0), pv.log_marginal(vae, x, num_samples=2000, seed=1)
    noise = float((2 * a.std_error**2).mean().sqrt()) / 200**0.5
    assert float(a.elbo.mean()) == pytest.approx(float(b.elbo.mean()), abs=5 * noise)


def test_closed_forms_of_unexpanded_priors():
    def model(x):
        with pyro.plate("rows", len(x)):
            p = pyro.sample("p", dist.Uniform(0.0, 1.0))
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Bernoulli(0.5 * p + 0.3 * k), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("p", dist.Beta(torch.full((len(x),), 2.0), 3.0))
            pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.4)))

    x = torch.bernoulli(torch.full((300,), 0.4))
    result = pv.elbo(pv.VAE(model, guide), x, num_samples=20, seed=0)
    beta = torch.distributions.kl_divergence(
        torch.distributions.Beta(torch.tensor(2.0), torch.tensor(3.0)), torch.distributions.Uniform(0.0, 1.0)
    )
    bernoulli = 0.4 * math.log(0.4 / 0.3) + 0.6 * math.log(0.6 / 0.7)
    torch.testing.assert_close(result.rate, torch.full((300,), float(beta) + bernoulli, dtype=torch.float64))


@pytest.mark.parametrize("total", [1e5, 1e6])
def test_errors_of_large_counts_cover_rounding(total):
    """Counts that do not depend on z, guided by the prior: weights are constant, and what is left is rounding."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(50, generator=generator)
    x = torch.distributions.Multinomial(int(total), logits=logits).sample((20,))

    def latent(x):
        return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def model(x):
        with pyro.plate("rows", len(x)):
            z = latent(x)
            pyro.sample("x", Multinomial(logits + 0 * z[..., :1], torch.tensor(total)), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            latent(x)

    vae = pv.VAE(model, guide)
    probabilities = logits.double().softmax(-1).numpy()
    exact = torch.as_tensor(scipy.stats.multinomial.logpmf(x.double().numpy(), int(total), probabilities))
    for found in (pv.log_marginal(vae, x, num_samples=10), pv.elbo(vae, x, num_samples=10)):
        estimate = found.elbo if isinstance(found, pv.Elbo) else found.log_marginal
        assert bool((found.std_error > 0).all())
        assert bool(((estimate - exact).abs() <= found.std_error).all())
