"""Probes against scikit-learn's own classifier on principal components."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyrovae as pv
from tests.exchange.digits import digits


class TestProbe:
    def test_it_is_the_same_classifier_on_principal_components(self, exact):
        vae, x, y = exact
        held_out = digits()[0][300:500]
        result = pv.probe(vae, x, labels=y, held_out=held_out, held_out_labels=digits()[1][300:500])
        # Posterior means are the components up to scale, and standardized anyway.
        components = PCA(4).fit(digits()[0].numpy())
        theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        theirs.fit(components.transform(x.numpy()), y)
        predicted = theirs.predict(components.transform(held_out.numpy()))
        assert result.accuracy == pytest.approx((predicted == digits()[1][300:500]).mean(), abs=0.011)
        smoothed = (200 * result.accuracy + 1) / 202
        assert result.std_error == pytest.approx(np.sqrt(smoothed * (1 - smoothed) / 202))
        assert "held out" in str(result)

    def test_labels_at_random_are_not_read(self, exact):
        vae, x, _ = exact
        labels = np.random.default_rng(0).permutation(np.arange(300) % 2)
        result = pv.probe(vae, x, labels=labels)
        assert abs(result.accuracy - 0.5) < 5 * result.std_error  # false alarm below 1e-5
        assert result.majority == 0.5
        assert "may have collapsed, diagnose() tells" in str(result)

    def test_every_row_right_leaves_an_error(self):
        x = torch.cat([torch.randn(20, 4), torch.randn(20, 4) + 9])
        model = pv.models.LinearGaussian(2, 4).set_maximum_likelihood(x)
        result = pv.probe(pv.VAE(model, pv.guides.ExactGuide(model)), x, labels=[0] * 20 + [1] * 20)
        assert result.accuracy == 1.0
        assert result.std_error == pytest.approx((41 / 42 * 1 / 42 / 42) ** 0.5)
        assert "collapsed" not in str(result)

    def test_a_scale_of_the_latent_does_not_matter_and_a_penalty_does(self, exact):
        vae, x, y = exact
        assert pv.probe(vae, x, labels=y, penalty=1e6).accuracy < pv.probe(vae, x, labels=y).accuracy - 0.05

    @pytest.mark.parametrize(
        "choices, message",
        [
            ({"labels": [0, 1]}, r"labels has shape \[2\]: expected \[300\]"),
            ({"labels": np.zeros(300)}, "labels holds one class"),
            ({"labels": np.arange(300) // 2}, "num_folds is 5: expected between 2 and 2"),
            ({"labels": np.arange(300) % 2, "held_out": torch.zeros(3, 64)}, "together"),
            ({"labels": np.arange(300) % 2, "penalty": 0.0}, "penalty is 0.0"),
        ],
    )
    def test_wrong_choices_are_refused(self, exact, choices, message):
        with pytest.raises(ValueError, match=message):
            pv.probe(*exact[:2], **choices)
