"""Ranks of simulations: right posteriors stay within the band, wrong ones leave it."""

import numpy as np
import pytest

from pyrovae import plots
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


def test_the_band_is_massarts():
    ax = plots.calibration_ranks(ranks(1), 100)
    band = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    assert 2 * np.exp(-2 * 300 * band**2) == pytest.approx(0.05)


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
