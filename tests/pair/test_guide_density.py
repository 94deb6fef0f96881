"""Guides without a density of the model's latents, and what a guide adds to its loss by `pyro.factor`."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.objectives import ELBO, IWAE, ReweightedWakeSleep
from pyrovae.pair.running import row_terms
from pyrovae.random_state import fixed_seed
from tests.oracles import LinearGaussian, WideGuide

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


def model(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


class Point(nn.Module):
    """A point for each row, as maximum a posteriori has it."""

    def __init__(self, carries=False):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.1))
        self.carries = carries

    def forward(self, x):
        z = self.factor * x
        with pyro.plate("rows", len(x)):
            if self.carries:
                z = z + torch.randn_like(z)
                log_density = dist.Normal(self.factor * x, 1.0).log_prob(z).sum(-1)
                pyro.sample("z", dist.Delta(z, log_density=log_density, event_dim=1))
            else:
                pyro.sample("z", dist.Delta(z, event_dim=1))


class Relaxed(nn.Module):
    """A one-hot latent, drawn from a relaxation whose values are made one-hot."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(2, 3)
        self.decoder = nn.Linear(3, 2)

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            relaxed = dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.7), logits=self.encoder(x))
            pyro.sample("z", relaxed)


def relaxed():
    pair = Relaxed()
    return pv.VAE(pair.model, pair.guide)


FIGURES = {
    "elbo": lambda vae: pv.elbo(vae, X),
    "log_marginal": lambda vae: pv.log_marginal(vae, X, num_samples=5),
    "a mixture": lambda vae: pv.log_marginal(
        vae, X, num_samples=5, method=pv.ImportanceSampling(prior_share=0.5)
    ),
    "diagnose": lambda vae: pv.diagnose(vae, X, num_samples=5),
    "compare": lambda vae: pv.compare({"a": vae, "b": vae}, X, num_samples=5),
    "calibrate": lambda vae: pv.calibrate(vae, num_simulations=20, num_draws=3),
    "to_arviz": lambda vae: pv.to_arviz(vae, X, num_samples=5),
}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: pv.VAE(model, Point()), "'z' from a Delta"),
        (
            relaxed,
            r"'z' is discrete \(OneHotCategorical\) in the model and continuous \(Relaxed.* in the guide",
        ),
    ],
    ids=["Delta", "relaxed"],
)
def test_a_guide_without_a_density_is_refused_where_one_is_asked_for(make, complaint, figure):
    vae = make()
    vae.rows(X)
    with pytest.raises(ValueError, match=complaint):
        FIGURES[figure](vae)


@pytest.mark.parametrize("objective", [None, ELBO()], ids=["Pyro's", "ours"])
@pytest.mark.parametrize("make", [lambda: pv.VAE(model, Point()), relaxed], ids=["Delta", "relaxed"])
def test_it_is_trained_and_log_p_found_without_it(make, objective):
    vae = make()
    history = pv.fit(
        vae, X, validation=X, epochs=3, batch_size=20, objective=objective, progress=False, seed=0
    )
    assert bool(history["loss"].notna().all())
    found = pv.log_marginal(vae, X, num_samples=20_000, method=pv.ImportanceSampling(prior_share=1), seed=0)
    if isinstance(vae.guide, Point):
        exact = dist.Normal(0.0, 1.25**0.5).log_prob(X).sum(-1)
        assert bool(((found.log_marginal - exact).abs() < 5 * found.std_error).all())


def test_a_point_that_carries_its_density_has_one():
    vae = pv.VAE(model, Point(carries=True))
    found = pv.log_marginal(vae, X, num_samples=20_000, seed=0)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(X).sum(-1)
    assert bool(((found.log_marginal - exact).abs() < 5 * found.std_error).all())


class WithFactor(WideGuide):
    """The guide that adds a term of its own to the loss, by row: 2 and what its weight makes of x."""

    def __init__(self, model):
        super().__init__(model)
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x):
        exact = self.model.posterior(x)
        scale = self.factor * exact.variance.sqrt()
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(exact.mean + self.shift * scale, scale).to_event(1))
            pyro.factor("penalty", 2 + self.weight**2 * x[:, 0] ** 2, has_rsample=True)


