"""Users' quantities, TARP and recovery: exact guides pass at the stated rate, faults are found where they are."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.criticism.quantities import DISTANCE, RandomPoints
from tests.components import MODELS
from tests.criticism.test_calibration import at_most, oracle
from tests.oracles import LinearGaussian, WideGuide


def norm(z, x):
    return z.norm(dim=-1)


def calibrated(vae, **choices):
    return pv.calibrate(vae, quantities={"norm": norm}, tarp=True, **choices)


class Uncorrelated(nn.Module):
    """The marginals of the posterior without its correlation: no single latent shows it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        exact = self.model.posterior(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(exact.mean, exact.variance.sqrt()).to_event(1))


def test_an_exact_guide_passes_at_the_stated_rate():
    vae, repetitions = oracle(), 100
    results = [calibrated(vae, num_simulations=60, num_draws=9, seed=seed) for seed in range(repetitions)]
    assert results[0].quantities[4:] == ("norm", DISTANCE)
    assert at_most(sum(not result.passed for result in results), repetitions, 0.05)
    for quantity in ("norm", DISTANCE):
        for which in ("guide", "corrected"):
            small = sum(result.p_values.loc[quantity, which] < 0.1 for result in results)
            assert at_most(small, repetitions, 0.1), (quantity, which, small)
    # Balls that hold so much of q hold the truth as often, to the binomial error of 6,000 simulations.
    pooled = sum(result.coverage.set_index("quantity")["coverage"][DISTANCE].to_numpy() for result in results)
    levels = results[0].coverage["level"].unique()
    assert (abs(pooled / repetitions - levels) < 4 * (levels * (1 - levels) / 6_000) ** 0.5).all()


def test_the_figures_that_were_there_stay():
    """What is asked for beside them changes no rank of the others."""
    vae = oracle()
    alone, more = (f(vae, num_simulations=40, num_draws=9, seed=3) for f in (pv.calibrate, calibrated))
    assert torch.equal(alone.ranks, more.ranks[:, :4])
    assert torch.equal(alone.corrected_ranks, more.corrected_ranks[:, :4])


def test_a_correlation_left_out_shows_in_balls_alone():
    model = LinearGaussian(K=2, D=2, scale=1.0)
    model.W.data = torch.tensor([[1.0, 0.95], [0.95, 1.0]], dtype=torch.float64) * 2
    vae = pv.VAE(model, Uncorrelated(model), example=model.data(5))
    result = pv.calibrate(vae, num_simulations=800, tarp=True, seed=0)
    assert (result.p_values.loc[["z[0]", "z[1]"], "guide"] > 0.01).all()
    assert result.p_values.loc[DISTANCE, "guide"] < 0.005
    assert "distance to a random point" in str(result)


def test_a_rank_of_a_quantity_is_that_of_its_values():
    """By the first latent itself, as a function: another name for the same ranks, ties aside."""
    vae = oracle()
    result = pv.calibrate(
        vae, num_simulations=50, num_draws=9, quantities={"first": lambda z, x: z[..., 0]}, seed=0
    )
    place = result.quantities.index("first")
    assert torch.equal(result.ranks[:, place], result.ranks[:, 0])
    assert result.to_frame().loc["first", "verdict"] == "nothing against it"


def test_functions_take_latents_by_site_and_context():
    seen = {}

    def both(z, x, *context):
        seen.update(sites=set(z), shapes={name: tuple(value.shape) for name, value in z.items()}, x=x.shape)
        return sum(value.flatten(2).sum(-1) for value in z.values())

    vae = pv.VAE(*MODELS["HierarchicalModel"].make(), example=MODELS["HierarchicalModel"].data(5))
    result = pv.calibrate(vae, num_simulations=20, num_draws=4, quantities={"sum": both}, tarp=True, seed=0)
    assert seen["sites"] == set(vae.layout.hidden)
    assert {shape[:2] for shape in seen["shapes"].values()} == {(41, 20)}
    assert seen["x"][0] == 20
    assert "sum" in result.quantities


