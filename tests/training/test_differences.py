"""What a training that goes on names as changed since it was started, and what it does not mind."""

import functools
import multiprocessing
import threading
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.optim import lr_scheduler

import pyrovae as pv
from pyrovae.callbacks import Callback, EarlyStopping, EncoderSteps
from pyrovae.files import FileError
from pyrovae.training.described_code import described_functions
from pyrovae.training.differences import difference
from pyrovae.training.run_lock import alone_at
from tests.pairs import binary_rows, composed


def train(path, vae=None, **settings):
    torch.manual_seed(0)
    given = {"epochs": 1, "batch_size": 8, "seed": 0, "progress": False, "compile": False} | settings
    return pv.fit(vae or composed(hidden=[3]), binary_rows(16), checkpoint=path, resume=True, **given)


def frozen():
    vae = composed(hidden=[3])
    next(vae.model.parameters()).requires_grad_(False)
    return vae


def partly_evaluating():
    vae = composed(hidden=[3])
    vae.guide.eval()
    return vae


def nested(milestones=(1, 3), gamma=0.5):
    return lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.ConstantLR(o), lr_scheduler.MultiStepLR(o, list(milestones), gamma=gamma)],
        milestones=[5],
    )


def plane(factor):
    scaled = f"def scaled(x):\n    '''{factor}'''\n    return x * 0 + {factor}  # {factor}\n"
    text = f"{scaled}\ndef rows(x):\n    return scaled(x)\n"
    found = {"__name__": f"somewhere_{factor}"}
    exec(compile(text, f"/tmp/{factor}.py", "exec"), found)
    return found["rows"]


CHANGES = {
    "compile": ({}, {"compile": True}, "compile was False and is now True"),
    "frozen parameters": ({}, {"vae": frozen}, "frozen was nothing and is now model.likelihood.network"),
    "modes": ({}, {"vae": partly_evaluating}, "evaluating was nothing and is now guide, guide.posterior"),
    "milestones": (
        {"scheduler": lambda o: lr_scheduler.MultiStepLR(o, [2, 30])},
        {"scheduler": lambda o: lr_scheduler.MultiStepLR(o, [2, 40])},
        r"scheduler was MultiStepLR milestones.30 1, no milestones.40 and is now MultiStepLR no milestones.30",
    ),
    "nested milestones": (
        {"scheduler": nested()},
        {"scheduler": nested((1, 4))},
        r"scheduler was SequentialLR _schedulers.1.milestones.3 1",
    ),
    "nested factor": (
        {"scheduler": nested()},
        {"scheduler": nested(gamma=0.1)},
        "scheduler was SequentialLR _schedulers.1.gamma 0.5 and is now SequentialLR _schedulers.1.gamma 0.1",
    ),
    "a function of a scheduler": (
        {"scheduler": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch)},
        {"scheduler": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.25**epoch)},
        "constants.0 0.5 and is now LambdaLR .*constants.0 0.25",
    ),
    "a callback's settings": (
        {"callbacks": [EarlyStopping(3)], "validation": binary_rows(8)},
        {"callbacks": [EarlyStopping(4)], "validation": binary_rows(8)},
        "callbacks was 0.patience 3 and is now 0.patience 4",
    ),
    "another callback": (
        {"callbacks": [EncoderSteps(1)]},
        {},
        "callbacks was 0 EncoderSteps and is now no 0",
    ),
    "an edited function": (
        {"transform": plane(0)},
        {"transform": plane(1)},
        "transform was functions.scaled.constants.1 0 and is now functions.scaled.constants.1 1",
    ),
    "a schedule's numbers": (
        {"objective": lambda: pv.objectives.ELBO(beta=pv.objectives.LinearWarmUp(steps=10))},
        {"objective": lambda: pv.objectives.ELBO(beta=pv.objectives.LinearWarmUp(steps=20))},
        "objective was ELBO settings .*10.* and is now ELBO settings .*20",
    ),
    "the end of a long text": (
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)},
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)},
        "optimizer was SGD groups.0.momentum 0.9 and is now SGD groups.0.momentum 0.8",
    ),
}


def made(settings):
    return {n: v() if n in ("vae", "objective") and callable(v) else v for n, v in settings.items()}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_named_with_both_sides(tmp_path, name):
    first, then, said = CHANGES[name]
    train(tmp_path / "training", **made(first))
    with pytest.raises(FileError, match=said):
        train(tmp_path / "training", epochs=2, **made(then))


class Counting(Callback):
    """Its attributes change while it runs."""

    def __init__(self):
        self.batches = 0

    def on_batch(self, training):
        self.batches += 1


def moved(name):
    text = "def rows(x):\n    '''Rows.'''\n    return x * 1\n"
    found = {"__name__": name}
    exec(compile("\n" * len(name) + text, f"/tmp/{name}.py", "exec"), found)
    return found["rows"]


