"""Forecasts: the future of linear-Gaussian chains is known, and intervals hold as many as they say."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.evidence.imputed import ImputedSite
from pyrovae.guides import AmortizedGuide, DiagonalNormal, ExactGuide, MarkovPosterior
from pyrovae.models import Bernoulli, DeepMarkovModel, Normal, Poisson, StandardNormal
from pyrovae.models.sequences import MarkovSequence, PaddedSequence
from pyrovae.nn import GRU, MLP
from tests.chains import D, K, chain_model, chain_rows, chain_vae, with_holes

LENGTHS = torch.tensor([10, 7, 4, 9])
STANDARD = torch.distributions.Normal(0.0, 1.0)


def test_it_is_the_kalman_filters():
    """The exact forecast is the smoother's where the steps to come are absent."""
    model, H, n = chain_model(), 5, 4000
    x = with_holes(chain_rows(model, 4, 10))
    result = pv.forecast(chain_vae(1.2, 0.2), x, LENGTHS, steps=H, num_samples=n, seed=0)
    assert result.draws.shape == (n, 4, H, D)
    assert torch.equal(result.lengths, LENGTHS)
    longer = torch.cat([x, torch.full((4, H, D), torch.nan)], 1)
    longer = longer.where((torch.arange(15) < LENGTHS[:, None])[..., None], torch.nan)
    exact = model.smoothed(longer)
    for row, length in enumerate(LENGTHS.tolist()):
        states = exact.mean[row, length : length + H]
        mean = states @ model.loading.T + model.mean
        covariance = model.loading @ exact.covariance_matrix[row, length : length + H] @ model.loading.T
        variance = covariance.diagonal(dim1=-2, dim2=-1) + model.noise_scale() ** 2
        draws = result.draws[:, row]
        # The filter's particles have an error of their own.
        assert bool(((draws.mean(0) - mean).abs() < 5 * (2 * variance / n).sqrt()).all())
        assert bool(((draws.var(0) / variance - 1).abs() < 5 * (4 / n) ** 0.5).all())
        assert bool(((result.states[:, row].mean(0) - states).abs() < 0.15).all())


def test_intervals_cover():
    model = chain_model()
    whole = chain_rows(model, 150, 26, seed=3)
    result = pv.forecast(chain_vae(1.2), whole[:, :20], steps=6, seed=0)
    low, high = result.interval(0.9)
    inside = (low <= whole[:, 20:]) & (whole[:, 20:] <= high)
    assert 0.87 < float(inside.double().mean()) < 0.93
    frame = result.to_frame(0.9)
    assert len(frame) == 150 * 6 * D
    assert frame.columns.tolist() == ["row", "step", "site", "entry", "mean", "low", "high"]
    assert frame.step.min() == 21
    assert frame.step.max() == 26


@pytest.mark.parametrize("num_draws", [19, 20, 50])
def test_intervals_of_few_draws_hold_another_one_as_often(num_draws):
    """A forecast's and an imputation's: quantiles among so many draws alone would hold 0.81, 0.81 and 0.86."""
    draws = torch.randn(num_draws, 20_000, 1)
    none = torch.zeros(20_000, 1)
    imputed = ImputedSite(draws, none, none.isnan(), None)
    for low, high in (pv.Forecast({"x": draws}, draws, none[:, 0]).interval(0.9), imputed.interval(0.9)):
        held = STANDARD.cdf(high) - STANDARD.cdf(low)
        assert float(held.mean()) == pytest.approx(0.9, abs=0.004)


def driven(emission, lengths=True):
    """A chain pushed by controls, whose future follows theirs."""
    transition = Normal(MLP(K + 1, K), scale=0.3)
    with torch.no_grad():
        transition.network.heads[0].weight.copy_(torch.tensor([[0.5, 0.0, 1.0], [0.0, 0.5, -1.0]]))
        transition.network.heads[0].bias.zero_()
    model = DeepMarkovModel(StandardNormal(K), transition, emission)
    network = GRU(D + 1, 8, future=True, missing=True)
    guide = MarkovPosterior(network, DiagonalNormal(MLP(K + network.out_features, (K, K))), K)
    return pv.VAE(model, AmortizedGuide(guide))


