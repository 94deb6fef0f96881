"""Calibration: an exact guide passes at the stated rate, wrong ones are caught, in every kind of pair."""

import math
import tracemalloc
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.criticism.simulated_ranks import normalized_weights, weighted_rank
from pyrovae.criticism.uniformity import _null, envelope, uniformity_p_value
from tests.components import MODELS
from tests.oracles import ExactGuide, LinearGaussian, WideGuide
from tests.pairs import PAIRS, binary_rows, composed


def oracle(make_guide=ExactGuide, **of_guide):
    model = LinearGaussian()
    return pv.VAE(model, make_guide(model, **of_guide), example=model.data(5))


def at_most(count, repetitions, rate):
    """Whether so many failures, or more, have a probability above 1e-4 at this rate."""
    from scipy.stats import binom

    return binom.sf(count - 1, repetitions, rate) > 1e-4


def test_uniform_ranks_fail_at_the_nominal_rate():
    generator = np.random.default_rng(1)
    p_values = np.array([uniformity_p_value(generator.integers(0, 20, 100), 19) for _ in range(2000)])
    for rate in (0.01, 0.05, 0.2, 0.5):
        # Ranks are discrete, so that the rate may be missed from below.
        share = (p_values <= rate).mean()
        assert (
            rate - 0.02 - 4 * math.sqrt(rate / 2000) < share < rate + 4 * math.sqrt(rate * (1 - rate) / 2000)
        )


def test_the_envelope_by_hand():
    # One cut at a half: C(0) of 20 ranks is Binomial(20, 1/2), and the p-value its two-sided tail.
    from scipy.stats import binom

    tails = 2 * np.minimum(binom.cdf(np.arange(21), 20, 0.5), binom.sf(np.arange(21) - 1, 20, 0.5))
    for rate in (0.001, 0.03, 0.1, 0.3):
        (least,), (greatest,) = envelope(20, 1, rate, num_null=200_000)
        inside = np.flatnonzero(tails >= rate)
        assert (least, greatest) == (inside[0], inside[-1])


@pytest.mark.parametrize(
    "ranks",
    [
        np.random.default_rng(0).integers(0, 16, 200),
        np.random.default_rng(0).binomial(19, 0.5, 200),
        np.random.default_rng(0).choice([0, 1, 18, 19], 200),
        np.full(200, 19),
    ],
    ids=["too low", "in the middle", "at the ends", "the last"],
)
def test_ranks_that_are_not_uniform_are_found(ranks):
    assert uniformity_p_value(ranks, 19) < 0.001


def test_ranks_with_equal_weights_are_counts():
    draws, truth = torch.randn(9, 500), torch.randn(500)
    ranks = weighted_rank(draws, truth, torch.full((9, 500), 1 / 9).double(), 9)
    assert torch.equal(ranks, (draws < truth).sum(0))
    # Equal draws, to rounding, have every rank alike.
    truth = torch.linspace(1.0, 2.0, 5000)
    ranks = weighted_rank(
        (truth * (1 - 1e-7)).expand(9, 5000), truth, torch.full((9, 5000), 1 / 9).double(), 9
    )
    assert uniformity_p_value(ranks.numpy(), 9) > 1e-3


def test_ranks_among_weighted_draws_are_those_among_draws_of_the_target():
    # Draws of N(0, 2) weighted to N(0, 1), in which the truth is.
    draws, truth = 2 * torch.randn(2000, 4000), torch.randn(4000)
    log_weights = -0.5 * draws**2 + 0.5 * (draws / 2) ** 2
    weights = normalized_weights(log_weights)
    ranks = weighted_rank(draws, truth, weights, 19)
    assert uniformity_p_value(ranks.numpy(), 19) > 1e-3
    unweighted = weighted_rank(draws, truth, torch.full_like(weights, 1 / 2000), 19)
    assert uniformity_p_value(unweighted.numpy(), 19) < 1e-3
    # A weight of one half above, by hand: below 1/4, own share 3/8, and so (1/4 + U 3/8) / (11/8).
    by_hand = weighted_rank(
        torch.tensor([[0.0], [1.0], [2.0]]).expand(3, 4000),
        torch.full((4000,), 0.5),
        torch.tensor([[0.25], [0.25], [0.5]]).double().expand(3, 4000),
        10,
    )
    assert set(by_hand.tolist()) == {2, 3, 4}  # 11 * 2/11 to 11 * 5/11


