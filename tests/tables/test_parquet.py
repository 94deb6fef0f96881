"""Tables in parquet files: what they hold is found by all rows; each is trained on once an epoch, or held out."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae.estimator import TabularVAE
from pyrovae.tables import Schema
from pyrovae.tables.parquet import ParquetRows
from pyrovae.tables.training import Sizes

pytest.importorskip("pyarrow", reason="parquet files need pyarrow")

ROWS, GROUP = 1000, 150
SIZES = Sizes(2, (8,), 2, 64, 1e-3, None, 0.1, 0.1)


def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "number": np.arange(ROWS) + 0.5,
            "city": pd.Series(rng.choice(["Bern", "Basel"], ROWS)).mask(rng.random(ROWS) < 0.1),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, ROWS), "D"),
            "rare": np.where(np.arange(ROWS) == 777, "once", "often"),
            "late": np.where(np.arange(ROWS) == 900, -3.0, rng.lognormal(size=ROWS)),
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("parquet") / "rows.parquet"
    table().to_parquet(found, row_group_size=GROUP)
    return found


def test_every_row_is_trained_on_once_or_held_out(path):
    rows = ParquetRows(path, None, SIZES, seed=0)
    assert (len(rows.validation), len(rows.held_out)) == (100, 100)
    orders = []
    for seed in range(2):
        torch.manual_seed(seed)
        batches = list(rows)
        assert len(batches) == len(rows) == 13
        assert {len(batch) for batch in batches[:-1]} == {64}
        orders.append(torch.cat(batches))
    assert not torch.equal(orders[0], orders[1])
    for order in orders:
        every = torch.cat([order, rows.validation, rows.held_out])[:, 0]
        assert torch.equal(every.sort().values, torch.arange(ROWS) + 0.5)
    # Rows of one group lie beside those of others.
    assert len(set((orders[0][:64, 0] // GROUP).tolist())) > 2


def test_what_the_columns_hold_is_found_by_all_rows(path, monkeypatch):
    monkeypatch.setattr("pyrovae.tables.parquet._ROWS_LOOKED_AT", 50)
    rows = ParquetRows(path, None, SIZES, seed=0)
    whole = Schema.of(table())
    assert rows.schema["rare"].levels == ("often", "once") or rows.schema["rare"].levels == ("once", "often")
    assert rows.schema["rare"].kind == "category"
    assert rows.schema["late"].kind == "real"
    for name in ("city", "day"):
        assert rows.schema[name] == whole[name]
    assert torch.equal(rows.schema.to_tensor(table())[:, 2], whole.to_tensor(table())[:, 2])


def test_a_file_is_fitted_and_asked_like_a_frame(path):
    fitted = TabularVAE(epochs=2, hidden=(8,), batch_size=64, random_state=0).fit(path)
    again = TabularVAE(epochs=2, hidden=(8,), batch_size=64, random_state=0).fit(str(path))
    frame = table()
    np.testing.assert_array_equal(fitted.score_samples(frame), again.score_samples(frame))
    assert fitted.history_["elbo_valid"].notna().all()
    assert not fitted.impute(frame).frame["city"].isna().any()
    assert list(fitted.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        fitted.transform(frame.rename(columns={"city": "town"}))


def test_files_that_cannot_be_fitted_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        TabularVAE().fit(tmp_path / "none.parquet")
    pd.DataFrame({"a": [1.0, 2.0]}).to_parquet(tmp_path / "few.parquet")
    with pytest.raises(ValueError, match="n_samples = 2"):
        TabularVAE().fit(tmp_path / "few.parquet")
