"""`vae.posterior(x)`: what the guide draws from, by site; refused where that is no distribution given x alone."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.guides import AmortizedGuide, AutoGuide
from pyrovae.guides.families import full_normal
from tests.components import GUIDES, MODELS, POSTERIORS, D, K, net
from tests.guides.catalogue import CATALOGUE
from tests.pairs import PAIRS, binary_rows


@pytest.mark.parametrize("name", POSTERIORS)
def test_it_is_the_distribution_that_draws_come_from(name):
    posterior = POSTERIORS[name].make(lambda sizes: net(D, sizes), K)
    model, x = MODELS["LatentVariableModel"].make()[0], binary_rows(7, D)
    vae = pv.VAE(model, AmortizedGuide(posterior))
    state = torch.get_rng_state()
    found = vae.posterior(x)
    vae.rows(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == ["z"]
    q, own = found["z"], posterior(x)
    assert (q.batch_shape, q.event_shape) == ((7,), (K,))
    z = own.sample()
    torch.testing.assert_close(q.log_prob(z), own.log_prob(z).detach())
    assert not q.rsample().requires_grad or POSTERIORS[name].layer_networks
    assert q.sample((3,)).shape == (3, 7, K)


def test_it_is_exact_where_the_guide_is():
    model = pv.models.LinearGaussian(2, 3)
    vae, x = pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(5, 3)
    q, p = vae.posterior(x)["z"], model.posterior(x)
    torch.testing.assert_close(q.mean, p.mean.detach())
    torch.testing.assert_close(vae.encode(x), q.mean)
    torch.testing.assert_close(q.covariance_matrix, p.covariance_matrix.detach())


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_in_the_styles_that_people_write(name):
    make, context = PAIRS[name]
    vae, x = make(), binary_rows(8)
    if name == "methods":
        with pytest.raises(ValueError, match=r"draws the latent 'b' given others \('a' comes before it"):
            vae.posterior(x, *context(8))
        return
    (site, q), *_ = vae.posterior(x, *context(8)).items()
    assert q.batch_shape == (8,)
    torch.testing.assert_close(q.mean, vae.encode(x, *context(8)))
    assert site in vae.layout.latents


def test_sites_that_stand_side_by_side():
    def model(x):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Exponential(1.0))
            pyro.sample("x", dist.Normal(a.sum(-1) + b, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("a", dist.Normal(x[:, :1].expand(-1, 2), 0.5).to_event(1))
            pyro.sample("b", dist.LogNormal(x[:, 0], 0.3))

    x = torch.randn(6, 1)
    found = pv.VAE(model, guide).posterior(x)
    assert {n: (q.batch_shape, q.event_shape) for n, q in found.items()} == {
        "a": ((6,), (2,)),
        "b": ((6,), ()),
    }
    torch.testing.assert_close(found["b"].mean, (x[:, 0] + 0.045).exp())


def test_rows_that_a_mask_leaves_out_count_nothing():
    def model(x, there):
        with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=there):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x, there):
        with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=there):
            pyro.sample("z", dist.Normal(x[:, 0], 0.5))

    there = torch.arange(6) % 2 == 0
    q = pv.VAE(model, guide).posterior(torch.ones(6, 1), there)["z"]
    assert ((q.log_prob(torch.zeros(6)) != 0) == there).all()


REFUSED = {
    "HierarchicalGuide": (
        lambda: pv.VAE(*MODELS["HierarchicalModel"].make()),
        lambda: MODELS["HierarchicalModel"].data(8),
        "the guide draws the latent 'z2' given others ('z1' comes before it)",
    ),
    "BottomUpGuide": (
        lambda: pv.VAE(model := MODELS["HierarchicalModel"].make()[0], GUIDES["BottomUpGuide"].make(model)),
        lambda: MODELS["HierarchicalModel"].data(8),
        "the guide draws the latent 'z1' given others ('z2' comes before it)",
    ),
    "joint": (
        lambda: pv.VAE(
            model := MODELS["HierarchicalModel"].make()[0], AutoGuide(model, family=full_normal, joint=True)
        ),
        lambda: MODELS["HierarchicalModel"].data(8),
        "by way of the auxiliary site '_latents'",
    ),
    "inner plate": (
        lambda: pv.VAE(CATALOGUE["inner plate"].model),
        lambda: (torch.randn(8, 3),),
        "stands in the plate 'steps' inside the rows",
    ),
    "summed out": (
        lambda: pv.VAE(*MODELS["GaussianMixture"].make()),
        lambda: MODELS["GaussianMixture"].data(8),
        "are discrete and summed out: the guide has none",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_such_form_is_refused_with_the_remedy(name):
    make, data, words = REFUSED[name]
    vae = make()
    with pytest.raises(ValueError, match="sample_posterior") as refused:
        vae.posterior(*data())
    assert words in str(refused.value)
    assert vae.sample_posterior(*data(), num_samples=2)


def test_a_chain_is_one_site():
    vae, data = pv.VAE(*MODELS["DeepMarkovModel"].make()), MODELS["DeepMarkovModel"].data(8)
    q = vae.posterior(*data)["z"]
    assert (q.batch_shape, q.event_shape) == ((8,), (4, K))
    assert pickle.loads(pickle.dumps(vae)).posterior(*data)["z"].batch_shape == (8,)
