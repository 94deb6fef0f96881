"""The two-sample test: the model's own rows pass at the stated rate, others are found, whatever the guide."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.criticism.two_sample import swap_test
from tests.components import MODELS
from tests.criticism.test_calibration import at_most
from tests.oracles import LinearGaussian, WideGuide
from tests.pairs import PAIRS, binary_rows


def test_a_swap_is_a_sign():
    """T of every swap by hand, against the kernels of swapped rows."""
    x, y = torch.randn(2, 6, 2, dtype=torch.float64)

    def statistic(x, y):
        return float(swap_test({"": (x, y)}, 1, torch.Generator()).statistics[0])

    found = swap_test({"": (x, y)}, 4000, torch.Generator().manual_seed(0))
    swapped = []
    for signs in itertools.product((False, True), repeat=6):
        of_swap = torch.tensor(signs)[:, None]
        swapped.append(statistic(torch.where(of_swap, y, x), torch.where(of_swap, x, y)))
    exact = np.mean(np.array(swapped) >= swapped[0] - 1e-9)
    assert float(found.p_values[0]) == pytest.approx(
        exact, abs=4 * (exact * (1 - exact) / 4000) ** 0.5 + 1e-3
    )
    # In units of its own spread over swaps, about zero.
    assert np.mean(swapped) == pytest.approx(0.0, abs=1e-9)
    assert np.std(swapped) == pytest.approx(1.0, abs=1e-9)


def test_rows_that_are_alike_are_not_told_apart():
    same = torch.ones(20, 2)
    found = swap_test(
        {"constant": (same, same), "absent": (same * torch.nan, same * torch.nan)}, 19, torch.Generator()
    )
    assert found.p_values.tolist() == [1.0, 1.0]


@pytest.fixture(scope="module")
def linear():
    return LinearGaussian(K=2, D=4)


@pytest.mark.parametrize("factor", [1.0, 0.5], ids=["exact guide", "poor guide"])
def test_the_models_own_rows_pass_at_the_stated_rate(linear, factor):
    vae, repetitions = pv.VAE(linear, WideGuide(linear, factor, 0.0)), 60
    results = [
        pv.resembles(vae, linear.data(40, seed=seed), num_swaps=99, false_alarm_rate=0.1, seed=seed)
        for seed in range(repetitions)
    ]
    failures = sum(not result.passed for result in results)
    assert at_most(failures, repetitions, 0.1), failures
    assert failures >= 1  # it is not idle either
    assert abs(np.mean([r.features["told_apart"].mean() for r in results]) - 0.5) < 0.05


@pytest.mark.parametrize(
    "change",
    [lambda x: x + 0.229 * torch.randn_like(x), lambda x: torch.cat([x[:60] + 3, x[60:]])],
    ids=["noise by a tenth", "a mode more"],
)
def test_what_the_model_does_not_make_is_found(linear, change):
    vae = pv.VAE(linear, WideGuide(linear, 1.0, 0.0))
    torch.manual_seed(5)
    own = linear.data(600, seed=7)
    assert pv.resembles(vae, own, num_rows=600, seed=0).passed
    other = change(own)
    found = pv.resembles(vae, other, num_rows=600, seed=0)
    assert not found.passed
    assert "NOT like the model's own" in str(found)
    assert found.p_value == found.features["p_value"].min() <= 0.05


def test_rows_of_which_the_model_makes_too_few_are_named(linear):
    x = linear.data(200, seed=3)
    x[:40] += 3
    found = pv.resembles(pv.VAE(linear, WideGuide(linear, 1.0, 0.0)), x, num_rows=100, seed=0)
    most = found.places[found.unlikeness.argsort(descending=True)[:10]]
    assert bool((most < 40).all())
    assert found.places.tolist() == list(range(0, 200, 2))


def test_context_and_what_rows_lack_do_not_tell_them_apart():
    """Rows whose means and gaps differ from row to row are the model's own all the same."""

    def model(x, shift):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(-1, 3), 0.5).to_event(1), obs=x)

    def guide(x, shift):
        seen = (~x.isnan()).sum(1)
        precision = 1 + 4 * seen
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal((shift + 4 * x.nansum(1)) / precision, precision**-0.5))

    torch.manual_seed(0)
    shift = 5 * torch.randn(150)
    x = (shift + torch.randn(150))[:, None] + 0.5 * torch.randn(150, 3)
    x[torch.rand(150, 3) < 0.2 + 0.4 * (shift > 0)[:, None]] = torch.nan
    x[x.isnan().all(1), 0] = 0.0
    vae = pv.VAE(model, guide)
    keep = ~((x[:, 0] == 0) & x[:, 1:].isnan().all(1))
    assert pv.resembles(vae, x[keep], shift[keep], seed=0).passed
    assert not pv.resembles(vae, x[keep], -shift[keep], seed=0).passed


def test_summaries_of_ones_own(linear):
    vae, x = pv.VAE(linear, WideGuide(linear, 1.0, 0.0)), linear.data(50)
    own = {"largest": lambda x: x.abs().amax(1), "pairs": lambda x: x[:, :2] * x[:, 2:]}
    found = pv.resembles(vae, x, summaries=own, seed=0)
    assert list(found.features.index) == ["x", "z", "largest", "pairs", "log p(x|z)", "rate"]
    for summaries, error, message in (
        ({"a": lambda x: x.sum()}, ValueError, r"'a' gave \[\] for 50 rows: expected \[50\] or \[50, k\]"),
        ({"x": lambda x: x}, ValueError, "summaries has 'x', which is compared anyhow"),
        ({"a": lambda x: x[:, 0] / 0}, ValueError, "'a' is infinite for some rows"),
        ([len], TypeError, "expected functions by name"),
    ):
        with pytest.raises(error, match=message):
            pv.resembles(vae, x, summaries=summaries)
    with pytest.raises(ValueError, match="x has 9 rows: expected at least 10"):
        pv.resembles(vae, x[:9])
    with pytest.raises(ValueError, match="num_rows is 3"):
        pv.resembles(vae, x, num_rows=3)
    with pytest.raises(ValueError, match="false_alarm_rate is 2"):
        pv.resembles(vae, x, false_alarm_rate=2)


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair(name):
    make, context = PAIRS[name]
    before = torch.get_rng_state()
    vae = make()
    torch.set_rng_state(before)
    found = pv.resembles(vae, binary_rows(12), *context(12), num_swaps=19, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert found.features["p_value"].between(0, 1).all()
    assert "Tested" in str(found)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "MixedTableModel"])
def test_every_model(name):
    vae, data = pv.VAE(*MODELS[name].make()), MODELS[name].data(12)
    found = pv.resembles(vae, *data, num_swaps=19, seed=0)
    assert set(vae.layout.observed) | set(vae.layout.latents) <= set(found.features.index)


def test_several_sites_of_one_argument_need_as_x():
    vae, (x,) = pv.VAE(*MODELS["MixedTableModel"].make()), MODELS["MixedTableModel"].data(20)
    with pytest.raises(ValueError, match=r"(?s)several sites.*as_x"):
        pv.resembles(vae, x)
    assert len(pv.resembles(vae, x, as_x=vae.model.table, num_swaps=19, seed=0).unlikeness) == 20
