"""Heads in the prior's family are exact where models are conjugate; Student's t bounds weights; circles have no cut."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.guides import AutoGuide, families
from pyrovae.guides.prior_head import PriorHead, family_of_prior
from pyrovae.models.distributions import WrappedStudentT


@pytest.mark.parametrize("scale", [0.05, 0.5, 2.0, math.pi, 50.0])
def test_students_t_around_the_circle_is_a_density(scale):
    for df in (4.0, 7.0):
        loc = torch.tensor(2.9, dtype=torch.float64)
        q = WrappedStudentT(loc, torch.tensor(scale, dtype=torch.float64), df)
        grid = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[:-1]
        density = q.log_prob(grid).exp()
        assert float(density.sum() * 2 * math.pi / 20_000) == pytest.approx(1.0, abs=2e-4)
        # Not cut: it goes on from pi to -pi, and is the same for a mean direction given a turn later.
        assert float(density[0]) == pytest.approx(
            float(q.log_prob(torch.tensor(math.pi, dtype=torch.float64)).exp()), rel=1e-9
        )
        turned = WrappedStudentT(loc + 6 * math.pi, torch.tensor(scale, dtype=torch.float64), df)
        torch.testing.assert_close(turned.log_prob(grid), q.log_prob(grid))
        assert float(turned.mean) == pytest.approx(2.9)


def test_draws_around_the_circle_follow_their_density_with_gradients():
    parameters = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.5, 0.8)]
    q = WrappedStudentT(*parameters)
    draws = q.rsample((200_000,))
    assert bool(q.support.check(draws).all())
    grid = torch.linspace(-math.pi, math.pi, 40_001, dtype=torch.float64)[:-1]
    # A function of the angle that is smooth around the circle: its mean, and its gradients in both parameters.
    of_draws = (draws.cos() + (2 * draws).sin()).mean()
    exact = ((grid.cos() + (2 * grid).sin()) * q.log_prob(grid).exp()).sum() * 2 * math.pi / 40_000
    assert of_draws.item() == pytest.approx(exact.item(), abs=0.01)
    gradients = [torch.autograd.grad(f, parameters, retain_graph=True) for f in (of_draws, exact)]
    for got, wanted in zip(*gradients, strict=True):
        assert float(got) == pytest.approx(float(wanted), abs=0.02)
    assert WrappedStudentT(torch.zeros(3), torch.ones(3), df=6.0).expand([2, 3]).df == 6.0
    with pytest.raises(ValueError, match="df is 2: expected at least 4"):
        WrappedStudentT(torch.zeros(3), torch.ones(3), df=2)


def gamma_poisson(x):
    with pyro.plate("rows", len(x)):
        rate = pyro.sample("z", dist.Gamma(torch.tensor(0.5), 0.2))
        pyro.sample("x", dist.Poisson(rate.unsqueeze(-1)).to_event(1), obs=x)


def of_gamma_poisson(x):
    counts = x[:, 0].double()
    constant = 0.5 * math.log(0.2 / 1.2) - math.lgamma(0.5)
    return torch.lgamma(counts + 0.5) - torch.lgamma(counts + 1) - counts * math.log(1.2) + constant


def beta_binomial(x):
    with pyro.plate("rows", len(x)):
        p = pyro.sample("z", dist.Beta(torch.tensor(0.5), 0.5))
        pyro.sample("x", dist.Binomial(8, p.unsqueeze(-1)).to_event(1), obs=x)


def of_beta_binomial(x):
    half = torch.tensor(0.5).double()
    return dist.BetaBinomial(half, half, 8).log_prob(x[:, 0].double())


ORACLES = {
    "gamma-Poisson": (gamma_poisson, of_gamma_poisson, dist.Gamma(0.5, 0.2)),
    "beta-binomial": (beta_binomial, of_beta_binomial, dist.Beta(0.5, 0.5)),
}


def rows(name, N, seed):
    torch.manual_seed(seed)
    latents = ORACLES[name][2].sample((N, 1))
    return torch.poisson(latents) if name == "gamma-Poisson" else dist.Binomial(8, latents).sample()


def trained(name, family):
    model, x = ORACLES[name][0], rows(name, 1000, 0)
    vae = pv.VAE(model, AutoGuide(model, family=family, hidden=(16,)), example=x, seed=0)
    for rate, epochs in ((1e-2, 40), (1e-3, 10)):
        pv.fit(
            vae, x, epochs=epochs, batch_size=200, seed=0, progress=False,
            optimizer=lambda p, rate=rate: torch.optim.Adam(p, lr=rate),
        )  # fmt: skip
    return vae


FAMILIES = ("diagonal_normal", "student_t", "by_prior")


@pytest.fixture(scope="module")
def guides():
    return {
        (name, family): trained(name, getattr(families, family)) for name in ORACLES for family in FAMILIES
    }


def standardized(vae, name, seed, num_samples=2000):
    """Errors of log p(x) in units of the stated ones, and whether k is good; rows are repetitions."""
    x = rows(name, 1000, seed)
    found = pv.log_marginal(vae, x, num_samples=num_samples, seed=seed)
    return (found.log_marginal - ORACLES[name][1](x)) / found.std_error, found.khat < found.good_k


@pytest.mark.parametrize("family", ["student_t", "by_prior"])
@pytest.mark.parametrize("name", ORACLES)
def test_errors_are_as_stated_where_k_is_good(guides, name, family):
    off, good = standardized(guides[name, family], name, 5)
    assert float(good.double().mean()) > (0.85 if family == "student_t" else 0.98)
    assert float((off[good].abs() > 3).double().mean()) < 0.01
    assert 0.9 < float((off.abs() <= 1.96).double().mean()) < 0.99


@pytest.mark.parametrize("name", ORACLES)
def test_a_normal_is_too_light_and_the_check_of_tails_says_so(guides, name):
    """k calls rows good that err by many stated errors; wider draws find out which guide does, and how much."""
    vae, x = guides[name, "diagonal_normal"], rows(name, 200, 6)
    off, good = standardized(vae, name, 5)
    assert float((off[good] < -3).double().mean()) > 0.02
    light = pv.tail_check(vae, x, num_samples=2000, seed=0)
    assert not light.passed
    assert "TOO LIGHT" in str(light)
    for family in ("student_t", "by_prior"):
        heavy = pv.tail_check(guides[name, family], x, num_samples=2000, seed=0)
        assert float(heavy.too_light.double().mean()) < 0.03, str(heavy)
        assert float(heavy.missed.max()) < 0.01
    # What the wider draws say of these rows is right.
    truth = ORACLES[name][1](x)
    wrong, right = ((f - truth).abs()[light.too_light].mean() for f in (light.log_marginal, light.wider))
    assert float(right) < 0.5 * float(wrong)


def declared(prior):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", prior())
            total = z.flatten(1).sum(1) if z.dim() > 1 else z
            pyro.sample("x", dist.Normal(total.unsqueeze(-1), 1.0).to_event(1), obs=x)

    return model


PRIORS = {
    "Gamma": lambda: dist.Gamma(torch.ones(3), 2.0).to_event(1),
    "Exponential": lambda: dist.Exponential(torch.ones(2, 2)).to_event(2),
    "Chi2": lambda: dist.Chi2(torch.tensor(3.0)),
    "Beta": lambda: dist.Beta(torch.ones(3), 2.0).to_event(1),
    "Uniform": lambda: dist.Uniform(-torch.ones(2), torch.tensor([2.0, 5.0])).to_event(1),
    "Dirichlet": lambda: dist.Dirichlet(torch.ones(2, 4)).to_event(1),
    "VonMises": lambda: dist.VonMises(torch.zeros(2), 1.0).to_event(1),
}


@pytest.mark.parametrize("prior", PRIORS)
def test_every_family_of_priors_has_a_head_of_the_right_shape(prior):
    model, x = declared(PRIORS[prior]), torch.randn(30, 1)
    assert family_of_prior(PRIORS[prior]()) == prior
    vae = pv.VAE(model, AutoGuide(model, family=families.by_prior, hidden=(8,)), example=x)
    assert [type(head) for head in vae.guide.heads.values()] == [PriorHead]
    pv.fit(vae, x, epochs=2, seed=0, progress=False)
    found = pv.log_marginal(vae, x, num_samples=500, seed=0)
    plain = pv.log_marginal(vae, x, num_samples=2000, method=pv.ImportanceSampling(prior_share=1), seed=0)
    error = torch.hypot(found.std_error, plain.std_error)
    assert float(((found.log_marginal - plain.log_marginal) / error).mean().abs()) < 1.0
    draws = vae.sample_posterior(x, num_samples=3)["z"]
    assert bool(PRIORS[prior]().support.check(draws).all())


@pytest.mark.parametrize(
    "prior, family",
    [
        (dist.LogNormal(0.0, 1.0), "StudentT"),
        (dist.InverseGamma(2.0, 1.0), "StudentT"),
        (dist.TransformedDistribution(dist.Gamma(1.0, 1.0), [dist.transforms.ExpTransform()]), "StudentT"),
        (dist.Normal(0.0, 1.0), "StudentT"),
    ],
)
def test_other_priors_have_students_t(prior, family):
    """A gamma is lighter to the right than a log-normal prior: its family is for gamma priors alone."""
    assert family_of_prior(prior) == ""
    model = declared(lambda: prior)
    x = torch.randn(10, 1)
    guide = AutoGuide(model, family=families.by_prior)
    pv.VAE(model, guide, example=x)
    assert [type(head).__name__ for head in guide.heads.values()] == [family]


def test_masks_plates_and_what_comes_below():
    """A gamma latent in a plate, masked in rows, on whose draws another site depends."""

    def model(x, seen):
        with pyro.plate("rows", len(x)):
            angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
            with pyro.poutine.mask(mask=seen):
                scale = pyro.sample("scale", dist.Gamma(2.0, 2.0 + angle.cos()))
            with pyro.plate("steps", 3, dim=-2):
                z = pyro.sample("z", dist.Gamma(1.5, scale.clamp(min=1e-3)))
                pyro.sample("x", dist.Poisson(z), obs=x.T)

    x, seen = torch.poisson(torch.ones(20, 3)), torch.arange(20) % 3 > 0
    guide = AutoGuide(model, family=families.by_prior, hidden=(8,))
    vae = pv.VAE(model, guide, example=(x, seen))
    assert {type(head) for head in guide.heads.values()} == {PriorHead}
    pv.fit(vae, (x, seen), epochs=1, seed=0, progress=False)
    assert bool(pv.log_marginal(vae, x, seen, num_samples=50, seed=0).log_marginal.isfinite().all())
    inside = declared(
        lambda: dist.Gamma(torch.ones(3), 1.0).mask(torch.tensor([True, True, False])).to_event(1)
    )
    for family in (families.by_prior, families.student_t):
        vae = pv.VAE(inside, AutoGuide(inside, family=family, hidden=(8,)), example=torch.randn(9, 1))
        assert bool(pv.elbo(vae, torch.randn(9, 1), seed=0).elbo.isfinite().all())


def test_joint_heads_are_of_one_family():
    with pytest.raises(ValueError, match="by_prior gives each site a family of its own"):
        pv.VAE(
            gamma_poisson,
            AutoGuide(gamma_poisson, family=families.by_prior, joint=True),
            example=torch.ones(9, 1),
        )
    vae = pv.VAE(
        gamma_poisson,
        AutoGuide(gamma_poisson, family=families.student_t, joint=True),
        example=torch.ones(9, 1),
    )
    assert bool(pv.elbo(vae, torch.ones(9, 1), seed=0).elbo.isfinite().all())


def circle(x):
    with pyro.plate("rows", len(x)):
        angle = pyro.sample("angle", dist.VonMises(torch.tensor(math.pi), 0.5))
        point = torch.stack([angle.cos(), angle.sin()], -1)
        pyro.sample("x", dist.Normal(point, 0.5).to_event(1), obs=x)


def test_an_angle_at_the_ends_has_one_mode():
    """Rows whose posterior lies across +-pi: a normal between the ends would be of two modes there."""
    torch.manual_seed(0)
    angle = dist.VonMises(torch.tensor(math.pi), 0.5).sample((1000,))
    x = torch.stack([angle.cos(), angle.sin()], -1) + 0.5 * torch.randn(1000, 2)
    vae = pv.VAE(circle, AutoGuide(circle, hidden=(32,)), example=x, seed=0)
    for rate, epochs in ((1e-2, 30), (1e-3, 10)):
        pv.fit(
            vae, x, epochs=epochs, batch_size=100, seed=0, progress=False,
            optimizer=lambda p, rate=rate: torch.optim.Adam(p, lr=rate),
        )  # fmt: skip
    at_the_cut = torch.tensor([[-1.2, 0.02], [-1.0, -0.02], [-0.8, 0.0]])
    grid = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
    prior = dist.VonMises(torch.tensor(math.pi).double(), 0.5).log_prob(grid)
    points = torch.stack([grid.cos(), grid.sin()], -1)
    seen = dist.Normal(points, 0.5).log_prob(at_the_cut.double()[:, None]).sum(-1)
    truth = (prior + seen).logsumexp(1) + math.log(2 * math.pi / 4000)
    bound = pv.elbo(vae, at_the_cut, num_samples=2000, seed=0)
    assert float((truth - bound.elbo).max()) < 0.15
    found = pv.log_marginal(vae, at_the_cut, num_samples=2000, seed=0)
    assert bool(((found.log_marginal - truth).abs() < 4 * found.std_error).all())
    assert bool((found.khat < 0.5).all())
    assert vae.posterior(at_the_cut)["angle"].support.check(torch.tensor(3.0))
    assert isinstance(
        constraints.interval(-math.pi, math.pi), type(vae.posterior(at_the_cut)["angle"].support)
    )
