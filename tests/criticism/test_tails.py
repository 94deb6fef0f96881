"""The check of tails beyond conjugate models: exact guides pass, at any number of sites; what it cannot do is said."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from tests.components import MODELS
from tests.oracles import ExactGuide, LinearGaussian, WideGuide


def test_an_exact_guide_has_no_light_tails():
    model = LinearGaussian(K=3, D=4)
    x = model.data(300)
    found = pv.tail_check(pv.VAE(model, ExactGuide(model)), x, num_samples=600, seed=0)
    assert found.passed
    assert float(found.missed.max()) == 0.0
    # The mixture is right too, in units of its own error.
    off = (found.wider - model.evidence().log_prob(x)) / found.wider_error
    assert 0.9 < float((off.abs() < 1.96).double().mean()) < 0.99
    assert "of 300 rows (600 draws); wider draws find no more" in str(found)
    assert found.to_frame().shape == (300, 5)


def test_a_guide_a_third_as_wide_is_found():
    model = LinearGaussian(K=2, D=3)
    x = model.data(100)
    found = pv.tail_check(pv.VAE(model, WideGuide(model, 0.33, 0.0)), x, num_samples=600, seed=0)
    assert not found.passed
    truth = model.evidence().log_prob(x)
    assert float((found.wider - truth).abs().mean()) < 0.3 * float((found.log_marginal - truth).abs().mean())
    assert float(found.missed.mean()) > 0.05


def test_sites_below_others_and_plates():
    for name in ("HierarchicalModel", "LatentVariableModel"):
        vae, data = pv.VAE(*MODELS[name].make()), MODELS[name].data(6)
        found = pv.tail_check(vae, *data, num_samples=60, seed=0)
        assert bool(found.wider.isfinite().all())
    again = pv.tail_check(vae, *data, num_samples=60, seed=0)
    assert torch.equal(found.wider, again.wider)


def test_angles_stay_on_their_circle():
    """Turned round and round, an angle would count many times."""

    def model(x):
        with pyro.plate("rows", len(x)):
            angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
            pyro.sample("x", dist.Normal(angle.cos(), 1.0), obs=x)

    x = torch.randn(20)
    grid = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
    joint = dist.VonMises(torch.tensor(0.0).double(), 1.0).log_prob(grid)
    joint = joint + dist.Normal(grid.cos(), 1.0).log_prob(x.double()[:, None])
    truth = joint.logsumexp(1) + math.log(2 * math.pi / 4000)
    found = pv.tail_check(pv.VAE(model, seed=0), x, num_samples=2000, seed=0)
    assert bool(((found.wider - truth).abs() < 5 * found.wider_error).all())


def test_draws_at_a_corner_of_a_simplex_do_not_count():
    """Where float32 has few numbers, densities of wider draws are lost to rounding: some were 5000 nats too high."""
    concentration = torch.tensor([0.5, 1.0, 2.0])

    def model(x):
        with pyro.plate("rows", len(x)):
            p = pyro.sample("p", dist.Dirichlet(concentration))
            pyro.sample("x", dist.Multinomial(10, p, validate_args=False), obs=x)

    torch.manual_seed(0)
    x = dist.Multinomial(10, dist.Dirichlet(concentration).sample((100,)), validate_args=False).sample()
    vae = pv.VAE(model, example=x, seed=0)
    pv.fit(vae, x, epochs=20, seed=0, progress=False, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    found = pv.tail_check(vae, x, num_samples=3000, seed=2)
    truth = dist.DirichletMultinomial(concentration.double(), 10).log_prob(x.double())
    assert float((found.wider - truth).abs().max()) < 0.5


def test_what_it_cannot_check():
    vae, data = pv.VAE(*MODELS["GaussianMixture"].make()), MODELS["GaussianMixture"].data(6)
    with pytest.raises(ValueError, match="all summed out: there are no tails"):
        pv.tail_check(vae, *data)
    model = LinearGaussian()
    vae = pv.VAE(model, ExactGuide(model))
    with pytest.raises(ValueError, match="num_samples is 20: expected at least 30"):
        pv.tail_check(vae, model.data(5), num_samples=20)
