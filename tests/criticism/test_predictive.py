"""Predictive checks: p-values of statistics are exact where the model is, and small where it is not."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from tests.criticism.test_calibration import at_most
from tests.oracles import ExactGuide, LinearGaussian


@pytest.fixture(scope="module")
def linear():
    return LinearGaussian()


STATISTICS = {"mean": lambda x: x.mean(), "largest": lambda x: float(x.abs().max())}


def test_the_models_own_data_fail_at_the_stated_rate(linear):
    vae, repetitions = pv.VAE(linear, ExactGuide(linear)), 80
    found = [
        pv.predictive_check(
            vae,
            linear.data(8, seed=seed),
            statistics=STATISTICS,
            num_draws=39,
            false_alarm_rate=0.2,
            seed=seed,
        )
        for seed in range(repetitions)
    ]
    p_values = np.array([one.p_values for one in found])
    for rate in (0.1, 0.3):
        assert at_most(int((p_values <= rate).sum()), p_values.size, rate)
    failures = sum(not one.passed for one in found)
    assert at_most(failures, repetitions, 0.2)
    assert failures >= 3


def test_what_the_model_misses_is_named(linear):
    vae, x = pv.VAE(linear, ExactGuide(linear)), linear.data(60)
    wider = (linear.b + 1.6 * (x - linear.b)).detach()
    found = pv.predictive_check(vae, wider, statistics=STATISTICS, seed=0)
    assert found.missed == ["largest"]
    assert "misses largest: hardly any of 199 data sets of 60 rows" in str(found)
    assert list(found.to_frame()) == ["observed", "drawn", "spread", "p_value"]
    assert found.drawn.shape == (199, 2)
    assert pv.predictive_check(vae, x, statistics=STATISTICS, seed=0).passed
    again = pv.predictive_check(vae, wider, statistics=STATISTICS, seed=0)
    assert again.drawn.equals(found.drawn)


@pytest.mark.parametrize("count, rate", [(1, 0.05), (3, 0.07), (5, 0.05)])
def test_too_few_data_sets_to_miss_anything_are_said(count, rate):
    """The data far beyond all that is drawn: 199 data sets found five statistics of them to be as usual."""
    names = [f"s{place}" for place in range(count)]
    observed = pd.Series(9.0, index=names)

    def drawn(num_draws):
        return pv.PredictiveCheck(observed, pd.DataFrame(0.0, range(num_draws), names), 50, rate)

    needed = drawn(1).draws_needed
    enough, few = drawn(needed), drawn(needed - 1)
    assert enough.missed == names
    assert few.passed
    assert f"Nothing can be told of {count} statistics by" in str(few)
    assert f"num_draws={needed} or more" in str(few)


def test_each_row_is_drawn_in_its_context_and_lacks_what_it_lacks():
    def model(x, shift):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 0.01))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(-1, 2), 0.01).to_event(1), obs=x)

    shift = torch.arange(20.0)
    x = shift[:, None].repeat(1, 2)
    x[3, 1] = torch.nan
    found = pv.predictive_check(
        pv.VAE(model),
        x,
        shift,
        statistics={"off": lambda x, c: (x[:, 0] - c).abs().max(), "absent": lambda x, c: x.isnan().sum()},
        num_draws=50,
        seed=0,
    )
    assert float(found.drawn["off"].max()) < 0.1
    assert set(found.drawn["absent"]) == {1.0}
    assert found.p_values["absent"] == 1.0


@pytest.mark.parametrize(
    "statistics, error, message",
    [
        ({"a": lambda x: x.mean(0)}, ValueError, r"'a' gave \[3\] for 5 rows: expected one finite number"),
        ({"a": lambda x: x.sum() / 0}, ValueError, "'a' gave -?inf"),
        ({}, ValueError, "statistics is empty"),
        ([len], TypeError, "expected functions by name"),
    ],
)
def test_wrong_statistics(linear, statistics, error, message):
    with pytest.raises(error, match=message):
        pv.predictive_check(pv.VAE(linear, ExactGuide(linear)), linear.data(5), statistics=statistics)
