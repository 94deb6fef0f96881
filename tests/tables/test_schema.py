"""Schemas of frames: what columns hold, to tensors and back without loss, edited, printed and saved."""

import datetime
import json

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae.files import FileError
from pyrovae.tables import Schema
from pyrovae.tables.given import given_row
from pyrovae.tables.kinds import column_of

N = 60
rng = np.random.default_rng(0)
DAYS = pd.Series(pd.date_range("2021-03-01", periods=N, freq="D"))
FRAMES = {
    "floats": (pd.Series(rng.normal(size=N)), "real"),
    "32 bits": (pd.Series(rng.normal(size=N)).astype("float32"), "real"),
    "sizes": (pd.Series(rng.lognormal(3, 1, N)), "positive"),
    "prices": (pd.Series(rng.lognormal(3, 1, N)).round(2), "positive"),
    "shares": (pd.Series(np.linspace(0, 1, N)), "bounded"),
    "whole": (pd.Series(rng.integers(-50, 50, N)), "real"),
    "counts": (pd.Series(rng.negative_binomial(1, 0.1, N)), "count"),
    "counts of 8 bits": (pd.Series(rng.negative_binomial(1, 0.1, N).clip(0, 200)).astype("uint8"), "count"),
    "counts with holes": (
        pd.Series(rng.negative_binomial(1, 0.1, N)).astype(float).mask(rng.random(N) < 0.3),
        "count",
    ),
    "nullable counts": (
        pd.Series(rng.negative_binomial(1, 0.1, N), dtype="Int64").mask(rng.random(N) < 0.3),
        "count",
    ),
    "few": (pd.Series(np.arange(N) % 3 + 1), "ordered"),
    "two numbers": (pd.Series(np.where(np.arange(N) % 3, 0.5, -0.5)), "category"),
    "text": (pd.Series(["b", "a", "c"] * 20), "category"),
    "text with holes": (pd.Series(["b", None, "c"] * 20), "category"),
    "old text": (pd.Series(["b", None, "c"] * 20, dtype=object), "category"),
    "categories": (pd.Series(pd.Categorical(["b", "a", None] * 20, categories=["c", "b", "a"])), "category"),
    "grades": (
        pd.Series(pd.Categorical(["lo", "hi", None] * 20, categories=["lo", "hi"], ordered=True)),
        "ordered",
    ),
    "categories of numbers": (pd.Series(pd.Categorical([3, 1, 2] * 20)), "category"),
    "truth": (pd.Series([True, False, True] * 20), "boolean"),
    "nullable truth": (pd.Series([True, False, None] * 20, dtype="boolean"), "boolean"),
    "old truth": (pd.Series([True, False, None] * 20, dtype=object), "boolean"),
    "days": (DAYS, "date"),
    "days with holes": (DAYS.mask(rng.random(N) < 0.3), "date"),
    "days of a zone": (DAYS.dt.tz_localize("Europe/Zurich"), "date"),
    "seconds": (DAYS.dt.as_unit("s") + pd.to_timedelta(np.arange(N) ** 2, "s").as_unit("s"), "date"),
    "spans": (pd.Series(pd.to_timedelta(rng.integers(0, 10**6, N), "s")), "real"),
    "one value": (pd.Series(["x"] * N), "constant"),
    "one number": (pd.Series([7] * N), "constant"),
}


def framed(name):
    """Beside a column that is not constant, in an index of its own."""
    values, _ = FRAMES[name]
    index = pd.Index(np.arange(N) * 10, name="id")
    return pd.DataFrame({"first": rng.normal(size=N), name: values.array}, index=index)


@pytest.mark.parametrize("name", FRAMES)
def test_every_column_goes_to_a_tensor_and_back(name):
    frame = framed(name)
    schema = Schema.of(frame)
    assert schema[name].kind == FRAMES[name][1]
    values = schema.to_tensor(frame)
    assert values.dtype == torch.float64
    assert values.shape == (N, 1 if FRAMES[name][1] == "constant" else 2)
    pd.testing.assert_frame_equal(schema.to_frame(values, frame.index), frame)
    if values.shape[1] == 2:
        assert torch.equal(values[:, 1].isnan(), torch.tensor(frame[name].isna().to_numpy()))


def test_few_whole_numbers_are_counts_where_these_fit_as_well_as_shares():
    children = pd.Series([0] * 45 + [1] * 36 + [2] * 14 + [3] * 4 + [4])  # a later row may have 7
    assert column_of(children, "children").kind == "count"
    assert column_of(pd.Series([0] * 45 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 40), "answer").kind == "ordered"
    assert column_of(children + 1, "grade").kind == "ordered"


