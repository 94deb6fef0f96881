"""Derived guides of latents in many families: draws in the support, and weights whose mean is p(x)."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.pair.true_support import true_support

T = dist.transforms
X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
ONE = torch.tensor([True, False])


def components(single, event_dim=0):
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([1.0, 2.0])), single.to_event(event_dim))


def mapped(base, *transforms):
    return dist.TransformedDistribution(base, list(transforms))


def halves(shape=(2,)):
    return torch.full(shape, 0.5)


LATENTS = {
    "mixture": lambda: components(dist.Normal(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), 0.5), 1),
    "mixture of betas": lambda: components(dist.Beta(torch.tensor([[2.0, 3.0], [4.0, 2.0]]), 2.0)).to_event(
        1
    ),
    "bernoulli": lambda: dist.Bernoulli(torch.tensor([0.3, 0.8])).to_event(1),
    "bernoulli matrix": lambda: dist.Bernoulli(halves((1, 2))).to_event(2),
    "categorical": lambda: dist.Categorical(torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]])).to_event(1),
    "one-hot": lambda: dist.OneHotCategorical(torch.tensor([[1.0, 2.0]])).to_event(1),
    "affine beta": lambda: mapped(dist.Beta(halves() * 4, 3.0), T.AffineTransform(-1.0, 2.0)).to_event(1),
    "affine beta by entry": lambda: mapped(
        dist.Beta(halves() * 4, 3.0).to_event(1),
        T.AffineTransform(torch.tensor([-1.0, 0.0]), torch.tensor([2.0, -3.0])),
    ),
    "pyro's affine beta": lambda: dist.AffineBeta(
        halves() * 4, 3.0, torch.tensor(-1.0), torch.tensor(2.0)
    ).to_event(1),
    "affine gamma": lambda: mapped(dist.Gamma(halves() * 4, 3.0), T.AffineTransform(1.0, -2.0)).to_event(1),
    "exponential of beta": lambda: mapped(dist.Beta(halves() * 4, 3.0), T.ExpTransform()).to_event(1),
    "pareto": lambda: dist.Pareto(halves(), 4.0).to_event(1),
    "uniform of bounds by entry": lambda: dist.Uniform(
        torch.tensor([0.0, -1.0]), torch.tensor([1.0, 2.0])
    ).to_event(1),
    "masked entries": lambda: dist.Normal(torch.zeros(2), 1.0).mask(ONE).to_event(1),
    "masked gamma": lambda: dist.Gamma(halves() * 4, 2.0).mask(ONE).to_event(1),
    "masked bernoulli": lambda: dist.Bernoulli(halves()).mask(ONE).to_event(1),
    "masked one-hot": lambda: dist.OneHotCategorical(halves((1, 2))).mask(ONE[:1]).to_event(1),
    "masked in whole": lambda: dist.Dirichlet(halves() * 4).mask(torch.tensor(True)),
}
DISCRETE = {name for name in LATENTS if any(word in name for word in ("bernoulli", "categorical", "one-hot"))}


class Declared(nn.Module):
    def __init__(self, latent):
        super().__init__()
        self.latent, self.decoder = latent, nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.latent())
            event_dim = len(self.latent().event_shape)
            z = z.float().flatten(z.dim() - event_dim)
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("name", LATENTS)
def test_weights_of_derived_guides_have_the_mean_of_those_of_the_prior(name):
    torch.manual_seed(0)
    vae = pv.VAE(Declared(LATENTS[name]), example=X)
    pv.fit(vae, X, epochs=3, batch_size=10, seed=0, progress=False)
    draws = vae.sample_posterior(X, num_samples=50, seed=0)["z"]
    prior = LATENTS[name]()
    assert bool(true_support(prior).check(draws).all())
    if "masked" in name and name not in ("masked in whole", "masked one-hot"):
        return  # what is masked has no density: each guide draws it as it likes
    exact = pv.log_marginal(vae, X, num_samples=4000, seed=0, method=pv.ImportanceSampling(prior_share=1.0))
    found = pv.log_marginal(vae, X, num_samples=4000, seed=1, method=pv.ImportanceSampling(prior_share=0.2))
    errors = (found.log_marginal - exact.log_marginal) / (found.std_error**2 + exact.std_error**2).sqrt()
    assert float(errors.pow(2).mean()) < 3
    assert pv.elbo(vae, X, num_samples=50, seed=0).elbo.mean() < exact.log_marginal.mean()


@pytest.mark.parametrize("name", [name for name in LATENTS if "masked" in name and name != "masked in whole"])
def test_masked_entries_count_in_neither_program(name):
    """Pyro's own ELBO, from the same draws."""
    vae = pv.VAE(Declared(LATENTS[name]), example=X)
    terms = pv.elbo(vae, X, num_samples=1, seed=0)
    assert bool(terms.elbo.isfinite().all())
    with vae.evaluating():
        guide = pyro.poutine.trace(vae.guide).get_trace(X)
        density = guide.nodes["z"]["fn"].base_dist.log_prob(guide.nodes["z"]["value"])
    of_masked = density[..., 1:] if "one-hot" not in name else density[..., :0]
    assert bool((of_masked == 0).all())
    assert bool((density[..., 0] != 0).all())


@pytest.mark.parametrize("name", sorted(LATENTS.keys() - DISCRETE))
def test_continuous_ones_are_refined(name):
    vae = pv.VAE(Declared(LATENTS[name]), example=X)
    assert bool(pv.refine(vae, X[:4], seed=0, num_steps=20, num_samples=50).to_frame().notna().all(axis=None))


WITHOUT = {
    "a mask below a transform": (
        lambda: mapped(dist.Gamma(halves() * 4, 2.0).mask(ONE), T.AffineTransform(0.0, 2.0)).to_event(1),
        r"masked inside its distribution.*\.mask\(m\)\.to_event\(1\)",
    ),
    "shares of a matrix": (
        lambda: dist.Dirichlet(halves((1, 2)) * 4).mask(ONE[:1]).to_event(1),
        "masked inside its distribution",
    ),
    "counts": (lambda: dist.Poisson(torch.ones(2)).to_event(1), "has no head"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_derived_guide_is_told_what_to_do(name):
    latent, message = WITHOUT[name]
    with pytest.raises(ValueError, match=message):
        pv.VAE(Declared(latent), example=X)


def test_supports_are_those_that_values_can_have():
    normal = dist.Normal(torch.zeros(2), 1.0)
    both = [T.SigmoidTransform(), T.AffineTransform(-1.0, 2.0)]
    assert str(true_support(mapped(normal, *both))) == "Interval(lower_bound=-1.0, upper_bound=1.0)"
    assert true_support(mapped(dist.Gamma(1.0, 1.0), T.AffineTransform(3.0, -1.0))).upper_bound == 3.0
    assert true_support(mapped(normal, T.ExpTransform())).lower_bound == 0.0
    assert isinstance(
        true_support(mapped(normal.to_event(1), T.affine_autoregressive(2))), constraints.independent
    )


def test_data_outside_what_transforms_can_give_are_refused():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            p = mapped(dist.Beta(z.exp(), 1.0), T.AffineTransform(-1.0, 2.0))
            pyro.sample("x", p.to_event(1), obs=x)

    with pytest.raises(
        ValueError, match="row 0 of the data lies outside .*lower_bound=-1.0, upper_bound=1.0"
    ):
        pv.fit(pv.VAE(model), 1.5 + X.abs(), epochs=1, progress=False)
