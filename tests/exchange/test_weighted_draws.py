"""Draws resampled by their weights, as `to_arviz(resample_from=...)` gives them."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from tests.oracles import LinearGaussian, WideGuide
from tests.pairs import Methods, binary_rows


class TestResampling:
    """Against the exact posterior of the linear-Gaussian pair, from a guide that is wide and shifted."""

    def test_moments_become_the_exact_posteriors(self):
        model = LinearGaussian(K=2, D=3)
        vae, x, S = pv.VAE(model, WideGuide(model)), model.data(60), 1000
        exact = model.posterior(x)
        spread = exact.variance.sqrt().detach().numpy()

        def deviation(**choices):
            z = pv.to_arviz(vae, x, num_samples=S, seed=0, **choices).posterior["z"].values[0]
            return (z.mean(0) - exact.mean.detach().numpy()) / spread, z.std(0) / spread

        # Averaged over 120 independent means, each with an error of about 1 / sqrt(S) (1 + S / ESS) ** 0.5.
        shift, width = (part.mean() for part in deviation())
        assert shift > 0.2
        assert width > 1.2
        shift, width = (part.mean() for part in deviation(resample_from=20000))
        assert abs(shift) < 5 * 1.2 / np.sqrt(S * 120)
        # The exact posterior's marginals, correlated or not, have width 1.
        assert abs(width - 1) < 5 * 1.2 / np.sqrt(2 * S * 120)

    def test_latents_of_one_draw_stay_together_and_say_their_own_densities(self):
        module = Methods()
        vae, x, y = pv.VAE(module.model, module.guide), binary_rows(9), torch.eye(3)[torch.arange(9) % 3]
        tree = pv.to_arviz(vae, x, y, 2.0, num_samples=50, resample_from=500, seed=0)
        a, b = (torch.as_tensor(tree.posterior[name].values[0]) for name in "ab")
        features = torch.cat([a, b.unsqueeze(-1), y.expand(50, 9, 3)], -1)
        expected = dist.Bernoulli(logits=module.decoder(features) / 2.0).log_prob(x).sum(-1)
        np.testing.assert_allclose(tree.log_likelihood["x"].values[0], expected.detach(), rtol=1e-4)
        mean = module.encoder(torch.cat([x, y], -1))
        log_prior = dist.Normal(0.0, 1.0).log_prob(a).sum(-1) + dist.Normal(a.sum(-1), 1.0).log_prob(b)
        log_guide = dist.Normal(mean[:, :2], 0.7).log_prob(a).sum(-1)
        log_guide = log_guide + dist.Normal(mean[:, 2] + a.sum(-1) / 2, 0.8).log_prob(b)
        weight = (expected + log_prior - log_guide).detach()
        np.testing.assert_allclose(tree.sample_stats["log_weight"].values[0], weight, rtol=1e-4, atol=1e-4)
        assert tree.constant_data["context_2"] == 2.0
        assert "500 draws" in tree.posterior.attrs["draws_of"]

    def test_fewer_proposals_than_draws_are_refused(self, linear):
        with pytest.raises(ValueError, match="resample_from is 2: expected at least num_samples = 3"):
            pv.to_arviz(*linear, num_samples=3, resample_from=2)

    def test_rows_without_weights_are_named(self, linear):
        vae, x = linear
        x[3] = 1e200
        with pytest.raises(ValueError, match=r"weights of row 3 are all zero or not finite \(1 such rows"):
            pv.to_arviz(vae, x, num_samples=3, resample_from=5)