def test_numbers_short_of_0_and_1_have_no_bounds():
    assert column_of(pd.Series(np.linspace(0.03, 0.94, N)), "compactness").kind == "real"  # later 1.06
    assert column_of(pd.Series(np.linspace(0.01, 0.99, N)), "share").kind == "bounded"


def test_later_whole_numbers_are_told_to_be_counts():
    sold = pd.DataFrame({"sold": np.exp(np.linspace(1, 5, N)).round(), "answer": np.arange(N) % 3})
    schema = Schema.of(sold)
    assert [column.kind for column in schema.modelled] == ["positive", "ordered"]
    said = r"column 'sold' holds 0 .*is of the kind 'positive'.*schema\['sold'\] = 'count' \(whole numbers from 0\)"
    with pytest.raises(ValueError, match=said):
        schema.to_tensor(sold.assign(sold=0))
    with pytest.raises(ValueError, match=r"'answer' .* holds 7, .*schema\['answer'\] = 'count'"):
        schema.to_tensor(sold.assign(answer=7))
    with pytest.raises(ValueError, match=r"'answer' .* holds 'no', .*or drop these rows\.$"):
        schema.to_tensor(sold.assign(answer="no"))


def test_whole_numbers_of_which_each_row_has_its_own_are_told_of():
    frame = pd.DataFrame({"x": rng.normal(size=N), "client": np.arange(N) * 7 + 1000})
    said = r"column 'client' has a whole number of its own in each of 60 rows .*frame.drop\(columns=\['client'\]\)"
    with pytest.warns(UserWarning, match=said) as caught:
        schema = Schema.of(frame)
    assert [warning.filename for warning in caught] == [__file__]
    # Those of it are not told of again, nor what no identifiers are.
    schema.to_tensor(frame)
    Schema.of(frame.iloc[:10])
    Schema.of(frame.assign(client=frame["client"] // 14))
    Schema.of(frame.assign(client=frame["client"] + 0.5))


@pytest.mark.parametrize("name", FRAMES)
def test_a_schema_is_the_same_from_its_file(name, tmp_path):
    frame = framed(name)
    schema = Schema.of(frame)
    schema.save(tmp_path / "schema.json")
    again = Schema.load(tmp_path / "schema.json")
    assert again == schema
    pd.testing.assert_frame_equal(again.to_frame(schema.to_tensor(frame), frame.index), frame)
    assert str(again) == str(schema)


def test_all_columns_at_once_keep_their_order():
    frame = pd.DataFrame({name: values.array for name, (values, _) in FRAMES.items()})
    schema = Schema.of(frame)
    pd.testing.assert_frame_equal(schema.to_frame(schema.to_tensor(frame)), frame)
    shuffled = frame[frame.columns[::-1]]
    assert torch.equal(schema.to_tensor(shuffled).nan_to_num(), schema.to_tensor(frame).nan_to_num())
    shown = str(schema)
    assert all(name in shown for name in FRAMES)
    assert "2021-03-01" in shown
    assert "<table" in schema._repr_html_()


def test_other_dtypes_of_the_same_values_are_taken():
    frame = pd.DataFrame({"n": [1, 5, 9, 20] * 5, "d": list(DAYS[:20].dt.tz_localize("UTC"))})
    schema = Schema.of(frame)
    holes = frame.assign(n=frame["n"].astype(float).mask(frame["n"] == 5))
    holes["d"] = holes["d"].dt.tz_convert("Asia/Tokyo")
    values = schema.to_tensor(holes)
    assert values[:, 0].isnan().sum() == 5
    assert torch.equal(values[:, 1], schema.to_tensor(frame)[:, 1])


def test_columns_are_edited():
    frame = pd.DataFrame(
        {"n": [1, 5, 9, 20] * 5, "share": [0.0, 20.0, 50.5, 100.0] * 5, "t": ["a", "b"] * 10}
    )
    schema = Schema.of(frame)
    schema["n"] = "category"
    assert (schema["n"].kind, schema["n"].levels) == ("category", (1, 5, 9, 20))
    assert schema.to_tensor(frame)[:4, 0].tolist() == [0, 1, 2, 3]
    schema["n"] = "positive"
    schema.declare("share", "bounded", low=0, high=100)
    assert (schema["share"].low, schema["share"].high) == (0, 100)
    schema["t"] = "ordered"
    assert [column.kind for column in schema.modelled] == ["positive", "bounded", "ordered"]
    pd.testing.assert_frame_equal(schema.to_frame(schema.to_tensor(frame)), frame)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("t", "real", r"column 't' cannot be 'real': its values, category: a, b, are no numbers"),
        ("share", "bounded", r"it holds 0 to 100, beyond 0 to 1: give low= and high="),
        ("share", "positive", r"it holds 0\."),
        ("share", "count", r"numbers that are not whole"),
        ("n", "date", r"follow from the dtype"),
        ("n", "integer", r"kind is 'integer': expected one of real, positive"),
        ("day", "count", r"it is datetime64\[.s\]"),
    ],
)
def test_edits_that_values_do_not_allow_are_refused(name, kind, message):
    frame = pd.DataFrame(
        {"n": [1, 5, 9, 20] * 5, "share": [0.0, 20.0, 50.5, 100.0] * 5, "t": ["a", "b"] * 10}
    )
    schema = Schema.of(frame.assign(day=DAYS[:20]))
    before = schema[name]
    with pytest.raises(ValueError, match=message):
        schema[name] = kind
    assert schema[name] == before
    with pytest.raises(KeyError, match="there is no column 'm'"):
        schema["m"] = "real"