SAME = {
    "Pyro's ELBO by name": ({}, {"objective": lambda: Trace_ELBO()}),
    "a moved function": ({"transform": moved("one")}, {"transform": moved("another")}),
    "a stated default": ({}, {"optimizer": lambda p: torch.optim.Adam(p, lr=1e-3)}),
    "counters of callbacks": ({"callbacks": [Counting()]}, {"callbacks": [Counting()]}),
    "a bound function": (
        {"transform": functools.partial(torch.clamp, min=0.0)},
        {"transform": functools.partial(torch.clamp, min=0.0)},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_goes_on(tmp_path, name):
    first, then = SAME[name]
    train(tmp_path / "training", **made(first))
    assert len(train(tmp_path / "training", epochs=2, **made(then))) == 2


class Freezing(Callback):
    """Freezes what has been learnt after the first epoch, and stops its running statistics."""

    def on_epoch(self, training, row):
        if training.epoch == 1:
            next(training.vae.model.parameters()).requires_grad_(False)
            training.vae.guide.eval()


@pytest.mark.parametrize("same_vae", [True, False])
def test_what_callbacks_have_frozen_stays_so(tmp_path, same_vae):
    def new():
        torch.manual_seed(1)
        return composed(hidden=[3])

    whole = new()
    expected = train(tmp_path / "whole", whole, epochs=4, callbacks=[Freezing()])
    first = new()
    train(tmp_path / "training", first, epochs=2, callbacks=[Freezing()])
    second = first if same_vae else new()
    found = train(tmp_path / "training", second, epochs=4, callbacks=[Freezing()])
    assert not next(second.model.parameters()).requires_grad
    assert not second.guide.training
    assert second.model.training
    assert found.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    assert all(torch.equal(t, whole.tensors()[name]) for name, t in second.tensors().items())


# What functions compute


class Program(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 2.0

    def forward(self, x):
        return self.scaled(x)

    def scaled(self, x):
        return x * self.scale

    def shown(self):
        return "not called"


def test_methods_that_a_module_calls_are_looked_at_and_others_are_not():
    assert list(described_functions(Program())) == ["Program.forward", "Program.scaled"]


def test_functions_of_packages_are_not_looked_at():
    assert described_functions(torch.nn.Linear(2, 3), torch.clamp, pyro.sample, dist.Normal) == {}
    assert described_functions(composed().model) == {}


def test_a_counter_of_a_function_is_none_of_its_settings():
    calls, scale = 0, 3.0

    def counted(x):
        nonlocal calls
        calls += 1
        return x * scale

    before = described_functions(counted)
    counted(1)
    assert described_functions(counted) == before
    assert before["counted"]["values"] == {"scale": "3.0"}


def test_operations_of_another_python_are_not_compared():
    def one(x):
        return x + 2

    def other(x):
        return x - 2

    was, now = described_functions(one)["one"], described_functions(other)["other"]
    assert "operations in Python" in difference(was, now)
    was["operations in Python 3.0"] = was.pop(next(n for n in was if n.startswith("operations")))
    assert difference(was, now) == ""


def test_long_texts_are_cut_where_they_differ():
    said = difference("a" * 500 + "b" + "c" * 500, "a" * 500 + "d" + "c" * 500)
    assert "ab" in said
    assert "ad" in said
    assert len(said) < 220


# One training on a path


class Second(Callback):
    """Starts another training on the same file."""

    def on_epoch(self, training, row):
        with pytest.raises(RuntimeError, match="another training that is running keeps its checkpoint in"):
            train(self.path)
        thread = threading.Thread(target=self.in_thread)
        thread.start()
        thread.join()

    def in_thread(self):
        with pytest.raises(RuntimeError, match="another training that is running"), alone_at(self.path):
            pass
        self.tried = True


def test_two_trainings_on_one_file_are_refused(tmp_path):
    second = Second()
    second.path = tmp_path / "training"
    train(second.path, callbacks=[second])
    assert second.tried
    assert [p.name for p in tmp_path.iterdir()] == ["training"]
    with alone_at(second.path):
        pass


def hold(path, held):
    with alone_at(path):
        held.set()
        threading.Event().wait()


def test_a_killed_training_keeps_nobody_out(tmp_path):
    spawned = multiprocessing.get_context("spawn")
    held = spawned.Event()
    other = spawned.Process(target=hold, args=(tmp_path / "training", held))
    other.start()
    assert held.wait(120)
    with pytest.raises(RuntimeError, match="another training"), alone_at(tmp_path / "training"):
        pass
    other.kill()
    other.join()
    with alone_at(Path(tmp_path / "training")):
        pass
