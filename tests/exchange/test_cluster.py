"""Clusters: groups that are there are found, others are not."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import pyrovae as pv


class TestCluster:
    def test_separate_groups_are_found(self):
        generator = torch.Generator().manual_seed(0)
        truth = torch.arange(90) % 3
        x = torch.randn(90, 6, generator=generator) + 20 * torch.eye(6)[truth]
        model = pv.models.LinearGaussian(2, 6).set_maximum_likelihood(x)
        result = pv.cluster(pv.VAE(model, pv.guides.ExactGuide(model)), x, num_clusters=3, truth=truth)
        assert result.adjusted_rand == result.normalized_mutual_information == pytest.approx(1.0)
        assert result.silhouette > 0.8
        assert adjusted_rand_score(truth, result.labels) == 1.0
        assert "adjusted Rand index 1.00" in str(result)

    def test_an_unrelated_truth_is_told(self, exact):
        vae, x, _ = exact
        truth = np.random.default_rng(0).integers(5, size=300)
        assert abs(pv.cluster(vae, x, num_clusters=5, truth=truth).adjusted_rand) < 0.05
        assert pv.cluster(vae, x, num_clusters=5).adjusted_rand is None

    def test_a_collapsed_encoder_has_nothing_to_cluster(self):
        model = pv.models.LinearGaussian(2, 6)
        with torch.no_grad():
            model.loading.zero_()
        vae = pv.VAE(model, pv.guides.ExactGuide(model))
        message = "num_clusters is 3, and the 9 rows have 1 different posterior means.*collapsed, diagnose"
        with pytest.raises(ValueError, match=message):
            pv.cluster(vae, torch.randn(9, 6), num_clusters=3)

    @pytest.mark.parametrize(
        "number, message", [(1, "between 2 and 299"), (300, "between 2 and 299"), (0, "whole")]
    )
    def test_wrong_numbers_are_refused(self, exact, number, message):
        with pytest.raises(ValueError, match=message):
            pv.cluster(*exact[:2], num_clusters=number)
