"""The particle filter's bound: the evidence under an exact guide, rising with particles, and its gradient."""

import pyro
import pytest
import torch

import pyrovae as pv
from pyrovae.guides import AmortizedGuide, DiagonalNormal, ExactGuide, MarkovPosterior
from pyrovae.models import DeepMarkovModel, Normal, StandardNormal
from pyrovae.nn import GRU, MLP, GatedTransition
from pyrovae.objectives import FIVO, IWAE
from tests.chains import D, K, chain_model, chain_rows, chain_vae

LENGTHS = torch.tensor([8, 3, 1, 6])


def evaluated(objective, vae, x, *context):
    with vae.scope():
        return objective.evaluate(vae, vae.rows(x, *context).take(slice(None)))


def test_an_exact_guide_gives_the_evidence():
    model = chain_model()
    x = chain_rows(model, 4, 8)
    x[0, 2] = torch.nan
    for objective in (FIVO(1), FIVO(4, resample_below=0.0)):
        found = evaluated(objective, chain_vae(), x, LENGTHS)
        torch.testing.assert_close(found.value, -model.log_marginal(x, LENGTHS), rtol=1e-4, atol=1e-3)


def test_the_bound_rises_with_particles_and_beats_iwae_on_long_chains():
    model = chain_model()
    x = chain_rows(model, 60, 30)
    vae, exact = chain_vae(1.4), float(model.log_marginal(x).mean())
    torch.manual_seed(0)
    bounds = [-float(evaluated(FIVO(k), vae, x).value.mean()) for k in (1, 4, 16, 64)]
    assert bounds == sorted(bounds)
    assert exact - 0.5 < bounds[-1] < exact + 0.1
    assert -float(evaluated(IWAE(64), vae, x).value.mean()) < bounds[3] - 0.5


def deep():
    torch.manual_seed(0)
    transition = Normal(GatedTransition(K, hidden_size=8))
    model = DeepMarkovModel(StandardNormal(K), transition, Normal(MLP(K, (D, D))))
    step = DiagonalNormal(MLP(K + 8, (K, K)))
    return pv.VAE(model, AmortizedGuide(MarkovPosterior(GRU(D, 8, past=False, future=True), step, K)))


@pytest.mark.parametrize("resampling_gradient", [False, True])
@pytest.mark.parametrize("compile", [False, "auto"])
def test_it_trains(resampling_gradient, compile):
    vae, x = deep(), chain_rows(chain_model(), 64, 8)
    lengths = LENGTHS.repeat(16)
    history = pv.fit(
        vae,
        (x, lengths),
        epochs=12,
        batch_size=32,
        objective=FIVO(4, resampling_gradient=resampling_gradient),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
        compile=compile,
        seed=0,
        progress=False,
    )
    assert history.loss.iloc[-1] < history.loss.iloc[0] - 2
    assert history.elbo.iloc[-1] > history.elbo.iloc[0] + 2


def test_it_trains_under_pyros_svi():
    vae, x = deep(), chain_rows(chain_model(), 32, 8)

    def model(x):
        pyro.module("model", vae.model)
        return vae.model(x)

    def guide(x):
        pyro.module("guide", vae.guide)
        return vae.guide(x)

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=FIVO(4))
    torch.manual_seed(0)
    losses = [svi.step(x) / len(x) for _ in range(40)]
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 2
    pyro.clear_param_store()


class Scaled(torch.nn.Module):
    """Three steps of a walk, z_t ~ N(z_{t-1}, 1) and x_t ~ N(z_t, 0.5), under a guide with one parameter."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(0.3))

    def prior(self):
        normal = pyro.distributions.Normal(torch.zeros(1), 1.0).to_event(1)
        return pv.models.sequences.MarkovSequence(
            normal, lambda z: pyro.distributions.Normal(z, 1.0).to_event(1), 3
        )

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.prior())
            emission = lambda z: pyro.distributions.Normal(z, 0.5).to_event(1)  # noqa: E731
            pyro.sample("x", pv.models.sequences.PaddedSequence.emitted(emission, z), obs=x)

    def guide(self, x):
        normal = pyro.distributions.Normal(self.shift + torch.zeros(1), 1.0).to_event(1)
        move = lambda z, now: pyro.distributions.Normal(0.5 * (z + now) + self.shift, 0.8).to_event(1)  # noqa: E731
        with pyro.plate("rows", len(x)):
            pyro.sample("z", pv.models.sequences.MarkovSequence(normal, move, 3, [x]))


def test_the_gradient_with_resampling_is_that_of_the_bound():
    """Against a difference of the bound's mean over many runs; without the resampling's part it is off."""
    pair, rows, eps = Scaled(), 60_000, 0.2
    vae = pv.VAE(pair.model, pair.guide)
    x = torch.tensor([[2.0], [-1.0], [1.5]]).expand(rows, 3, 1).contiguous()

    def bound(shift, **how):
        with torch.no_grad():
            pair.shift.fill_(shift)
        torch.manual_seed(3)
        return evaluated(FIVO(3, resample_below=1.0, **how), vae, x)

    low, high = (
        bound(0.3 + sign * eps, resampling_gradient=True).value.detach().double() for sign in (-1, 1)
    )
    slope = float((high - low).mean()) / (2 * eps)
    error = float((high - low).std()) / (2 * eps * rows**0.5)
    found = {}
    for scores in (True, False):
        losses = bound(0.3, resampling_gradient=scores)
        (by_row,) = torch.autograd.grad(losses.surrogate.mean(), pair.shift)
        found[scores] = float(by_row)
    assert abs(found[True] - slope) < 5 * error + 0.02
    assert abs(found[False] - slope) > abs(found[True] - slope)


def test_what_it_does_not_take_is_named():
    with pytest.raises(ValueError, match="resample_below is -1: expected a number from 0 to 1"):
        FIVO(4, resample_below=-1)
    model = pv.models.LinearGaussian(2, 3)
    vae, x = pv.VAE(model, ExactGuide(model)), torch.randn(5, 3)
    with pytest.raises(ValueError, match="the latent 'z' of the model is Normal, which is no chain"):
        evaluated(FIVO(4), vae, x)