def identity(scale=0.2):
    emission = Normal(MLP(K, D), scale=scale)
    with torch.no_grad():
        emission.network.heads[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        emission.network.heads[0].bias.zero_()
    return emission


def test_controls_go_on_from_each_rows_own_end():
    torch.manual_seed(0)
    vae, x = driven(identity()), torch.randn(4, 10, D)
    x[1, 3] = torch.nan
    controls = torch.zeros(4, 13, 1)
    for row, length in enumerate(LENGTHS.tolist()):
        controls[row, length + 1] = 4.0  # at the second step to come
    method = pv.SequentialMonteCarlo(0.5)
    mean = pv.forecast(vae, x, LENGTHS, controls, steps=3, method=method, seed=0).mean
    still = pv.forecast(vae, x, LENGTHS, 0 * controls, steps=3, method=method, seed=0).mean
    pushed = torch.tensor([[0.0, 4.0, 2.0], [0.0, -4.0, -2.0]]).T.double()  # halved at the third
    torch.testing.assert_close((mean - still)[..., :2], pushed.expand(4, 3, 2), atol=0.15, rtol=0)
    full = pv.forecast(pv.VAE(vae.model, vae.guide), x, None, controls, steps=3, method=method, seed=0)
    assert full.lengths.tolist() == [10] * 4
    with pytest.raises(ValueError, match=r"(?s)does not go on for 3 steps more.*\[N, 13, \.\.\.\]"):
        pv.forecast(vae, x, LENGTHS, controls[:, :10], steps=3, method=method)


@pytest.mark.parametrize("kind", ["binary", "counts"])
def test_binary_and_count_emissions(kind):
    torch.manual_seed(0)
    emission = Bernoulli(MLP(K, D)) if kind == "binary" else Poisson(MLP(K, D))
    vae = driven(emission)
    x = torch.poisson(torch.full((4, 10, D), 2.0))
    x = x.clamp(max=1) if kind == "binary" else x
    x[0, 2] = torch.nan
    method = pv.SequentialMonteCarlo(1.0)
    result = pv.forecast(
        vae, x, LENGTHS, torch.zeros(4, 12, 1), steps=2, num_samples=100, method=method, seed=0
    )
    low, high = result.interval(0.8)
    assert bool((result.draws == result.draws.round()).all())
    assert bool((low <= high).all())
    assert bool(((low == low.round()) & (high == high.round())).all())
    assert 0 < float(result.mean.mean()) < (1 if kind == "binary" else 10)


def test_models_without_lengths_of_their_own_are_refused():
    def model(x, seen):
        lengths = seen.sum(1).long()
        with pyro.plate("rows", len(x)):
            initial = dist.Normal(torch.zeros(D), 1.0).to_event(1)
            step = lambda z: dist.Normal(z, 1.0).to_event(1)  # noqa: E731
            z = pyro.sample("z", MarkovSequence(initial, step, x.shape[1], lengths=lengths))
            pyro.sample("x", PaddedSequence.emitted(step, z, lengths=lengths), obs=x)

    vae, seen = pv.VAE(model), torch.arange(5) < torch.tensor([5, 3, 2, 4])[:, None]
    method = pv.SequentialMonteCarlo(1.0)
    with pytest.raises(ValueError, match="takes the rows' lengths by no argument of its own"):
        pv.forecast(vae, torch.randn(4, 5, D), seen.float(), steps=2, method=method)
    chain = chain_model()
    exact = pv.VAE(chain, ExactGuide(chain))
    with pytest.raises(ValueError, match="steps is 0: expected a whole number"):
        pv.forecast(exact, torch.randn(4, 5, D), steps=0)
    with pytest.raises(ValueError, match="probability is 1.2"):
        pv.forecast(exact, torch.randn(4, 5, D), steps=1).interval(1.2)
