"""Ranks of simulations: right posteriors stay within the band, wrong ones leave it."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as pv
from pyrovae import plots
from pyrovae.criticism.uniformity import uniformity_p_value
from pyrovae.plots.panels.calibration import of_calibration
from tests.oracles import LinearGaussian, WideGuide
from tests.plots.examples import ranks


@pytest.mark.parametrize("factor, outside", [(1.0, False), (0.5, True), (2.0, True)])
def test_calibration_tells_right_from_wrong_widths(factor, outside):
    # The truth is standard normal and so are the right draws.
    generator = np.random.default_rng(0)
    truth, draws = generator.normal(size=(400, 1)), factor * generator.normal(size=(400, 100))
    ax = plots.calibration_ranks((draws < truth).sum(1, keepdims=True), 100)
    band = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    difference = ax.lines[0].get_ydata()
    assert (np.abs(difference).max() > band) == outside
    if outside:
        assert (difference[25] > 0) == (factor < 1)


def leaves_its_band(table, num_draws, rate=0.05, chosen_from=None):
    """Whether each curve leaves the band, from what is drawn: [Q]."""
    ax = plots.calibration_ranks(table, num_draws, chosen_from=chosen_from, false_alarm_rate=rate)
    outline = ax.collections[0].get_paths()[0].vertices
    left = []
    for line in ax.lines[: table.shape[1]]:
        share, difference = line.get_xdata(), line.get_ydata()
        limits = [outline[np.isclose(outline[:, 0], at), 1] for at in share]
        inside = [
            y >= at.min() - 1e-12 and y <= at.max() + 1e-12 for y, at in zip(difference, limits, strict=True)
        ]
        left.append(not all(inside))
    return left


@pytest.mark.parametrize("num_ranks, num_draws, num_quantities", [(100, 19, 4), (300, 99, 3), (57, 6, 1)])
def test_a_curve_leaves_the_band_if_and_only_if_the_test_says_so(num_ranks, num_draws, num_quantities):
    # Right ranks, and wrong ones from hardly to plainly; the p-values are those of `calibrate`.
    generator, decided = np.random.default_rng(0), []
    shape = (num_ranks, num_quantities)
    for power in (1.0, 1.0, 1.0, 0.9, 1.15, 1.25, 1.35, 1.5):
        for kind in ("shifted", "spread"):
            uniform = generator.random(shape)
            if kind == "shifted":
                uniform = uniform**power
            else:  # away from the middle
                uniform = 0.5 + np.sign(uniform - 0.5) * np.abs(2 * uniform - 1) ** power / 2
            table = np.minimum((uniform * (num_draws + 1)).astype(int), num_draws)
            for rate in (0.05, 0.3):
                null = max(2000, int(np.ceil(20 * num_quantities / rate)))
                p_values = [uniformity_p_value(column, num_draws, null) for column in table.T]
                failed = [p < rate / num_quantities for p in p_values]
                assert leaves_its_band(table, num_draws, rate) == failed
                decided += failed
    assert 0.1 < np.mean(decided) < 0.9


def test_the_panel_shows_a_curve_outside_exactly_if_the_guide_fails():
    model = LinearGaussian(K=1, D=2)
    passed = []
    for seed in range(12):
        vae = pv.VAE(model, WideGuide(model, 1.0 if seed % 2 else 0.8, 0.0), example=model.data(5))
        result = pv.calibrate(vae, num_simulations=100, num_draws=19, seed=seed)
        table = result.ranks.numpy()
        assert any(leaves_its_band(table, 19)) == (not result.passed)
        passed.append(result.passed)
    assert 0 < sum(passed) < 12


def test_where_p_values_tie_the_farthest_curves_are_the_worst():
    generator = np.random.default_rng(0)
    widths = np.array([30, 28, 26, 24, 22, 20, 2, 4, 6, 8])  # of 100: the fewer, the farther from uniform
    table = torch.as_tensor(generator.integers(0, 100, (400, 10)) % widths)
    names = tuple(f"z[{i}]" for i in range(10))
    p_values = pd.DataFrame({"guide": [1e-4] * 10, "corrected": [1.0] * 10}, index=list(names))
    coverage = pd.DataFrame({"quantity": [], "level": [], "coverage": [], "std_error": []})
    result = pv.Calibration(table, table, names, 99, p_values, coverage, 0.05)
    expected = ["z[6]", "z[7]", "z[8]", "z[9]", "z[5]", "z[4]"]
    assert list(result.worst_first().index[:6]) == expected
    ax = of_calibration(result).draw(plots.style.axes_or_new(None))
    assert [line.get_label() for line in ax.lines[:6]] == expected


def test_the_band_holds_the_worst_of_many_right_curves():
    """The 6 worst of 100 right quantities, 20 times: a band for one curve let some of them out every time."""
    generator = np.random.default_rng(0)
    outside = 0
    for _ in range(20):
        table = generator.integers(0, 101, size=(300, 100))
        places = (np.arange(101) + 1) / 101
        distance = np.abs((table[:, :, None] <= np.arange(101)).mean(0) - places).max(1)
        worst = table[:, np.argsort(-distance)[:6]]
        ax = plots.calibration_ranks(worst, 100, chosen_from=100)
        band = ax.collections[0].get_paths()[0].vertices[:, 1].max()
        outside += any(np.abs(line.get_ydata()).max() > band for line in ax.lines)
    # At most 5% of 20: five or more have a probability below 0.003.
    assert outside < 5
    assert "all 100 curves" in ax.collections[0].get_label()


def test_simulations_without_a_rank_are_left_out():
    table = ranks(2)
    table[:100, 1] = -1
    ax = plots.calibration_ranks(table, 100)
    alone = plots.calibration_ranks(table[100:, 1:], 100, chosen_from=2)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), alone.lines[0].get_ydata())
    bands = [one.collections[0].get_paths()[0].vertices[:, 1].max() for one in (ax, alone)]
    assert bands[0] == bands[1]