@pytest.fixture
def pairs():
    """The same pair without a factor and with one, and its rows."""
    twice = ((LinearGaussian(), make) for make in (WideGuide, WithFactor))
    plain, with_factor = (pv.VAE(truth, make(truth)) for truth, make in twice)
    return plain, with_factor, LinearGaussian().data(20)


def test_no_density_has_a_guide_s_factor(pairs):
    plain, with_factor, x = pairs
    for figure in (
        lambda vae: pv.log_marginal(vae, x, num_samples=50, seed=0).log_marginal,
        lambda vae: pv.elbo(vae, x, seed=0).elbo,
        lambda vae: pv.diagnose(vae, x, num_samples=50, seed=0).quality.log_marginal,
        lambda vae: (
            pv.log_marginal(
                vae, x, num_samples=50, seed=0, method=pv.ImportanceSampling(prior_share=0.3)
            ).log_marginal
        ),
    ):
        torch.testing.assert_close(figure(with_factor), figure(plain))


def penalty(vae, x):
    return (2 + vae.guide.weight.detach() ** 2 * x[:, 0] ** 2).double()


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(3),
        ELBO(3, analytic_kl=False),
        ELBO(3, sticking_the_landing=True),
        IWAE(3),
        IWAE(3, doubly_reparameterized=True),
        ReweightedWakeSleep(3),
    ],
    ids=str,
)
def test_objectives_add_a_guide_s_factor_to_the_loss(pairs, objective):
    plain, with_factor, x = pairs
    losses = []
    for vae in (plain, with_factor):
        vae.rows(x)
        with vae.scope(), fixed_seed(0, vae.device):
            losses.append(objective.evaluate(vae, Batch((x,))))
    without, found = losses
    torch.testing.assert_close(found.value, without.value + penalty(with_factor, x))
    torch.testing.assert_close(found.rate, without.rate)
    (slope,) = torch.autograd.grad(found.surrogate.sum(), with_factor.guide.weight)
    torch.testing.assert_close(slope, (2 * with_factor.guide.weight.detach() * x[:, 0] ** 2).sum())


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(2, analytic_kl=False),
        ELBO(2, sticking_the_landing=True),
        IWAE(2),
        IWAE(2, doubly_reparameterized=True),
    ],
    ids=str,
)
def test_factors_of_draws_are_differentiated_along_them(objective):
    def guide_with(weight):
        def guide(x):
            loc = pyro.param("loc", torch.tensor(0.4))
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(loc * x, 0.5).to_event(1))
                pyro.factor("penalty", weight * (z**2).sum(-1), has_rsample=True)

        return guide

    slopes = []
    for weight in (0.0, 1.0):
        vae = pv.VAE(model, guide_with(weight))
        vae.rows(X)
        with vae.scope(), fixed_seed(0, vae.device):
            losses = objective.evaluate(vae, Batch((X,)))
        slopes += torch.autograd.grad(losses.surrogate.sum(), list(vae.parameters()))
    with vae.scope(), fixed_seed(0, vae.device):
        z = row_terms(vae, Batch((X,)), 2).latents["z"]
    torch.testing.assert_close(slopes[1] - slopes[0], (2 * z * X).mean(0).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [None, ELBO(analytic_kl=False)], ids=["Pyro's", "ours"])
def test_a_history_tells_the_elbo_without_the_factor(pairs, objective):
    plain, with_factor, x = pairs
    before = with_factor.guide.weight.detach().clone()
    history, reference = (
        pv.fit(
            vae, x, epochs=1, batch_size=len(x), objective=objective, progress=False, seed=0, compile=False
        )
        for vae in (with_factor, plain)
    )
    added = float((2 + before**2 * x[:, 0] ** 2).mean())
    assert history["elbo"][0] == pytest.approx(reference["elbo"][0], abs=1e-9)
    assert history["loss"][0] == pytest.approx(added - history["elbo"][0], abs=1e-9)
