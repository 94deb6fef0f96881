"""What loggers are told, of epochs and of steps."""

import pytest
import torch

import pyrovae as pv
from pyrovae.callbacks import Callback
from tests.pairs import binary_rows, composed


class Logger:
    def __init__(self):
        self.told = []

    def log_metrics(self, metrics, step):
        self.told.append((step, metrics))


class Mine(Callback):
    def on_epoch(self, training, row):
        row["mine"] = float(training.epoch)


def train(logger, **settings):
    torch.manual_seed(0)
    given = {"epochs": 2, "batch_size": 8, "compile": False, "seed": 0, "progress": False} | settings
    return pv.fit(composed(), binary_rows(44), loggers=[logger], callbacks=[Mine()], **given)


STEPS = {f"{name}_step" for name in ("loss", "elbo", "reconstruction", "rate")} | {"learning_rate"}


def test_epochs_alone_unless_steps_are_asked_for():
    logger = Logger()
    history = train(logger)
    assert [step for step, _ in logger.told] == [1, 2]
    assert [metrics["mine"] for _, metrics in logger.told] == history["mine"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_are_told_of_as_means_over_the_rows_since(accumulate):
    logger = Logger()
    history = train(logger, log_every=3, accumulate=accumulate)
    of_steps = [(step, metrics) for step, metrics in logger.told if "epoch" not in metrics]
    of_epochs = [(step, metrics) for step, metrics in logger.told if "epoch" in metrics]
    steps = 6 // accumulate  # an epoch, of 44 rows in batches of 8
    assert [step for step, _ in of_epochs] == [steps, 2 * steps]
    assert [step for step, _ in of_steps] == list(range(3, 2 * steps + 1, 3))
    assert all(set(metrics) == STEPS for _, metrics in of_steps)
    if accumulate == 1:  # three batches of 24 and of 20 rows
        means = [
            (24 * a["elbo_step"] + 20 * b["elbo_step"]) / 44
            for (_, a), (_, b) in (of_steps[:2], of_steps[2:])
        ]
    else:  # an epoch each
        means = [metrics["elbo_step"] for _, metrics in of_steps]
    assert means == pytest.approx(history["elbo"].tolist(), rel=1e-6)


def test_figures_stay_as_they_are_whether_or_not_steps_are_told_of():
    silent = train(Logger())
    assert train(Logger(), log_every=1).drop(columns="seconds").equals(silent.drop(columns="seconds"))


def test_lightnings_loggers_take_them(tmp_path):
    import pandas as pd
    from lightning_fabric.loggers import CSVLogger

    train(CSVLogger(tmp_path, "csv"), log_every=2)
    (file,) = tmp_path.rglob("metrics.csv")
    written = pd.read_csv(file)
    assert written["elbo_step"].notna().sum() == 6
    assert written["mine"].dropna().tolist() == [1.0, 2.0]


def test_what_is_refused():
    with pytest.raises(ValueError, match="log_every is 0"):
        train(Logger(), log_every=0)
    with pytest.raises(ValueError, match="log_every needs loggers="):
        pv.fit(composed(), binary_rows(8), log_every=2, progress=False)
