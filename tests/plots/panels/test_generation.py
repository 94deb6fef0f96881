"""Samples: what their lines and columns are."""

from pyrovae import plots
from tests.plots.examples import labels_of


def test_strips_say_what_columns_and_lines_are(linear):
    vae, x = linear
    vae.rows(x)
    few, many = plots.samples(vae, num_rows=5, seed=0), plots.samples(vae, num_rows=16, seed=0)
    assert labels_of(few) == ["E[x|z]", "draw"] * 5
    assert labels_of(many) == []
    assert many.get_ylabel() == "each row: E[x|z] over draw"
    assert many.get_xlabel() == "entry of the row"
    assert many.get_xticks().tolist() == list(range(0, 16, 2))
