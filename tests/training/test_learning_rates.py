"""resume="new rate": a training goes on at another learning rate, and its schedule in proportion."""

import pytest
import torch

import pyrovae as pv
from pyrovae.callbacks import Callback
from tests.pairs import binary_rows, composed

SCHEDULERS = torch.optim.lr_scheduler


class Rates(Callback):
    """The rate of each step."""

    def __init__(self):
        self.of_steps = []

    def on_step(self, training):
        self.of_steps.append(training.optimizer.param_groups[0]["lr"])


def train(path, lr, epochs, scheduler=None, resume=False, optimizer=None, **settings):
    torch.manual_seed(0)
    vae, rates = composed(), Rates()
    given = {"epochs": epochs, "batch_size": 8, "compile": False, "seed": 0, "progress": False} | settings
    history = pv.fit(
        vae,
        binary_rows(16),
        optimizer=(lambda p: torch.optim.Adam(p, lr=lr)) if optimizer is None else optimizer,
        scheduler=scheduler,
        checkpoint=path,
        resume=resume,
        callbacks=[rates],
        **given,
    )
    return history, rates.of_steps


def test_another_rate_is_refused_unless_it_is_said_to_be_meant(tmp_path):
    path = tmp_path / "training"
    train(path, 1e-2, 2)
    with pytest.raises(ValueError, match=r"lr 0\.01 .*lr 0\.001.*resume='new rate'"):
        train(path, 1e-3, 4, resume=True)
    history, rates = train(path, 1e-3, 4, resume="new rate")
    assert len(history) == 4
    assert rates == [1e-3] * 4
    # What was saved since is a training at the new rate.
    assert train(path, 1e-3, 5, resume=True)[1] == [1e-3] * 2
    with pytest.raises(ValueError, match="belongs to another training: optimizer"):
        train(path, 1e-2, 6, resume=True)


def test_all_else_must_be_the_same(tmp_path):
    path = tmp_path / "training"
    train(path, 1e-2, 2)
    with pytest.raises(ValueError, match="belongs to another training: optimizer was Adam"):
        train(
            path, 0, 4, resume="new rate", optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-4)
        )
    with pytest.raises(ValueError, match="belongs to another training: clip_norm"):
        train(path, 1e-3, 4, resume="new rate", clip_norm=1.0)


def test_the_same_rate_changes_nothing(tmp_path):
    whole, _ = train(tmp_path / "whole", 1e-2, 4)
    train(tmp_path / "parts", 1e-2, 2)
    parts, _ = train(tmp_path / "parts", 1e-2, 4, resume="new rate")
    assert whole.drop(columns="seconds").equals(parts.drop(columns="seconds"))


EACH = {
    "ExponentialLR": lambda o: SCHEDULERS.ExponentialLR(o, 0.7),
    "LambdaLR": lambda o: SCHEDULERS.LambdaLR(o, lambda step: 0.9**step),
    "CosineAnnealingLR": lambda o: SCHEDULERS.CosineAnnealingLR(o, 9),
    "OneCycleLR": lambda o: SCHEDULERS.OneCycleLR(
        o, max_lr=[10 * g["lr"] for g in o.param_groups], total_steps=20
    ),
    "CyclicLR": lambda o: SCHEDULERS.CyclicLR(
        o, [g["lr"] for g in o.param_groups], [9 * g["lr"] for g in o.param_groups], 3, cycle_momentum=False
    ),
    "SequentialLR": lambda o: SCHEDULERS.SequentialLR(
        o, [SCHEDULERS.LinearLR(o, 0.1, 1.0, 3), SCHEDULERS.ExponentialLR(o, 0.9)], [5]
    ),
    "ChainedScheduler": lambda o: SCHEDULERS.ChainedScheduler(
        [SCHEDULERS.ConstantLR(o, 0.5, 6), SCHEDULERS.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("name", EACH)
def test_a_scheduler_goes_on_in_proportion(tmp_path, name):
    given = {"scheduler": EACH[name], "schedule_steps": True}
    _, whole = train(tmp_path / "whole", 0.3, 5, **given)
    train(tmp_path / "parts", 1.0, 2, **given)
    _, after = train(tmp_path / "parts", 0.3, 5, resume="new rate", **given)
    # 2 steps an epoch: the rates of a training that had the new rate from its start.
    assert after == pytest.approx(whole[4:], rel=1e-9)


def test_a_rate_of_0_has_no_proportion(tmp_path):
    train(tmp_path / "training", 0.0, 1)
    with pytest.raises(ValueError, match="was started with the learning rate 0"):
        train(tmp_path / "training", 1e-3, 2, resume="new rate")


def test_what_resume_may_be(tmp_path):
    with pytest.raises(ValueError, match="resume is 'newrate': expected True, False or 'new rate'"):
        train(tmp_path / "training", 1e-3, 1, resume="newrate")
