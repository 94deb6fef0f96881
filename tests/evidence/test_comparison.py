"""Comparison of VAEs: elpd, its differences and weights against hand computation and against ArviZ."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import nn

import pyrovae as pv
from pyrovae.evidence.comparison import comparison_of
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.stacking import stacking_weights
from tests.components import LIKELIHOODS, net
from tests.oracles import ExactGuide, LinearGaussian, WideGuide
from tests.pairs import binary_rows, composed, tutorial


def results_of(pointwise, khat=0.1, std_error=0.0, bias=0.0):
    """What log_marginal would give, from known log p(x), [N] each."""
    return {
        name: LogMarginal(
            log_marginal=values,
            std_error=torch.full_like(values, std_error),
            ess=values,
            khat=torch.full_like(values, khat),
            elbo=values,
            variance=torch.full_like(values, std_error**2),
            bias=torch.full_like(values, bias),
            num_samples=1000,
            dimensions="",
        )
        for name, values in pointwise.items()
    }


@pytest.fixture
def pointwise():
    generator = torch.Generator().manual_seed(0)
    draw = lambda spread: torch.randn(60, generator=generator, dtype=torch.float64) * spread  # noqa: E731
    common = draw(3.0) - 20
    return {"a": common + draw(1.0), "b": common + 0.1 + draw(1.0), "c": common - 2 + draw(0.5)}


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ 0.23 with pandas 3.1
def test_the_table_equals_what_arviz_says_of_the_same_densities(pointwise):
    import arviz

    if int(arviz.__version__.split(".")[0]) >= 1:
        pytest.skip("ELPDData is made otherwise there")
    elpds = {}
    for name, values in pointwise.items():
        values = values.numpy()
        facts = {
            "elpd_loo": values.sum(),
            "se": math.sqrt(len(values) * values.var()),
            "p_loo": 0.0,
            "n_samples": 1,
            "n_data_points": len(values),
            "warning": False,
            "loo_i": xr.DataArray(values),
            "scale": "log",
        }
        elpds[name] = arviz.stats.stats_utils.ELPDData(data=list(facts.values()), index=list(facts))
    theirs = arviz.compare(elpds, method="stacking")
    ours = comparison_of(results_of(pointwise)).table
    assert list(ours.index) == list(theirs.index)
    assert list(ours["rank"]) == list(theirs["rank"]) == [0, 1, 2]
    for our_name, their_name in (
        ("elpd", "elpd_loo"),
        ("elpd_diff", "elpd_diff"),
        ("se", "se"),
        ("dse", "dse"),
    ):
        np.testing.assert_allclose(ours[our_name], theirs[their_name], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours["weight"], theirs["weight"], atol=2e-3)  # theirs stops early


def test_the_columns_are_those_of_arviz():
    table = comparison_of(results_of({"a": torch.zeros(2).double(), "b": torch.ones(2).double()})).table
    assert list(table)[:7] == ["rank", "elpd", "elpd_diff", "weight", "se", "dse", "warning"]


def test_stacking_weights_satisfy_the_conditions_of_the_maximum(pointwise):
    # Karush-Kuhn-Tucker: the mean of p_k / mixture is 1 where w_k > 0 and at most 1 elsewhere.
    values = torch.stack(list(pointwise.values()), 1)
    weights = stacking_weights(values)
    slopes = (values.exp() / (values.exp() @ weights)[:, None]).mean(0)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert bool((slopes <= 1 + 1e-5).all())
    torch.testing.assert_close(
        slopes[weights > 1e-6], torch.ones(int((weights > 1e-6).sum())).double(), atol=1e-5, rtol=0
    )
    assert bool((weights > 0.01).sum() >= 2)  # else the conditions say nothing


def test_weights_by_hand_and_without_underflow():
    # p_a = (3, 1), p_b = (1, 3): by symmetry a half each; p_a always larger: all of it.
    log = lambda *values: torch.tensor(values).double().log()  # noqa: E731
    for shift in (0.0, -5000.0):
        halves = stacking_weights(torch.stack([log(3, 1), log(1, 3)], 1) + shift)
        torch.testing.assert_close(halves, torch.full((2,), 0.5).double())
        one = stacking_weights(torch.stack([log(2, 2), log(1, 1)], 1) + shift)
        torch.testing.assert_close(one, torch.tensor([1.0, 0.0]).double(), atol=1e-6, rtol=0)
    # w maximizes 2 log(3w + (1-w)) + log(w + 3(1-w)): 4 / (1 + 2w) = 2 / (3 - 2w), w = 5/6.
    skewed = stacking_weights(torch.stack([log(3, 3, 1), log(1, 1, 3)], 1))
    torch.testing.assert_close(skewed, torch.tensor([5 / 6, 1 / 6]).double(), atol=1e-5, rtol=0)


def test_pairs_and_monte_carlo_errors_by_hand():
    values = {"a": torch.tensor([1.0, 2.0]).double(), "b": torch.tensor([0.0, 4.0]).double()}
    result = comparison_of(results_of(values, khat=0.9, std_error=0.3))
    assert list(result.table.index) == ["b", "a"]
    row = result.differences.iloc[0]
    assert (row["better"], row["worse"], row["elpd_diff"]) == ("b", "a", 1.0)
    assert row["dse"] == pytest.approx(math.sqrt(2 * 2.25))  # differences -1 and 2, variance 2.25
    assert row["mc_error"] == pytest.approx(math.sqrt(4 * 0.09))
    assert result.table["mc_error"].tolist() == pytest.approx([math.sqrt(2 * 0.09)] * 2)
    assert result.table["bad_k"].tolist() == [2, 2]
    assert result.table["warning"].all()
    assert "WARNING: Pareto k of some of 2 rows is not below 0.67: 2 of 'b', 2 of 'a'. Their elpd" in str(
        result
    )
    assert str(result).count("Pareto k") == 1  # for all models at once
    good = comparison_of(results_of(values, khat=-math.inf))
    assert not good.table["warning"].any()
    assert "WARNING" not in str(good)
    assert "not told apart" in str(good)


def test_elpd_of_exact_models():
    """Two linear-Gaussian models, one of them the truth: every figure from closed-form densities."""
    truth, other = LinearGaussian(seed=0), LinearGaussian(seed=0, scale=0.8)
    x = truth.data(200)
    vaes = {"other": pv.VAE(other, WideGuide(other)), "truth": pv.VAE(truth, ExactGuide(truth))}
    result = pv.compare(vaes, x, num_samples=2000, seed=0)
    table = result.table
    a, b = truth.evidence().log_prob(x), other.evidence().log_prob(x)
    assert list(table.index) == ["truth", "other"]
    errors = table["mc_error"]
    assert abs(table.loc["other", "elpd"] - float(b.sum())) < 4 * errors["other"]
    assert table.loc["truth", "elpd"] == pytest.approx(float(a.sum()), abs=1e-6)
    assert (
        abs(table.loc["other", "elpd_diff"] - float((a - b).sum())) < 4 * table.loc["other", "diff_mc_error"]
    )
    assert table.loc["other", "dse"] == pytest.approx(
        math.sqrt(200 * float((a - b).var(correction=0))), rel=0.02
    )
    assert table.loc["other", "elpd_diff"] > 3 * table.loc["other", "dse"]
    assert "'truth' is better than 'other'" in str(result)
    assert table.loc["truth", "weight"] > 0.8


def test_one_model_with_a_good_guide_and_with_a_bad_one_differ_by_nothing_but_are_flagged():
    model = LinearGaussian()
    vaes = {
        "good": pv.VAE(model, WideGuide(model, 1.2, 0.0)),
        "narrow": pv.VAE(model, WideGuide(model, 0.4, 0.0)),
    }
    result = pv.compare(vaes, model.data(100), num_samples=1000, seed=0)
    assert result.table.loc["narrow", "elpd_diff"] > 3 * result.table.loc["narrow", "dse"]
    assert "better than" not in str(result)
    assert "'good' is ahead, perhaps by a better guide only, of 'narrow'" in str(result)
    assert not result.table.loc["good", "warning"]
    assert result.table.loc["narrow", "warning"]
    assert result.table.loc["narrow", "bad_k"] == int((result.results["narrow"].khat >= 2 / 3).sum()) > 10


def test_who_was_not_checked_is_said():
    model, other = LinearGaussian(), LinearGaussian()
    with torch.no_grad():
        other.b += 30.0
    vaes = {name: pv.VAE(m, ExactGuide(m)) for name, m in {"truth": model, "shifted": other}.items()}
    whole = pv.compare(vaes, model.data(100), num_samples=50, seed=0)
    assert "'truth' is better than 'shifted'" in str(whole)
    assert "reverse_check" not in str(whole)
    assert "No reverse_check() was made of 'shifted'" in str(pv.compare(dict(whole.results)))


def test_a_model_far_ahead_is_better_though_the_guides_are_poor():
    # What the guides may hide is far less than what the models differ by.
    model = LinearGaussian()
    other = LinearGaussian()
    with torch.no_grad():
        other.b += 30.0
    vaes = {n: pv.VAE(m, WideGuide(m, 0.4, 0.0)) for n, m in {"truth": model, "shifted": other}.items()}
    result = pv.compare(vaes, model.data(100), num_samples=1000, seed=0)
    assert result.table.loc["shifted", "bad_k"] > 10
    assert "'truth' is better than 'shifted'" in str(result)


@pytest.mark.parametrize(
    "S, factor", [(100, 2.0), (100, 3.0), (300, 0.6), (10, 0.7), (1000, 0.4), (1000, 0.3)]
)
def test_a_model_is_not_better_than_itself_under_a_worse_guide(S, factor):
    # Thousands of rows make the bias of the worse guide's estimates larger than any error over rows.
    model = LinearGaussian()
    vaes = {"exact": pv.VAE(model, ExactGuide(model)), "other": pv.VAE(model, WideGuide(model, factor, 0.0))}
    result = pv.compare(vaes, model.data(4000), num_samples=S, seed=0)
    assert "better than" not in str(result)
    assert result.table.loc["other", "elpd_diff"] > 2 * result.table.loc["other", "dse"]
    if factor > 1:  # weights are bounded, k is good, and the bias is known
        assert result.results["other"].share_good > 0.98
        assert "'exact' is not told apart from 'other'" in str(result)


def test_bias_is_taken_off_the_difference():
    values = {"a": torch.linspace(0, 1, 100).double(), "b": torch.linspace(0, 1, 100).double() ** 2 - 0.1}
    plain = comparison_of(results_of(values))
    difference, margin = plain.table.loc["b", ["elpd_diff", "margin"]]
    gaps = values["a"] - values["b"]
    rows_apart = 2 * float((gaps - gaps.mean()).abs().max())
    assert "'a' is better than 'b'" in str(plain)
    beyond_margin, beyond_error = difference - margin, difference - margin + rows_apart
    by_rows = "ahead, perhaps by a few rows only, of"
    cases = (
        (0.9 * beyond_margin, "better than"),
        (beyond_margin + 0.1 * rows_apart, by_rows),
        (beyond_error - 0.1 * rows_apart, by_rows),
        (1.1 * beyond_error, "not told apart from"),
    )
    for bias, verdict in cases:
        results = results_of(values)
        by_row = torch.full((100,), -bias / 100).double()
        results["b"] = replace(results["b"], bias=by_row)
        biased = comparison_of(results)
        assert f"'a' is {verdict} 'b'" in str(biased)
        assert biased.table.loc["b", "diff_bias"] == pytest.approx(-biased.table.loc["b", "bias"])
        assert biased.differences["bias"].item() == pytest.approx(bias)
    # A bias of the better one's works the other way, and makes nothing worse.
    results = results_of(values)
    results["a"] = replace(results["a"], bias=torch.full((100,), -5.0).double())
    assert "'a' is better than 'b'" in str(comparison_of(results))
    # Where k tells nothing, as much as the weights made good may still be hidden.
    by_guide = "ahead, perhaps by a better guide only, of"
    for hidden, verdict in ((0.9 * beyond_margin, "better than"), (1.1 * beyond_error, by_guide)):
        unknown = results_of(values, khat=math.nan)
        unknown["b"] = replace(unknown["b"], elbo=unknown["b"].log_marginal - hidden / 100)
        assert f"'a' is {verdict} 'b'" in str(comparison_of(unknown))


def equal_models(kind, num_models, num_rows, generator):
    """log p(x) of models of equal merit, by row: differences of mean zero."""
    shape = (num_models, num_rows)
    if kind == "normal":
        return generator.normal(size=shape)
    if kind == "log-normal":  # the first is a constant: differences to it are skewed
        values = math.exp(0.5) - np.exp(generator.normal(size=shape))
    else:  # one row in a hundred is 99 nats worse
        values = np.where(generator.random(shape) < 0.01, -99.0, 1.0)
    values[0] = 0.0
    return values


@pytest.mark.parametrize(
    "kind, num_models, num_rows, pages",
    [
        ("normal", 2, 200, 300),
        ("normal", 5, 200, 200),
        ("normal", 20, 200, 40),
        ("log-normal", 2, 20, 100),
        ("log-normal", 2, 100, 300),
        ("log-normal", 5, 200, 200),
        ("rare rows", 2, 20, 100),
    ],
)
def test_equal_models_are_called_better_at_most_at_the_stated_rate(kind, num_models, num_rows, pages):
    """By 2 standard errors: 5, 27 and 91 % of the pages of normal differences, and 82 % of the last."""
    from scipy.stats import binom

    generator, found = np.random.default_rng(0), 0
    for _ in range(pages):
        values = torch.as_tensor(equal_models(kind, num_models, num_rows, generator))
        result = comparison_of(results_of({f"model {i}": row for i, row in enumerate(values)}))
        found += "better than" in str(result)
        assert ("rows are few" in str(result)) == (num_rows < 100)
    assert binom.sf(found - 1, pages, 0.05) > 0.01, found


def test_models_a_nat_a_row_apart_are_told_apart_among_twenty():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 200, generator=generator).double()
    values[7] += 1.0
    result = comparison_of(results_of({f"model {i}": row for i, row in enumerate(values)}))
    assert str(result).count("'model 7' is better than") == 19
    assert "few" not in str(result)


def test_the_margin_by_hand_and_few_rows_that_make_the_difference():
    # Differences: 99 of zero and one of 100 nats.
    one_row = torch.zeros(100).double()
    one_row[0] = 100.0
    result = comparison_of(results_of({"a": one_row, "b": torch.zeros(100).double(), "c": one_row - 1}))
    pairs = result.differences.set_index(["better", "worse"])
    # Student's t with 99 degrees of freedom at 1 - 0.025 / 3; a standard deviation of 10, and 99 to the farthest row.
    assert pairs.loc[("a", "b"), "margin"] == pytest.approx(2.4353 * 100 + 2 * 99, rel=1e-4)
    assert result.table.loc["b", "margin"] == pairs.loc[("a", "b"), "margin"]
    assert result.table["margin"].iloc[0] == 0
    assert "'a' is not told apart from 'b'" in str(result)  # by an error's distance either
    assert "'a' is better than 'c'" in str(result)  # by one nat in every row


def test_results_of_before_stand_in_for_models():
    model, other = LinearGaussian(), LinearGaussian(scale=0.8)
    x = model.data(120)
    vaes = {"truth": pv.VAE(model, WideGuide(model)), "other": pv.VAE(other, WideGuide(other))}
    whole = pv.compare(vaes, x, num_samples=50, seed=3)
    ready = pv.compare(dict(whole.results))
    assert ready.table.equals(whole.table)
    assert str(ready) == str(whole)
    mixed = pv.compare({"truth": vaes["truth"], "other": whole.results["other"]}, x, num_samples=50, seed=3)
    assert mixed.table.equals(whole.table)
    fewer = pv.log_marginal(vaes["other"], x, num_samples=20, seed=0)
    assert "120 rows, 20 or 50 samples each" in str(pv.compare({**whole.results, "other": fewer}))


def test_annealing_sees_that_a_model_equals_itself_under_a_narrow_guide():
    model = LinearGaussian()
    x = model.data(100)
    vaes = {"good": pv.VAE(model, ExactGuide(model)), "narrow": pv.VAE(model, WideGuide(model, 0.3, 0.0))}
    by_guides = pv.compare(vaes, x, num_samples=16, seed=0)
    method = pv.AnnealedImportanceSampling(num_temperatures=100)
    annealed = pv.compare(vaes, x, method=method, num_samples=16, seed=0)
    exact = float(model.evidence().log_prob(x).sum())
    assert by_guides.table.loc["narrow", "elpd"] < exact - 20
    assert annealed.table.loc["narrow", "elpd"] == pytest.approx(exact, abs=5)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: {**r, "b": r["b"][:3]}, "'a' has 5 rows and 'b' 3: a comparison takes the same rows"),
        (lambda r: {n: v[:1] for n, v in r.items()}, "there is one row"),
        (lambda r: {**r, "b": r["b"] * math.nan}, "the model 'b' has no finite log p.x. for row 0"),
    ],
)
def test_results_that_cannot_be_compared(change, message):
    values = {"a": torch.zeros(5).double(), "b": torch.ones(5).double()}
    with pytest.raises(ValueError, match=message):
        pv.compare(results_of(change(values)))


def test_results_of_densities_and_of_probabilities_are_refused():
    results = results_of({"a": torch.zeros(5).double(), "b": torch.ones(5).double()})
    results["b"] = replace(results["b"], dimensions=torch.full((5,), 6))
    with pytest.raises(ValueError, match="'a' holds densities and 'b' probabilities"):
        pv.compare(results)


def test_data_are_needed_by_models_alone():
    results = results_of({"a": torch.zeros(5).double(), "b": torch.ones(5).double()})
    with pytest.raises(ValueError, match="x is not used, leave it out"):
        pv.compare(results, binary_rows())
    with pytest.raises(ValueError, match=r"the models \['c'\] come without figures: x is needed"):
        pv.compare({**results, "c": composed()})


def test_a_seed_decides_everything():
    model = LinearGaussian()
    x, vaes = model.data(5), {name: pv.VAE(model, WideGuide(model)) for name in "ab"}
    first, second = (pv.compare(vaes, x, num_samples=30, seed=4).table for _ in range(2))
    assert first.equals(second)
    assert first["elpd_diff"].iloc[1] > 0  # each model has draws of its own


class Observing(nn.Module):
    """A standard normal z, and whatever is observed of x."""

    def __init__(self, observe):
        super().__init__()
        self.observe = observe

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            self.observe(z.unsqueeze(-1), x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x.sum(-1), 1.0))


def observing(observe):
    pair = Observing(observe)
    return pv.VAE(pair.model, pair.guide)


def normal(z, x, name="x"):
    pyro.sample(name, dist.Normal(z.expand(z.shape[:-1] + x.shape[-1:]), 1.0).to_event(1), obs=x)


def bits(z, x):
    pyro.sample("x", dist.Bernoulli(logits=z.expand(z.shape[:-1] + x.shape[-1:])).to_event(1), obs=x)


def in_two_sites(z, x):
    normal(z, x[..., 3:], "right")
    normal(z, x[..., :3], "left")


def masked_by_handler(z, x):
    with pyro.poutine.mask(mask=x[..., 0] > 0):
        normal(z, x)


@pytest.mark.parametrize(
    "observe, message",
    [
        (bits, "'normal' observes continuous values and 'other' discrete ones: a probability and a density"),
        (
            lambda z, x: normal(z, x[..., :2]),
            "observe different numbers of the same rows .*192 continuous against 64",
        ),
        (lambda z, x: normal(z, x / 255), "different numbers .* on another scale"),
        (masked_by_handler, "different numbers of the same rows"),
    ],
)
def test_models_of_other_numbers_are_refused(observe, message):
    with pytest.raises(ValueError, match=message):
        pv.compare({"normal": observing(normal), "other": observing(observe)}, binary_rows(), num_samples=5)


def test_models_that_observe_the_same_numbers_in_another_way_are_compared():
    x = torch.randn(40, 6)
    table = pv.compare(
        {"one": observing(normal), "two": observing(in_two_sites)}, x, num_samples=300, seed=0
    ).table
    assert table["elpd_diff"].iloc[1] < 5 * table["diff_mc_error"].iloc[1]


@pytest.mark.parametrize(
    "first, second, refused",
    [
        ("Bernoulli", "Poisson", False),
        ("Poisson", "Categorical", False),
        ("Poisson", "ZeroInflatedNegativeBinomial", False),
        ("Poisson", "DiscretizedLogistic, by network", False),
        ("Normal, fixed scale", "Laplace, by network", False),
        ("Normal, fixed scale", "ContinuousBernoulli", False),
        ("Bernoulli", "ContinuousBernoulli", True),
        ("Normal, by network", "Poisson", True),
        ("DiscretizedLogistic, by network", "StudentT, fixed df", True),
    ],
)
def test_discrete_and_continuous_likelihoods_of_the_table(first, second, refused):
    def make(name):
        decoder = LIKELIHOODS[name].make(2)
        model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), decoder)
        return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(net(3, (2, 2)))))

    x = torch.bernoulli(torch.full((8, 3), 0.5))
    vaes = {"first": make(first), "second": make(second)}
    if refused:
        with pytest.raises(ValueError, match="a probability and a density have different units"):
            pv.compare(vaes, x, num_samples=3)
    else:
        assert len(pv.compare(vaes, x, num_samples=3, seed=0).table) == 2


def test_models_of_other_rows_are_refused():
    with pytest.raises(ValueError, match=r"the model 'b': .*shape \[6\].*shape \[4\]"):
        pv.compare({"a": composed(), "b": pv.VAE(*parts(4), example=torch.zeros(3, 4))}, binary_rows())
    with pytest.raises(ValueError, match="at least two"):
        pv.compare({"a": composed(), "b": composed()}, binary_rows(1))


def parts(D):
    vae = composed(D=D)
    return vae.model, vae.guide


@pytest.mark.parametrize(
    "vaes, kind, message",
    [
        ({}, ValueError, "got 0 model: a comparison takes at least two"),
        ({"a": composed()}, ValueError, "got 1 model: .* use log_marginal"),
        ([composed(), composed()], TypeError, "vaes is list: expected VAEs by name"),
        (
            {"a": composed(), "b": 3},
            TypeError,
            "'b' is int: expected a pyrovae.VAE, or what log_marginal gave",
        ),
    ],
)
def test_what_is_no_comparison(vaes, kind, message):
    with pytest.raises(kind, match=message):
        pv.compare(vaes, binary_rows())


def test_nan_is_refused_by_name():
    broken = composed()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="the model 'broken': "):
        pv.compare({"whole": composed(), "broken": broken}, binary_rows(), num_samples=5)
    with pytest.raises(ValueError, match="num_samples is 0"):
        pv.compare({"a": composed(), "b": composed()}, binary_rows(), num_samples=0)


def test_a_single_sample_has_no_monte_carlo_error():
    result = pv.compare({"a": composed(), "b": tutorial()}, binary_rows(), num_samples=1, seed=0)
    table = result.table
    assert table["mc_error"].isna().all()
    assert not table["warning"].any()  # k cannot be known
    assert "Pareto k of some of 40 rows is unknown, for too few different draws: 40 of " in str(result)
    assert str(result).count("Pareto k") == 1
