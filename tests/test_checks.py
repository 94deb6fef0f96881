"""What is said of an error that a user's own code raises while pyrovae reads data."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import pyrovae as pv
from pyrovae.checks import said_of
from tests.pairs import binary_rows, composed


class TwoArgumentsError(ValueError):
    def __init__(self, file, line):
        super().__init__(f"{file} is broken in line {line}")
        self.line = line


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_plain_errors_say_what_they_are_about(kind):
    with pytest.raises(kind, match=r"^validation data: x is 3$"), said_of("validation data"):
        raise kind("x is 3")


def test_errors_of_other_classes_stay_what_they_are():
    """Their constructors take other arguments, and what they carry is not lost."""
    for error in (
        TwoArgumentsError("a.csv", 7),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        KeyError(1),
    ):
        with pytest.raises(type(error)) as raised, said_of("the model 'b'"):
            raise error
        assert raised.value is error
        expected = None if isinstance(error, KeyError) else ["This is about the model 'b'."]
        assert getattr(error, "__notes__", None) == expected


class Files(Dataset):
    """Rows in files, of which the last cannot be read."""

    def __len__(self):
        return 12

    def __getitem__(self, place):
        if place == 11:
            raise TwoArgumentsError("rows.csv", place)
        return torch.zeros(6)


def test_errors_of_a_users_reader_and_transform_reach_the_user():
    x = binary_rows(22)
    with pytest.raises(TwoArgumentsError, match="rows.csv is broken in line 11") as raised:
        pv.fit(composed(), x, validation=DataLoader(Files(), batch_size=12), epochs=1, progress=False)
    assert raised.value.line == 11
    assert raised.value.__notes__ == ["This is about validation data."]

    def transform(rows):
        if len(rows) == 6:
            b"\xff".decode()
        return rows

    with pytest.raises(UnicodeDecodeError) as raised:
        pv.fit(composed(), DataLoader(x, batch_size=8), transform=transform, epochs=1, progress=False)
    assert raised.value.__notes__ == ["This is about batch 2 of the DataLoader."]