BAD = {
    "no frame": (np.zeros((4, 2)), TypeError, r"expected a pandas data frame and got ndarray"),
    "no columns": (pd.DataFrame(index=range(4)), ValueError, "the frame has no columns"),
    "no rows": (pd.DataFrame({"a": []}), ValueError, "the frame has no rows"),
    "a name twice": (
        pd.DataFrame(np.zeros((4, 2)), columns=["a", "a"]),
        ValueError,
        r"columns 'a' are there more than once",
    ),
    "names of another kind": (
        pd.DataFrame(np.zeros((4, 1)), columns=[("a", "b")]).T.T,
        TypeError,
        r"called \('a', 'b'\)",
    ),
    "nothing in a column": (
        pd.DataFrame({"a": [1.0, 2, 3], "b": np.nan}),
        ValueError,
        r"column 'b' has no value in any of 3 rows",
    ),
    "constant columns alone": (
        pd.DataFrame({"a": [1, 1], "b": ["x", "x"]}),
        ValueError,
        "every column of the frame is constant",
    ),
    "names of people": (
        pd.DataFrame({"a": [f"n{i}" for i in range(50)]}),
        ValueError,
        r"50 different texts in 50 rows.*drop",
    ),
    "mixed objects": (
        pd.DataFrame({"a": [1.5, "x", None]}),
        TypeError,
        r"of mixed values: column.astype\(str\)",
    ),
    "complex numbers": (pd.DataFrame({"a": [1j, 2.0]}), TypeError, "column 'a' is complex128"),
    "infinity": (pd.DataFrame({"a": [1.0, np.inf]}), ValueError, r"column 'a' holds infinity in row 1"),
    "identifiers": (pd.DataFrame({"a": [2**60 + 1, 2**60 + 2, 5]}), ValueError, r"beyond 2\*\*53"),
    "periods": (
        pd.DataFrame({"a": pd.period_range("2020", periods=3, freq="M")}),
        TypeError,
        r"to_timestamp",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_frames_that_cannot_be_used_are_named(name):
    frame, error, message = BAD[name]
    with pytest.raises(error, match=message):
        Schema.of(frame)


FITTED = pd.DataFrame(
    {
        "x": rng.normal(size=N),
        "size": rng.lognormal(3, 1, N),
        "n": rng.negative_binomial(1, 0.1, N),
        "city": ["Bern", "Basel", "Chur"] * 20,
        "day": DAYS,
        "same": 1,
    }
)
LATER = {
    "an unknown label": (
        {"city": "Rome"},
        ValueError,
        r"column 'city' .* holds 'Rome', which the fit has not seen: it knew 'Basel', 'Bern', 'Chur'",
    ),
    "another constant": ({"same": 2}, ValueError, r"column 'same' .* holds 2.*all its rows held 1"),
    "text for numbers": ({"x": "high"}, TypeError, r"column 'x' is .*: expected numbers.*pd.to_numeric"),
    "numbers for dates": ({"day": 3}, TypeError, r"column 'day' is int64 and was fitted as datetime64"),
    "a zone": ({"day": pd.Timestamp("2021", tz="UTC")}, TypeError, r"say its time zone"),
    "no positive number": (
        {"size": 0.0},
        ValueError,
        r"column 'size' holds 0 \(row 0\).*schema\['size'\] = 'real'",
    ),
    "no count": ({"n": 2.5}, ValueError, r"column 'n' holds 2.5 .*whole numbers from 0"),
    "infinity": ({"x": -np.inf}, ValueError, r"column 'x' holds infinity"),
}


@pytest.mark.parametrize("name", LATER)
def test_later_frames_that_do_not_fit_are_named(name):
    changes, error, message = LATER[name]
    schema = Schema.of(FITTED)
    with pytest.raises(error, match=message):
        schema.to_tensor(FITTED.assign(**changes))


def test_a_column_that_is_missing_is_named():
    schema = Schema.of(FITTED)
    with pytest.raises(ValueError, match=r"the frame lacks 'city': .*frame.assign\(city=None\)"):
        schema.to_tensor(FITTED.drop(columns="city"))
    assert bool(schema.to_tensor(FITTED.drop(columns="city").assign(city=None))[:, 3].isnan().all())
    assert bool(schema.to_tensor(FITTED.drop(columns="day").assign(day=None))[:, 4].isnan().all())


# In steps since the first: days, of which one has 23 hours in the zone, hours there, and minutes.
GIVEN = {
    "a day in words": ("day", "2021-03-03", 2.0),
    "a day": ("day", datetime.date(2021, 3, 3), 2.0),
    "a moment": ("day", datetime.datetime(2021, 3, 3), 2.0),
    "a day of the zone": ("zoned", "2021-03-03", 48.0),
    "a moment of another zone": ("zoned", "2021-03-02 23:00+00:00", 48.0),
    "a span in words": ("span", "3 min", 3.0),
    "a label": ("city", "Bern", 1.0),
}


def with_times():
    spans = pd.to_timedelta(np.arange(N), "min")
    return FITTED.assign(zoned=DAYS.dt.tz_localize("Europe/Zurich"), span=spans)


@pytest.mark.parametrize("name", GIVEN)
def test_dates_are_given_as_texts_too(name):
    column, value, expected = GIVEN[name]
    schema = Schema.of(with_times())
    row = given_row(schema, {column: value})
    assert row[0, schema.place(column)] == expected
    assert int(row.isnan().sum()) == row.shape[1] - 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"day": "soon"}, ValueError, r"given 'day' is 'soon' .*expected a date such as '2024-05-01'"),
        ({"span": "long"}, ValueError, r"given 'span' is 'long' .*expected a time span such as '90 min'"),
        ({"zoned": "2021-03-28 02:30"}, ValueError, r"given 'zoned' is '2021-03-28 02:30' .*expected a date"),
        ({"day": "2021-03-03T00:00Z"}, TypeError, r"column 'day' .*say its time zone"),
        ({"day": pd.NaT}, ValueError, r"given 'day' is NaT: leave out"),
        ({"day": 3}, TypeError, r"column 'day' is int64"),
    ],
)
def test_what_is_no_date_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        given_row(Schema.of(with_times()), given)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s[0].pop("kind"), "schema.0"),
        (lambda s: s[0].update(kind="number"), "schema.0.kind"),
        (lambda s: s[0].update(dtype="float65"), "schema.0.dtype"),
        (lambda s: s[3].update(levels=None), "schema.3.levels"),
        (lambda s: s[3].update(levels=["a", None]), "schema.3.levels.1"),
        (lambda s: s[4].update(step=None), "schema.4.step"),
        (lambda s: s.append(s[0]), "schema.6"),
    ],
)
def test_damaged_files_are_refused(change, field, tmp_path):
    columns = Schema.of(FITTED).to_json()
    change(columns)
    (tmp_path / "schema.json").write_text(json.dumps(columns))
    with pytest.raises(FileError) as caught:
        Schema.load(tmp_path / "schema.json")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"age": 40.5}, r"given 'age' is 40.5, but the column's values are rounded, to 40 there: give that"),
        ({"height": 1.234}, r"given 'height' is 1.234, but .* rounded, to 1.2 there"),
    ],
)
def test_what_no_row_holds_is_not_given(given, message):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(20, 80, 60), "height": (rng.normal(1.7, 0.2, 60)).round(1)})
    schema = Schema.of(frame)
    with pytest.raises(ValueError, match=message):
        given_row(schema, given)
    rounded = {name: round(value, 1 if name == "height" else 0) for name, value in given.items()}
    assert given_row(schema, rounded).nansum() == next(iter(rounded.values()))
