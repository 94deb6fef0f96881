"""Two processes end together, and say why: by what each was given, by what one does."""

import time

import pytest
import torch
from torch.utils.data import DataLoader

from tests.pairs import binary_rows
from tests.robustness.ranks import ENDINGS, At, Stream, fit, stop, together

pytest.importorskip("lightning_fabric")

LOST = "RuntimeError: process {} of 2 (counted from 0) has lost another one"


@pytest.fixture(scope="module")
def agreed():
    """What comes of trainings after none of which a process is gone."""
    cases = {
        "data": lambda rank: fit(binary_rows(40)[8 * rank :][:32]),
        "epochs": lambda rank: fit(epochs=3 + rank),
        "seed": lambda rank: fit(seed=rank),
        "batch_size": lambda rank: fit(batch_size=8 * (1 + rank)),
        "accumulate": lambda rank: fit(accumulate=1 + rank),
        "validation": lambda rank: fit(validation=binary_rows(9 + rank)),
        "scheduler": lambda rank: fit(scheduler=None if rank else _halved),
        "stop": lambda rank: fit(callbacks=[At(1, 5, stop)] if rank else []),
        "stop in both": lambda rank: fit(callbacks=[At(rank, 2 + rank, stop)]),
        "loader": lambda rank: fit(DataLoader(Stream(32 - 8 * rank), batch_size=8), batch_size=None),
        "loaders alike": lambda rank: fit(DataLoader(Stream(30), batch_size=8), batch_size=None),
        "nothing": lambda rank: fit(),
    }
    first, second = together(*cases.values())
    return dict(zip(cases, zip(first, second, strict=True), strict=True))


def _halved(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


@pytest.mark.parametrize(
    "name", ["data", "epochs", "seed", "batch_size", "accumulate", "validation", "scheduler"]
)
def test_what_differs_by_process_is_named_by_all(agreed, name):
    first, second = agreed[name]
    assert first == second
    assert first.startswith(
        f"ValueError: the processes that shall train together were given different things. {name}: process 0"
    )
    assert "needs a seed" in first


def test_a_stop_in_one_ends_all_after_that_epoch(agreed):
    assert agreed["stop"] == ("2 epochs", "2 epochs")
    assert agreed["stop in both"] == ("1 epochs", "1 epochs")


def test_a_loader_that_ends_early_in_one(agreed):
    first, second = agreed["loader"]
    assert first == second
    assert first.startswith("ValueError: batch 3 of the DataLoader has 8, 0 rows by process")
    assert agreed["loaders alike"] == ("3 epochs", "3 epochs")


def test_after_all_this_they_train(agreed):
    assert agreed["nothing"] == ("3 epochs", "3 epochs")


@pytest.mark.parametrize(("name", "rank"), [("killed", 0), ("killed", 1), ("raising", 1)])
def test_a_process_that_ends_is_missed_by_the_other(name, rank):
    found = together(lambda own: fit(callbacks=[At(rank, 5, ENDINGS[name])]))
    assert found[1 - rank][0].startswith(LOST.format(1 - rank))
    assert found[rank] == ([] if name == "killed" else ["ArithmeticError: a callback's own error"])


def test_a_process_whose_data_are_refused_is_missed_by_the_other():
    first, second = together(lambda rank: fit(binary_rows(32, 6 + rank)))
    assert first[0].startswith(LOST.format(0))
    assert second[0].startswith("ValueError: the observed site 'x' has event shape (6,) in the model")


def test_a_process_that_hangs_is_given_up_after_the_timeout():
    first, _ = together(lambda own: fit(callbacks=[At(1, 5, lambda training: time.sleep(10))], timeout=3.0))
    assert first[0].startswith(LOST.format(0))
