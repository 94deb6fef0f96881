"""Importance weights: the picture and the sentence say the same of the rows."""

import numpy as np

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots.panels.importance_weights import of_weights
from tests.plots.examples import three_kinds


def test_khat_counts_the_rows_above(linear):
    vae, x = linear
    result = three_kinds(pv.log_marginal(vae, x, num_samples=100, seed=0))
    ax = plots.khat(result)
    drawn = {c.get_label(): len(c.get_offsets()) for c in ax.collections}
    assert drawn == {
        "below 0.50: 88.9% of 27 known": 24,
        "0.50 or above: 11.1% of 27 known": 3,
        "unknown: 3 of 30 rows": 3,
    }
    # The same share as in the sentence and in the tables beside the picture.
    assert f"{result.share_good:.1%}" == "88.9%"
    assert "below 0.50 for 88.9% of rows where it is known, unknown for 3" in of_weights(result).sentence
    assert all(np.isfinite(c.get_offsets()).all() for c in ax.collections)


def test_too_few_weights_are_not_called_bad(linear):
    vae, x = linear
    sentence = of_weights(pv.log_marginal(vae, x, num_samples=10, seed=0)).sentence
    assert "unknown" in sentence
    assert "too low" not in sentence
