"""Distortion against rate."""

import numpy as np

from pyrovae import plots
from tests.plots.examples import curve


def test_the_line_of_equal_elbo_goes_through_beta_one():
    ax = plots.rate_distortion(curve())
    dotted = next(line for line in ax.lines if str(line.get_label()).startswith("ELBO"))
    assert dotted.get_label() == "ELBO -16.90"
    np.testing.assert_allclose(np.add(dotted.get_xdata(), dotted.get_ydata()), 16.9)
