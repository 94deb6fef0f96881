"""Probabilistic PCA and factor analysis against scikit-learn, and our estimates against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis

import pyrovae as pv
from pyrovae.guides import ExactGuide
from pyrovae.models import LinearGaussian

X = load_digits().data / 16.0
# Factor analysis gives a constant pixel no noise at all.
VARYING = X[:, X.std(0) > 0.05]


def pca_model() -> tuple[LinearGaussian, np.ndarray]:
    pca = PCA(8, svd_solver="full").fit(X)
    loading = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    model = LinearGaussian(8, 64).set_parameters(pca.mean_, loading, pca.noise_variance_)
    return model, pca.score_samples(X)


def factor_model() -> tuple[LinearGaussian, np.ndarray]:
    fa = FactorAnalysis(5, random_state=0).fit(VARYING)
    model = LinearGaussian(5, VARYING.shape[1], noise_per_feature=True)
    return model.set_parameters(fa.mean_, fa.components_.T, fa.noise_variance_), fa.score_samples(VARYING)


@pytest.mark.parametrize("make, data", [(pca_model, X), (factor_model, VARYING)])
class TestAgainstScikitLearn:
    def test_evidence(self, make, data):
        model, expected = make()
        assert np.abs(model.log_marginal(torch.tensor(data).float()).detach().numpy() - expected).max() < 1e-4

    def test_importance_weights_do_not_vary(self, make, data):
        model, expected = make()
        x = torch.tensor(data[:100]).float()
        vae = pv.VAE(model, ExactGuide(model))
        result = pv.log_marginal(vae, x, num_samples=50, seed=0)
        assert float(result.std_error.max()) < 1e-4
        assert np.abs(result.log_marginal.numpy() - expected[:100]).max() < 1e-4
        assert float(result.ess.min()) > 49.99

    def test_elbo_is_the_evidence(self, make, data):
        """Draw by draw: log p(x|z) + log p(z) - log p(z|x) does not depend on z."""
        model, expected = make()
        bound = pv.elbo(
            pv.VAE(model, ExactGuide(model)), torch.tensor(data[:100]).float(), num_samples=2, seed=0
        )
        assert np.abs(bound.elbo.numpy() - expected[:100]).max() < 1e-4
        assert float(bound.std_error.max()) < 1e-4


def test_posterior_is_bayes_theorem():
    """log p(x|z) + log p(z) - log p(z|x) = log p(x) at any z, not only at draws."""
    torch.manual_seed(0)
    model = LinearGaussian(2, 5, noise_per_feature=True)
    model.set_parameters(torch.randn(5), torch.randn(5, 2), torch.rand(5) + 0.1)
    x, z = torch.randn(4, 5), 3 * torch.randn(7, 4, 2)
    scale = model.noise_scale()
    joint = torch.distributions.Normal(z @ model.loading.mT + model.mean, scale).log_prob(x).sum(-1)
    joint = joint + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    evidence = joint - model.posterior(x).log_prob(z)
    torch.testing.assert_close(evidence, model.log_marginal(x).expand(7, 4), atol=1e-4, rtol=1e-5)


def test_maximum_likelihood_is_a_maximum():
    """The gradient vanishes, and scikit-learn's estimate (which divides by N - 1) is no better."""
    x = torch.tensor(X).float()
    model = LinearGaussian(8, 64).set_maximum_likelihood(x)
    mean = model.log_marginal(x).mean()
    mean.backward()
    largest = max(float(p.grad.abs().max()) for p in model.parameters())
    assert largest < 1e-3
    best = mean.item()
    assert 0 <= best - pca_model()[1].mean() < 1e-3
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.02)
            assert model.log_marginal(x).mean().item() < best - 1e-3
            p.div_(1.02)


def test_training_with_the_exact_guide_climbs_the_evidence():
    torch.manual_seed(0)
    x = torch.tensor(X[:300]).float()
    model = LinearGaussian(3, 64)
    vae = pv.VAE(model, ExactGuide(model))
    before = model.log_marginal(x).mean().item()
    pv.fit(
        vae,
        x,
        epochs=20,
        batch_size=300,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
        seed=0,
        progress=False,
    )
    best = LinearGaussian(3, 64).set_maximum_likelihood(x).log_marginal(x).mean().item()
    assert before + 20 < model.log_marginal(x).mean().item() < best


def test_leading_dimensions_generate_and_files(tmp_path):
    torch.manual_seed(0)
    model, _ = pca_model()
    x = torch.tensor(X[:6]).float()
    torch.testing.assert_close(model.log_marginal(x.reshape(2, 3, 64)).reshape(6), model.log_marginal(x))
    assert model.posterior(x.reshape(2, 3, 64)).batch_shape == (2, 3)
    vae = pv.VAE(model, ExactGuide(model), example=x)
    assert vae.layout.guide_broadcasts
    assert vae.layout.model_broadcasts
    torch.testing.assert_close(vae.encode(x), model.posterior(x).mean)
    draws = vae.generate(20_000)
    error = 5 * draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - model.mean).abs() < error).all())
    vae.save(tmp_path / "model.safetensors")
    other = LinearGaussian(8, 64)
    pv.VAE(other, ExactGuide(other)).load(tmp_path / "model.safetensors")
    assert torch.equal(other.log_marginal(x), model.log_marginal(x))


class TestBadInput:
    def test_sizes(self):
        with pytest.raises(ValueError, match=r"latent_size is 5 and num_features 5"):
            LinearGaussian(5, 5)
        with pytest.raises(ValueError, match=r"\[3, 4\]: expected \[N, 5\] with N above 3"):
            LinearGaussian(2, 5).set_maximum_likelihood(torch.zeros(3, 4))
        with pytest.raises(ValueError, match=r"loading has shape \[2, 5\]: the model's is \[5, 2\]"):
            LinearGaussian(2, 5).set_parameters(torch.zeros(5), torch.zeros(2, 5), 1.0)

    def test_no_noise(self):
        model = LinearGaussian(2, 5)
        before = {n: p.clone() for n, p in model.named_parameters()}
        with pytest.raises(ValueError, match=r"smallest noise variance is 0: .* smaller latent_size"):
            model.set_maximum_likelihood(torch.ones(9, 5))
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())

    def test_factor_analysis_has_no_closed_form(self):
        with pytest.raises(ValueError, match=r"no maximum of the likelihood in closed form"):
            LinearGaussian(2, 5, noise_per_feature=True).set_maximum_likelihood(torch.zeros(9, 5))

    def test_a_model_without_posterior(self):
        with pytest.raises(TypeError, match=r"Linear has no method posterior"):
            ExactGuide(torch.nn.Linear(1, 1))
