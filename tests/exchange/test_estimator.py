"""The scikit-learn estimator: scikit-learn's own checks, and exact oracles."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import pyrovae as pv
from pyrovae.estimator import VAEEstimator
from tests.exchange.digits import digits


def make_vae(num_features):
    """A normal likelihood, so that X may be anything; a module's function, so that it can be pickled."""
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Normal(pv.nn.MLP(2, num_features), scale=1.0)
    )
    guide = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(num_features, (2, 2))))
    return pv.VAE(model, guide)


def make_pca(num_features):
    """Already at its optimum, with its exact posterior: one epoch of no learning changes nothing."""
    model = pv.models.LinearGaussian(4, num_features).set_maximum_likelihood(digits()[0])
    return pv.VAE(model, pv.guides.ExactGuide(model))


def at_rest(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def name_of(value):
    """The check's name; sklearn's own ids hold addresses, which differ between processes."""
    return getattr(value, "func", value).__name__ if callable(value) else "VAEEstimator"


@pytest.mark.parametrize(
    "estimator, check",
    [
        *estimator_checks_generator(
            VAEEstimator(make_vae, epochs=2, num_samples=10, random_state=0),
        )
    ],
    ids=name_of,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def pca():
    x, _ = digits()
    estimator = VAEEstimator(make_pca, epochs=1, optimizer=at_rest, num_samples=5, random_state=0)
    return estimator.fit(x.numpy()), PCA(4).fit(x.double().numpy()), x.numpy()


class TestAgainstPrincipalComponents:
    def test_scores_are_probabilistic_pcas(self, pca):
        estimator, _, x = pca
        exact = estimator.vae_.model.log_marginal(torch.as_tensor(x)).detach().numpy()
        np.testing.assert_allclose(estimator.score_samples(x), exact, atol=0.02)
        # scikit-learn divides by N - 1 where maximum likelihood divides by N.
        assert estimator.score(x) == pytest.approx(pca[1].score(x), abs=0.05)

    def test_features_span_the_principal_components(self, pca):
        estimator, fitted, x = pca
        ours, theirs = estimator.transform(x), fitted.transform(x)
        shrunk = np.abs(np.corrcoef(ours.T, theirs.T)[:4, 4:])
        np.testing.assert_allclose(np.diag(shrunk), 1, atol=1e-4)

    def test_features_of_a_row_do_not_depend_on_the_others(self, pca):
        estimator, _, x = pca
        whole = estimator.transform(x[:50])
        parts = np.concatenate([estimator.transform(x[:50][i : i + 7]) for i in range(0, 50, 7)])
        np.testing.assert_allclose(whole, parts, atol=1e-5)
        np.testing.assert_allclose(whole[::-1], estimator.transform(x[:50][::-1]), atol=1e-5)

    def test_samples_have_the_models_moments(self, pca):
        estimator, _, x = pca
        drawn = estimator.sample(4000)
        assert drawn.shape == (4000, 64)
        deviation = (drawn.mean(0) - x.mean(0)) / (drawn.std(0) / np.sqrt(4000))
        assert np.abs(deviation).max() < 5

    def test_names(self, pca):
        estimator, _, x = pca
        assert list(estimator.get_feature_names_out()) == ["z[0]", "z[1]", "z[2]", "z[3]"]
        frame = clone(estimator).set_output(transform="pandas").fit_transform(x)
        assert list(frame.columns) == ["z[0]", "z[1]", "z[2]", "z[3]"]


class TestUse:
    def test_in_a_pipeline_with_a_search_and_pickled(self):
        x, y = digits()
        x, y = x[:200].numpy(), y[:200] > 4
        pipeline = make_pipeline(VAEEstimator(make_vae, epochs=2, random_state=0), LogisticRegression())
        search = GridSearchCV(pipeline, {"vaeestimator__epochs": [1, 3]}, cv=2).fit(x, y)
        assert search.best_params_["vaeestimator__epochs"] in (1, 3)
        again = pickle.loads(pickle.dumps(search.best_estimator_))
        np.testing.assert_array_equal(again.predict(x), search.predict(x))

    def test_a_seed_decides_and_the_random_states_are_left(self):
        x = digits()[0][:100].numpy()
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        one, two = (VAEEstimator(make_vae, epochs=2, random_state=3).fit(x) for _ in range(2))
        np.testing.assert_array_equal(one.transform(x), two.transform(x))
        np.testing.assert_array_equal(one.score_samples(x), two.score_samples(x))
        np.testing.assert_array_equal(one.sample(3), two.sample(3))
        assert torch.equal(states[0], torch.get_rng_state())
        np.testing.assert_array_equal(states[1], np.random.get_state()[1])
        other = VAEEstimator(make_vae, epochs=2, random_state=4).fit(x)
        assert np.abs(one.transform(x) - other.transform(x)).max() > 1e-3

    def test_wrong_choices_are_refused(self):
        x = digits()[0][:20].numpy()
        with pytest.raises(TypeError, match="make_vae gave int: expected a pyrovae.VAE"):
            VAEEstimator(lambda num_features: num_features).fit(x)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        with pytest.raises(TypeError, match="Give a function of parameters"):
            VAEEstimator(make_vae, optimizer=optimizer).fit(x)
        with pytest.raises(ValueError, match="epochs is 0"):
            VAEEstimator(make_vae, epochs=0).fit(x)
        with pytest.raises(ValueError, match="num_samples is 0"):
            VAEEstimator(make_vae, num_samples=0).fit(x)