def test_rows_without_any_weight_count_all_draws_alike():
    nothing, some = torch.full((4,), -math.inf), torch.tensor([0.0, -math.inf, math.nan, 0.0])
    log_weights = torch.stack([nothing, nothing * 0, some], 1)
    expected = torch.tensor([[0.25] * 4, [0.25] * 4, [0.5, 0.0, 0.0, 0.5]]).double().T
    torch.testing.assert_close(normalized_weights(log_weights), expected)


def test_an_exact_guide_passes_at_the_stated_rate():
    vae, repetitions, rate = oracle(), 300, 0.1
    results = [
        pv.calibrate(vae, num_simulations=60, num_draws=9, false_alarm_rate=rate, seed=seed)
        for seed in range(repetitions)
    ]
    failures = sum(not result.passed for result in results)
    corrected = sum(not result.corrected_passed for result in results)
    assert at_most(failures, repetitions, rate), failures
    assert at_most(corrected, repetitions, rate), corrected
    assert failures >= 5  # the test of all quantities together is not idle either
    # Pooled, the coverages are exact to their binomial error: 18,000 simulations.
    pooled = sum(result.coverage["coverage"].to_numpy() for result in results) / repetitions
    levels = results[0].coverage["level"].to_numpy()
    assert (np.abs(pooled - levels) < 4 * np.sqrt(levels * (1 - levels) / (60 * repetitions))).all()


def test_scales_halved_are_caught_and_said_to_be_narrow():
    # A diagonal model, so that a diagonal guide is the posterior's family.
    model = LinearGaussian(K=1, D=2)
    right = pv.VAE(model, WideGuide(model, 1.0, 0.0), example=model.data(5))
    halved = pv.VAE(model, WideGuide(model, 0.5, 0.0), example=model.data(5))
    assert pv.calibrate(right, seed=0).passed
    for seed in range(5):
        result = pv.calibrate(halved, num_simulations=200, seed=seed)
        assert not result.passed
        assert result.to_frame().loc["z[0]", "verdict"] == "guide too narrow"
        coverage = result.coverage.set_index(["quantity", "level"])
        # The central 95 % of q reach 0.98 standard deviations of the posterior: 67 %.
        exact = math.erf(0.5 * 1.959964 / math.sqrt(2))
        for quantity in ("z[0]", "log q(z|x)"):  # the region of highest density of a normal is central
            line = coverage.loc[(quantity, 0.95)]
            assert abs(line["coverage"] - exact) < 4 * line["std_error"] + 0.01
    assert "FAILED" in str(result)
    assert "What to try" in str(result)


def test_levels_that_few_draws_cannot_tell_are_left_out():
    """A truth beyond all draws is in no interval: counted half, 19 draws made 0.64 of a coverage of 0.31."""
    model = LinearGaussian(K=1, D=2)
    narrow = pv.VAE(model, WideGuide(model, 0.2, 0.0), example=model.data(5))
    for num_draws, central in ((19, 0.9), (39, 0.95)):
        result = pv.calibrate(narrow, num_simulations=400, num_draws=num_draws, seed=0)
        for quantity, most in (("z[0]", central), ("log q(z|x)", 0.95)):
            lines = result.coverage[result.coverage["quantity"] == quantity]
            assert lines["level"].max() == most
            exact = [math.erf(0.2 * NormalDist().inv_cdf((1 + level) / 2) / 2**0.5) for level in lines.level]
            # Ends that are draws lie a little farther out than quantiles.
            assert (abs(lines["coverage"] - exact) < 4 * lines["std_error"] + 0.03).all()
        assert ("needs 39 draws" in str(result)) == (num_draws < 39)


@pytest.mark.parametrize(
    "factor, shift, verdict",
    [(2.0, 0.0, "guide too wide"), (1.0, 0.5, "guide too high"), (1.0, -0.5, "guide too low")],
)
def test_other_faults_are_named(factor, shift, verdict):
    model = LinearGaussian(K=1, D=2)
    vae = pv.VAE(model, WideGuide(model, factor, shift), example=model.data(5))
    result = pv.calibrate(vae, num_simulations=300, seed=0)
    assert verdict in result.to_frame().loc["z[0]", "verdict"]


def test_importance_weights_repair_a_guide_that_is_too_wide():
    vae, repetitions = oracle(WideGuide, factor=1.3, shift=0.2), 40
    results = [pv.calibrate(vae, num_simulations=200, num_draws=49, seed=seed) for seed in range(repetitions)]
    assert sum(result.passed for result in results) == 0
    assert at_most(sum(not result.corrected_passed for result in results), repetitions, 0.05)
    assert "Importance weights mend it" in str(next(r for r in results if r.corrected_passed))