def test_nan_for_all_draws_of_a_row_is_no_rank():
    def of_some(z, x):
        return torch.where(x[:, 0] > 0, z[..., 0], torch.nan)

    vae = oracle()
    result = pv.calibrate(vae, num_simulations=60, num_draws=9, quantities={"some": of_some}, seed=0)
    ranks = result.ranks[:, result.quantities.index("some")]
    assert 0 < int((ranks == -1).sum()) < 60
    assert bool((result.recovery.truth[:, -1].isnan() == (ranks == -1)).all())


@pytest.mark.parametrize(
    "quantities, error, message",
    [
        ({"norm": lambda z, x: z.norm()}, ValueError, r"'norm' gave \[\] for 91 draws of 20 rows: expected"),
        ({"one": lambda z, x: 1.0}, ValueError, "'one' gave float"),
        ({"z": norm}, ValueError, r"quantities has \['z'\], which calibrate ranks anyhow"),
        ({"log p(x|z)": norm}, ValueError, "which calibrate ranks anyhow"),
        ([norm], TypeError, "expected functions by name"),
        ({"norm": 3}, TypeError, "expected functions by name"),
        ({1: norm}, TypeError, "expected strings"),
        (
            {"some": lambda z, x: torch.where(z[..., 0] > 0, 1.0, torch.nan)},
            ValueError,
            "'some' is NaN for some draws of a row",
        ),
    ],
)
def test_wrong_quantities(quantities, error, message):
    with pytest.raises(error, match=message):
        pv.calibrate(oracle(), num_simulations=20, num_draws=9, quantities=quantities)


def test_distances_by_hand():
    points = RandomPoints(
        {"z": torch.tensor([[0.0, 1.0]]), "k": torch.tensor([2])},
        {"z": torch.tensor([1.0, 2.0]).double(), "k": torch.ones(()).double()},
    )
    latents = {"z": torch.tensor([[[3.0, 5.0]], [[0.0, 1.0]]]), "k": torch.tensor([[2], [0]])}
    everything = {"z": torch.tensor(True)}
    assert points.distance(latents, everything)[:, 0].tolist() == [9.0 + 4.0, 1.0]
    assert points.distance(latents, {"z": torch.tensor([[True, False]])})[:, 0].tolist() == [9.0, 1.0]


def test_recovery_is_that_of_the_linear_gaussian():
    model = LinearGaussian(K=2, D=3)
    vae = pv.VAE(model, WideGuide(model, 1.0, 0.0), example=model.data(5))
    result = pv.calibrate(vae, num_simulations=2000, num_draws=50, seed=0)
    frame = result.recovery.to_frame()
    variance = model.posterior(model.data(1)).variance[0].detach()
    assert list(frame.index) == ["z[0]", "z[1]"]
    for place in range(2):
        line, contraction = frame.iloc[place], 1 - float(variance[place])
        assert line["contraction"] == pytest.approx(contraction, abs=0.05 * (1 - contraction) + 0.01)
        assert line["rmse"] == pytest.approx(math.sqrt(float(variance[place]) * (1 + 1 / 50)), rel=0.06)
        assert line["correlation"] == pytest.approx(math.sqrt(contraction), abs=0.03)
        assert abs(line["z_mean"]) < 0.1
        assert line["z_spread"] == pytest.approx(1.0, abs=0.1)
    narrow = pv.VAE(model, WideGuide(model, 0.5, 0.0), example=model.data(5))
    worse = pv.calibrate(narrow, num_simulations=1000, num_draws=50, seed=0).recovery.to_frame()
    assert (worse["z_spread"] > 1.8).all()
    assert "not whether the guide is right" in str(result.recovery)


def test_labels_are_not_recovered():
    model, guide = MODELS["GaussianMixture"].make()
    vae = pv.VAE(model, guide, example=MODELS["GaussianMixture"].data(5))
    result = pv.calibrate(vae, num_simulations=60, num_draws=9, tarp=True, seed=0)
    assert result.recovery is None
    assert result.quantities == ("k", DISTANCE)
    assert result.passed
