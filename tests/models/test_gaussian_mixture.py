"""The Gaussian mixture against scikit-learn's: densities and responsibilities, and SVI against EM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import mixture

import pyrovae as pv
from pyrovae.guides import EmptyGuide
from pyrovae.models import GaussianMixture

RESTARTS = 5


def clusters(rows: int) -> np.ndarray:
    """Five clusters in the plane, of different weights, spreads and tilts."""
    random = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [4.0, 1.0], [-3.0, 3.0], [-2.0, -4.0], [3.0, -3.0]])
    factors = np.array(
        [
            [[0.8, 0.0], [0.5, 0.4]],
            [[0.5, 0.0], [-0.6, 0.7]],
            [[1.2, 0.0], [0.8, 0.3]],
            [[0.4, 0.0], [0.0, 1.0]],
            [[0.7, 0.0], [0.2, 0.6]],
        ]
    )
    component = random.choice(5, rows, p=[0.35, 0.2, 0.2, 0.15, 0.1])
    return means[component] + np.einsum("nij,nj->ni", factors[component], random.normal(size=(rows, 2)))


X = clusters(1000)


def em(restarts: int = 1, seed: int = 0) -> mixture.GaussianMixture:
    """EM from rows drawn at random, as `start_at` draws them."""
    return mixture.GaussianMixture(
        5, n_init=restarts, init_params="random_from_data", max_iter=1000, random_state=seed
    ).fit(X)


def with_parameters_of(fitted: mixture.GaussianMixture) -> GaussianMixture:
    return GaussianMixture(5, 2).set_parameters(fitted.weights_, fitted.means_, fitted.covariances_)


class TestAgainstScikitLearn:
    def test_densities_and_responsibilities(self):
        fitted, x = em(), torch.tensor(X).float()
        model = with_parameters_of(fitted)
        far = torch.cat([x, torch.tensor([[40.0, -30.0], [-100.0, 5.0]])])
        expected, shares = fitted.score_samples(far.double()), fitted.predict_proba(far.double())
        assert np.abs(model.log_marginal(x).detach().numpy() - expected[:-2]).max() < 1e-4
        np.testing.assert_allclose(model.log_marginal(far).detach().numpy(), expected, rtol=1e-5)
        assert np.abs(model.responsibilities(far).detach().numpy() - shares).max() < 1e-4
        vae = pv.VAE(model, EmptyGuide())
        assert np.abs(pv.elbo(vae, x).elbo.numpy() - expected[:-2]).max() < 1e-4
        estimate = pv.log_marginal(vae, x, num_samples=3)
        assert np.abs(estimate.log_marginal.numpy() - expected[:-2]).max() < 1e-4
        assert float(estimate.std_error.max()) < 1e-6

    def test_training_reaches_em(self):
        """The better of equal numbers of random starts, on the rows that both were fitted to."""
        x = torch.tensor(X).float()
        found = []
        for seed in range(RESTARTS):
            torch.manual_seed(seed)
            vae = pv.VAE(GaussianMixture(5, 2).start_at(x), EmptyGuide())
            pv.fit(
                vae,
                x,
                epochs=50,
                batch_size=250,
                seed=seed,
                progress=False,
                optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
            )
            found.append(float(vae.model.log_marginal(x).detach().mean()))
        expected = em(RESTARTS).score(X)
        single = [em(1, seed).score(X) for seed in range(RESTARTS)]
        print(f"\nmean log p(x): SVI {max(found):.4f}, the best of {np.round(found, 3)}")
        print(f"               EM  {expected:.4f}, the best of {RESTARTS} such as {np.round(single, 3)}")
        assert max(found) > expected - 0.05
        # The maximum is EM's too: nothing has closed on a point.
        assert max(found) < expected + 0.05


def test_draws_of_the_component_follow_the_responsibilities():
    x, S = torch.tensor(X[:20]).float(), 4000
    model = with_parameters_of(em())
    draws = pv.VAE(model, EmptyGuide()).sample_posterior(x, num_samples=S)["k"]
    frequencies = torch.stack([(draws == k).float().mean(0) for k in range(5)], -1)
    shares = model.responsibilities(x).detach()
    error = (shares * (1 - shares) / S).sqrt()
    assert bool(((frequencies - shares).abs() <= 5 * error + 2 / S).all())


def test_generated_rows_have_the_mixtures_moments():
    model, N = with_parameters_of(em()), 20000
    rows = pv.VAE(model, EmptyGuide(), example=torch.tensor(X).float()).generate(N).double()
    weights, means = model.logits.double().softmax(0), model.locations.double()
    within = (model.scale_tril @ model.scale_tril.mT).double()
    mean = weights @ means
    spread = means - mean
    covariance = torch.einsum("c,cij->ij", weights, within + spread.unsqueeze(-1) * spread.unsqueeze(-2))
    products = (rows - mean).unsqueeze(-1) * (rows - mean).unsqueeze(-2)
    for draws, exact in ((rows, mean), (products, covariance)):
        assert bool(((draws.mean(0) - exact).abs() < 5 * draws.std(0) / N**0.5).all())


def test_starts_are_rows_and_differ():
    x = torch.tensor(X).float()
    starts = [GaussianMixture(5, 2).start_at(x) for _ in range(2)]
    for model in starts:
        assert bool((model.locations.unsqueeze(1) == x).all(-1).any(-1).all())
        assert len(model.locations.unique(dim=0)) == 5
        torch.testing.assert_close(
            model.scale_tril[3] @ model.scale_tril[3].mT, torch.cov(x.T, correction=0), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(model.logits.softmax(0), torch.full((5,), 0.2))
    assert not torch.equal(starts[0].locations, starts[1].locations)


def test_leading_dimensions_and_one_feature():
    model = GaussianMixture(3, 1)
    x = torch.randn(4, 5, 1)
    assert model.responsibilities(x).shape == (4, 5, 3)
    parts = torch.distributions.Normal(model.locations.squeeze(1), model.scales().squeeze(1))
    exact = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=model.logits), parts)
    torch.testing.assert_close(model.log_marginal(x), exact.log_prob(x.squeeze(-1)))


EYES = torch.eye(2).expand(5, 2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: GaussianMixture(0, 2), "num_components is 0 and num_features 2"),
        (lambda m: m.start_at(torch.randn(10, 3)), r"x has shape \[10, 3\]: expected \[N, 2\]"),
        (lambda m: m.start_at(torch.randn(4, 2)), "N at least 5 for 5 components"),
        (lambda m: m.start_at(torch.ones(10, 2)), "a covariance is not positive definite"),
        (lambda m: m.set_parameters(torch.ones(4), torch.ones(5, 2), EYES), r"weights has shape \[4\]"),
        (lambda m: m.set_parameters(torch.zeros(5), torch.ones(5, 2), EYES), "smallest weight is 0"),
        (lambda m: m.set_parameters(torch.ones(5), torch.ones(5, 2), -EYES), "not positive definite"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    model = GaussianMixture(5, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        make(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
