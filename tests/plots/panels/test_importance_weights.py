"""Importance weights: the picture and the sentence say the same of the rows."""

import numpy as np

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots.panels.importance_weights import of_weights
from tests.plots.examples import three_kinds


def test_khat_counts_the_rows_above(linear):
    vae, x = linear
    ax = plots.khat(three_kinds(pv.log_marginal(vae, x, num_samples=100, seed=0)))
    drawn = {c.get_label(): len(c.get_offsets()) for c in ax.collections}
    assert drawn == {
        "below 0.50: 80.0% of rows": 24,
        "0.50 or above: 10.0% of rows": 3,
        "unknown: 10.0% of rows": 3,
    }
    assert all(np.isfinite(c.get_offsets()).all() for c in ax.collections)


def test_too_few_weights_are_not_called_bad(linear):
    vae, x = linear
    sentence = of_weights(pv.log_marginal(vae, x, num_samples=10, seed=0)).sentence
    assert "unknown" in sentence
    assert "too low" not in sentence