class PriorGuide(nn.Module):
    """q(z|x) = p(z): uniform ranks of every latent, and yet wrong."""

    def __init__(self, model):
        super().__init__()

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))


def test_a_guide_that_returns_the_prior_is_caught_by_the_likelihood_alone():
    result = pv.calibrate(oracle(PriorGuide), num_simulations=200, seed=0)
    assert float(result.p_values.loc[["z[0]", "z[1]"], "guide"].min()) > 0.01
    assert result.p_values.loc["log p(x|z)", "guide"] < 0.001
    assert not result.passed


def test_a_model_that_ignores_its_latents_and_its_prior_are_calibrated():
    # All log p(x|z) of a row are equal: ties, to rounding, are broken at random.
    vae = composed()
    with torch.no_grad():
        vae.model.likelihood.network.heads[0].weight.zero_()
        for head in vae.guide.posterior.network.heads:
            head.weight.zero_()
            head.bias.zero_()
    vae.rows(binary_rows())
    x = binary_rows(3)
    scale = pv.elbo(vae, x, num_samples=2, seed=0).rate
    if float(scale.max()) > 1e-6:  # the family's scale at zero is not one
        pytest.skip("the encoder's zero is not the prior")
    assert pv.calibrate(vae, seed=0).passed


def test_enumerated_latents_are_drawn_exactly():
    model, guide = MODELS["GaussianMixture"].make()
    vae = pv.VAE(model, guide, example=MODELS["GaussianMixture"].data(5))
    result = pv.calibrate(vae, num_simulations=300, seed=0)
    assert result.quantities == ("k",)
    assert result.passed


def test_ranks_and_shapes():
    vae = oracle()
    result = pv.calibrate(vae, num_simulations=30, num_draws=7, seed=3)
    assert result.ranks.shape == result.corrected_ranks.shape == (30, 4)
    assert result.ranks.dtype == torch.int64
    assert int(result.ranks.min()) >= 0
    assert int(result.ranks.max()) <= 7
    assert result.quantities == ("z[0]", "z[1]", "log p(x|z)", "log q(z|x)")
    assert list(result.p_values.columns) == ["guide", "corrected"]
    assert list(result.coverage) == [
        "quantity",
        "level",
        "coverage",
        "std_error",
        "corrected",
        "corrected_std_error",
    ]
    page = str(result)
    assert "Expected coverage" in page
    assert all(name in page for name in result.quantities)
    assert torch.equal(result.ranks, pv.calibrate(vae, num_simulations=30, num_draws=7, seed=3).ranks)


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair(name):
    make, context = PAIRS[name]
    vae = make()
    vae.rows(binary_rows(8), *context(8))
    before = torch.get_rng_state()
    # Context of 8 rows is gone through again and again.
    result = pv.calibrate(vae, *context(8), num_simulations=25, num_draws=9, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert "log p(x|z)" in result.quantities
    assert "Expected coverage" in str(result)
    assert result.p_values.notna().all().all()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "MixedTableModel"])
def test_every_model(name):
    vae, (x, *context) = pv.VAE(*MODELS[name].make()), MODELS[name].data(9)
    vae.rows(x, *context)
    result = pv.calibrate(vae, *context, num_simulations=25, num_draws=9, seed=0)
    assert result.ranks.shape == (25, len(result.quantities))
    assert "Expected coverage" in str(result)
    assert result.p_values.notna().all().all()


def test_several_sites_of_one_argument_need_as_x():
    vae = pv.VAE(*MODELS["MixedTableModel"].make(), example=MODELS["MixedTableModel"].data(30))
    with pytest.raises(ValueError, match=r"(?s)several sites.*as_x"):
        pv.calibrate(vae, num_simulations=30)
    result = pv.calibrate(vae, num_simulations=30, num_draws=9, as_x=vae.model.table, seed=0)
    assert result.quantities[:2] == ("z[0]", "z[1]")
    with pytest.raises(ValueError, match="observes something else than was simulated"):
        pv.calibrate(vae, num_simulations=30, as_x=lambda observed: vae.model.table(observed) + 1)


class Scaled(LinearGaussian):
    """Observes half of x."""

    def forward(self, x):
        super().forward(x / 2)


def test_an_x_that_is_not_what_is_observed():
    model = LinearGaussian()
    scaled = Scaled()

    class Guide(nn.Module):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", model.posterior(x / 2))

    vae = pv.VAE(scaled, Guide(), example=model.data(5))
    with pytest.raises(ValueError, match="observes something else than was simulated .* give as_x"):
        pv.calibrate(vae)
    assert pv.calibrate(vae, as_x=lambda observed: 2 * observed["x"], seed=0).passed


