"""Panels of tables: what they say is what stands in the rows."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

import pyrovae as pv
from pyrovae.estimator import TabularVAE
from pyrovae.plots.tables import dependence, table_panels
from pyrovae.tables import Schema

matplotlib.use("agg")


def rows(number, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=number)
    return pd.DataFrame(
        {
            "x": x,
            "same": x**3,
            "other": rng.normal(size=number),
            "sign": np.where(x > 0, "up", "down"),
            "coin": rng.choice(["a", "b"], number),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, number), "D"),
        }
    )


def test_dependence_of_numbers_and_labels():
    frame = rows(2000)
    found = dependence(frame, Schema.of(frame))
    assert found["x", "same"] == pytest.approx(1)
    assert found["x", "other"] < 0.08
    assert found["x", "sign"] == pytest.approx(np.sqrt(3) / 2, abs=0.01)  # ranks, and which half they are in
    assert found["sign", "coin"] < 0.08
    assert dependence(frame.assign(coin=frame["sign"]), Schema.of(frame.assign(coin=frame["sign"])))[
        "sign", "coin"
    ] == pytest.approx(1)


def test_the_page_of_a_table():
    table = TabularVAE(epochs=2, hidden=(8,), num_samples=20, random_state=0).fit(rows(100))
    frame = rows(60, seed=1)
    frame.loc[3, "other"] = 30.0
    panels = {panel.title: panel for panel in table_panels(table, frame, num_rows=50)}
    assert list(panels) == ["Columns", "Pairs of columns", "Imputed numbers", "Strangest rows"]
    assert "6 of 6 columns: of 60 real rows (blue) and 50" in panels["Columns"].sentence
    assert "lie in their 90% intervals" in panels["Imputed numbers"].sentence
    assert 3 in panels["Strangest rows"].table.index
    for panel in panels.values():
        assert panel.draw(pv.plots.style.axes_or_new(None)) is not None
