"""The VampPrior: its formula, its range, the posterior shared with the guide, and wrong arguments."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import pyrovae as pv
from pyrovae import models
from pyrovae.nn import MLP
from tests.components import net


def test_vamp_prior_is_the_mean_of_posteriors_at_the_pseudo_inputs():
    torch.manual_seed(0)
    posterior = models.Normal(net(3, (2, 2)))
    prior = models.VampPrior(posterior, torch.rand(5, 3))
    z = torch.randn(7, 2)
    at_each = torch.stack([posterior(u).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), at_each.logsumexp(0) - math.log(5))
    weighted = models.VampPrior(posterior, torch.rand(5, 3), learned_weights=True)
    torch.nn.init.normal_(weighted.logits)
    at_each = torch.stack([posterior(u).log_prob(z) for u in weighted.pseudo_inputs])
    exact = (at_each + weighted.logits.log_softmax(0)[:, None]).logsumexp(0)
    torch.testing.assert_close(weighted().log_prob(z), exact)


def test_pseudo_inputs_start_at_the_rows_and_stay_in_range():
    low, high = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, 10.0, 6.0])
    start = low + torch.rand(8, 3) * (high - low)
    start[0], start[1] = low, high
    prior = models.VampPrior(models.Normal(net(3, (2, 2))), start, low=low, high=high)
    assert bool(((prior.pseudo_inputs - start).abs() <= 0.0101 * (high - low)).all())
    for far in (-1e30, -50.0, 50.0, 1e30):
        torch.nn.init.constant_(prior.raw, far)
        assert bool(((prior.pseudo_inputs >= low) & (prior.pseudo_inputs <= high)).all())


def test_vamp_prior_shares_the_posterior_of_the_guide(tmp_path):
    torch.manual_seed(0)
    x, size = torch.bernoulli(torch.full((20, 3), 0.5)), torch.rand(20, 1)

    def make():
        posterior = pv.guides.DiagonalNormal(net(4, (2, 2)))
        prior = models.VampPrior(posterior, x[:4], size[:4])
        model = models.LatentVariableModel(prior, models.Bernoulli(net(3, 3)))
        return pv.VAE(model, pv.guides.AmortizedGuide(posterior))

    vae = make()
    own = sum(p.numel() for p in vae.parameters())
    assert (
        own == sum(p.numel() for p in (*vae.guide.parameters(), *vae.model.likelihood.parameters())) + 4 * 3
    )
    before = vae.model.prior.pseudo_inputs.detach().clone()
    pv.fit(vae, (x, size), epochs=2, batch_size=5, seed=0, progress=False)
    assert bool((vae.model.prior.pseudo_inputs != before).all())
    vae.save(tmp_path / "vae.safetensors")
    loaded = make().load(tmp_path / "vae.safetensors")
    torch.testing.assert_close(
        pv.elbo(loaded, x, size, seed=0).elbo, pv.elbo(vae, x, size, seed=0).elbo, rtol=0, atol=0
    )
    assert loaded.model.prior.posterior is loaded.guide.posterior


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda q: models.VampPrior(q, torch.full((4, 3), 1.5)),
            r"from 1.5 to 1.5, beyond low = 0 and high = 1",
        ),
        (lambda q: models.VampPrior(q, torch.full((4, 3), math.nan)), r"beyond low = 0 and high = 1"),
        (lambda q: models.VampPrior(q, torch.rand(4, 3), low=1.0), r"expected low below high"),
        (lambda q: models.VampPrior(q, torch.rand(3)), r"shape \[3\]: expected rows"),
        (lambda q: models.VampPrior(q, torch.rand(0, 3)), r"shape \[0, 3\]: expected rows"),
        (lambda q: models.VampPrior(q, torch.rand(4, 3), torch.rand(3, 1)), r"4 pseudo-inputs .* has 3 rows"),
        (lambda q: models.NormalMixture(2, 0), r"num_components is 0: expected at least 1"),
        (lambda q: models.NormalMixture(0, 2), r"latent_size is 0: expected at least 1"),
        (lambda q: models.LearnedNormal(0), r"latent_size is 0: expected at least 1"),
        (lambda q: models.spline_flow(1), r"latent_size is 1: expected at least 2"),
        (lambda q: models.affine_flow(1), r"latent_size is 1: expected at least 2"),
        (lambda q: models.affine_flow(2, num_layers=0), r"transforms are empty"),
    ],
)
def test_wrong_arguments_of_priors_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(models.Normal(MLP(3, (2, 2))))


@pytest.mark.parametrize("flow", ["InverseAutoregressiveFlow", "NeuralSplineFlow", "CouplingFlow"])
def test_vamp_prior_says_what_an_autoregressive_posterior_costs_before_it_is_paid(flow):
    posterior = getattr(pv.guides, flow)(MLP(3, (2, 2, 4)), 2, 4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        models.VampPrior(posterior, torch.rand(5, 3))
    told = [str(one.message) for one in said]
    if flow == "CouplingFlow":
        assert told == []
    else:
        assert len(told) == 1
        assert "posteriors of 5 pseudo-inputs" in told[0]
        assert "CouplingFlow takes one pass" in told[0]