def test_masked_observations_need_as_x():
    class Masked(nn.Module):
        def model(self, x, seen):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with pyro.poutine.mask(mask=seen):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x, seen):
            variance = 1 / (1 + seen.float())
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(variance * x * seen, variance.sqrt()))

    pair, seen = Masked(), torch.arange(10) % 2 == 0
    vae = pv.VAE(pair.model, pair.guide, example=(torch.randn(10), seen))
    with pytest.raises(ValueError, match="site 'x' masks some observations"):
        pv.calibrate(vae, seen)
    fill = lambda observed: observed["x"] * seen[torch.arange(500) % 10]  # noqa: E731
    assert pv.calibrate(vae, seen, as_x=fill, seed=0).passed


def test_masked_latents_have_no_rank():
    class Ragged(nn.Module):
        def model(self, x, both):
            with pyro.plate("rows", len(x)):
                a = pyro.sample("a", dist.Normal(0.0, 1.0))
                with pyro.poutine.mask(mask=both):
                    b = pyro.sample("b", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(a + b * both, 1.0), obs=x)

        def guide(self, x, both):
            with pyro.plate("rows", len(x)):
                a = pyro.sample("a", dist.Normal(x / (2.0 + both), (1 - 1 / (2.0 + both)).sqrt()))
                with pyro.poutine.mask(mask=both):
                    pyro.sample("b", dist.Normal((x - a) / 2, 0.5**0.5))

    pair, both = Ragged(), torch.arange(10) % 2 == 0
    vae = pv.VAE(pair.model, pair.guide, example=(torch.randn(10), both))
    result = pv.calibrate(vae, both, seed=0)
    assert bool((result.ranks[~both.repeat(50), 1] == -1).all())
    assert bool((result.ranks[both.repeat(50)] >= 0).all())
    assert result.passed


def test_what_lies_beyond_a_rows_length_has_no_rank():
    vae, (x, lengths) = pv.VAE(*MODELS["DeepMarkovModel"].make()), MODELS["DeepMarkovModel"].data(12)
    vae.rows(x, lengths)
    result = pv.calibrate(vae, lengths, num_simulations=48, num_draws=9, seed=0)
    beyond = torch.arange(4) >= lengths.repeat(4)[:, None]  # [M,T]
    for place, name in enumerate(result.quantities[:8]):
        step = int(name.split("[")[1].split(",")[0])
        assert torch.equal(result.ranks[:, place] == -1, beyond[:, step])
        assert torch.equal(result.corrected_ranks[:, place] == -1, beyond[:, step])


def test_a_latent_that_is_always_masked_is_not_judged():
    vae, (x, _) = pv.VAE(*MODELS["DeepMarkovModel"].make()), MODELS["DeepMarkovModel"].data(12)
    lengths = torch.full((12,), 3)
    vae.rows(x, lengths)
    result = pv.calibrate(vae, lengths, num_simulations=24, num_draws=9, seed=0)
    verdicts = result.to_frame()["verdict"]
    assert verdicts["z[3,0]"] == verdicts["z[3,1]"] == "no ranks"
    assert "no ranks" not in verdicts.drop(["z[3,0]", "z[3,1]"]).tolist()
    # The rate is shared by the quantities that have ranks alone: 8 of 10.
    for least, passed in ((0.0065, True), (0.006, False)):
        p_values = result.p_values.where(result.p_values.isna(), 0.5)
        p_values.loc["z[0,0]", "guide"] = least
        assert replace(result, p_values=p_values).passed == passed


def test_many_simulated_ranks_do_not_fill_the_memory():
    tracemalloc.start()
    try:
        _null.__wrapped__(60, 99, 30_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6  # all at once 24e6 and more


def test_bad_input():
    with pytest.raises(ValueError, match="has not seen any data"):
        pv.calibrate(composed())
    vae = oracle()
    with pytest.raises(ValueError, match="num_simulations is 19: expected at least 20"):
        pv.calibrate(vae, num_simulations=19)
    with pytest.raises(ValueError, match="num_draws is 0"):
        pv.calibrate(vae, num_draws=0)
    with pytest.raises(ValueError, match="false_alarm_rate is 1"):
        pv.calibrate(vae, false_alarm_rate=1.0)
    with pytest.raises(ValueError, match="1 context"):
        pv.calibrate(vae, torch.zeros(3))
