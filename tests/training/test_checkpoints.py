"""Checkpoints: a training that was killed ends where an uninterrupted one does, bit for bit; and what is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

import pyrovae as pv
from pyrovae.callbacks import Callback, EarlyStopping, EncoderSteps
from pyrovae.files import load_tensors, save_tensors
from pyrovae.training.processes import Processes
from pyrovae.training.state_tree import pack, unpack
from tests.pairs import binary_rows, composed, tutorial, with_param
from tests.shared_models import offsets

CHECKPOINT = "training.ckpt"


@pytest.mark.parametrize("kills, compile", [(20, False), (3, "auto")])
def test_killed_at_random_moments(tmp_path, kills, compile):
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.killing", str(tmp_path), str(kills), str(compile)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    killed, in_writes, compared = map(int, result.stdout.split())
    assert killed >= kills
    assert in_writes >= (3 if kills >= 20 else 0)
    assert compared >= 1


class CrashError(Exception):
    """As if the power went."""


class Crashing(Callback):
    def __init__(self, batches=10**9):
        self.left = batches

    def on_batch(self, training):
        self.left -= 1
        if self.left < 0:
            raise CrashError


class Noisy(Dataset):
    """Draws when it is read, as augmentations do."""

    def __len__(self):
        return 45

    def __getitem__(self, place):
        return torch.bernoulli(binary_rows(45)[place] * 0.8 + 0.1)


def trained(path, crash_after=None, *, make=composed, data=binary_rows, times=1, **settings):
    """History and weights of a training of 3 epochs of 6 batches, which crashed some times on its way."""
    given = {"epochs": 3, "batch_size": 8, "compile": False, "seed": 0, "progress": False} | settings

    def train(crash, **more):
        torch.manual_seed(5)
        vae = make()
        made = {
            name: value() if name in ("callbacks", "objective") else value for name, value in given.items()
        }
        callbacks = [*made.pop("callbacks", ()), crash]
        history = pv.fit(vae, data(45), callbacks=callbacks, **made, **more)
        weights = torch.cat([t.detach().double().flatten() for t in vae.tensors().values()])
        return history.drop(columns="seconds"), weights

    if crash_after is None:
        return train(Crashing())
    checkpoint = {"checkpoint": pv.Checkpoint(path / CHECKPOINT, every_steps=1), "resume": True}
    for _ in range(times):
        with pytest.raises(CrashError):
            train(Crashing(crash_after), **checkpoint)
    return train(Crashing(), **checkpoint)


def assert_same(expected, found):
    assert expected[0].equals(found[0])
    assert torch.equal(expected[1], found[1])


class Wavering(pv.objectives.ELBO):
    """A beta that changes with every step."""

    def __init__(self):
        super().__init__(beta=pv.objectives.Cyclical(steps=15))


def loader_of(sampler=None, generator=None):
    return lambda N: DataLoader(
        Noisy(),
        batch_size=8,
        shuffle=sampler is None,
        sampler=sampler() if sampler else None,
        generator=generator() if generator else None,
    )


def weighted():
    return WeightedRandomSampler(torch.linspace(0.1, 1.0, 45), 45, generator=torch.Generator().manual_seed(7))


def of_many_shapes(N):
    """Batches of 1 to 9 rows: one shape more than is traced, so that plain Pyro takes over with the last."""
    return DataLoader(
        Noisy(), batch_sampler=[list(range(k * (k - 1) // 2, k * (k + 1) // 2)) for k in range(1, 10)]
    )


TRAININGS = {
    "an engine that was given up": {
        "compile": "auto",
        "data": of_many_shapes,
        "batch_size": None,
        "epochs": 2,
    },
    "running statistics": {"make": tutorial},
    "pyro.param": {"make": with_param},
    "latents above the rows": {"make": lambda: pv.VAE(offsets)},
    "latents above the rows, traced": {"make": lambda: pv.VAE(offsets), "compile": "auto", "accumulate": 2},
    "traced": {"compile": "auto"},
    "loader": {"data": loader_of(), "batch_size": None},
    "loader with a generator": {
        "data": loader_of(generator=lambda: torch.Generator().manual_seed(1)),
        "batch_size": None,
    },
    "loader with a sampler": {"data": loader_of(weighted), "batch_size": None},
    "extra steps of the guide, beta": {"callbacks": lambda: [EncoderSteps(2)], "objective": Wavering},
    "16 bits": {"precision": "16-mixed", "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)},
    "seed of its own": {"seed": None},
    "no bar": {"optimizer": lambda p: torch.optim.RMSprop(p, lr=0.01), "clip_norm": 0.3},
    "per-epoch schedule": {"scheduler": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 1, 2])},
    "plateau": {
        "scheduler": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=1.0)
    },
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_crash_changes_nothing(tmp_path, name):
    # The crash comes in the third batch of the second epoch; again after one batch more than was resumed.
    assert_same(trained(tmp_path, **TRAININGS[name]), trained(tmp_path, 8, **TRAININGS[name]))


@pytest.mark.parametrize("crash_after", [5, 6, 8])  # before the ragged batch, after it, in the next epoch
def test_a_crash_changes_nothing_where_full_batches_alone_are_traced(tmp_path, monkeypatch, crash_after):
    monkeypatch.setattr("pyrovae.training.steps.MIN_STEPS", 10)  # between the 3 ragged steps and all 18
    found = trained(tmp_path, crash_after, compile="auto")
    assert_same(trained(tmp_path, compile="auto"), found)


def test_many_crashes_and_the_last_batch_of_an_epoch(tmp_path):
    assert_same(trained(tmp_path), trained(tmp_path, 6, times=2))


def test_a_finished_training_is_not_repeated_and_more_epochs_go_on(tmp_path):
    checkpoint = {"checkpoint": tmp_path / CHECKPOINT, "resume": True}
    first = trained(tmp_path, **checkpoint)
    assert_same(first, trained(tmp_path, **checkpoint))
    assert_same(trained(tmp_path, epochs=5), trained(tmp_path, epochs=5, **checkpoint))


def test_early_stopping_goes_on_from_its_best(tmp_path):
    def settings():
        watch = lambda: [EarlyStopping(patience=2)]  # noqa: E731
        rising = lambda p: torch.optim.SGD(p, lr=3.0)  # noqa: E731
        return {"callbacks": watch, "validation": binary_rows(20), "optimizer": rising, "epochs": 20}

    expected = trained(tmp_path, **settings())
    assert len(expected[0]) < 20
    best = int(expected[0].elbo_valid.argmax())
    assert best < len(expected[0]) - 1
    assert_same(expected, trained(tmp_path, 6 * (best + 1) + 2, **settings()))


def test_that_a_forgotten_random_state_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.training.loop.set_noise_state", lambda state, device: None)
    expected, found = trained(tmp_path), trained(tmp_path, 8)
    assert not torch.equal(expected[1], found[1])


# What is refused

OTHER = {
    "model": {"make": lambda: composed(hidden=[3])},
    "data": {"data": lambda N: 1 - binary_rows(N)},
    "seed": {"seed": 1},
    "optimizer": {"optimizer": lambda p: torch.optim.Adam(p, lr=2e-3)},
    "batch_size": {"batch_size": 9},
    "accumulate": {"accumulate": 2},
    "objective": {"objective": lambda: pv.objectives.ELBO(beta=2.0)},
    "scheduler": {"scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 2)},
    "clip_norm": {"clip_norm": 1.0},
    "precision": {"precision": "bf16-mixed"},
    "transform": {"transform": torch.bernoulli},
    "validation": {"validation": binary_rows(5)},
    "on_nonfinite": {"on_nonfinite": "skip"},
    "callbacks": {"callbacks": lambda: [EncoderSteps(1)]},
}


@pytest.mark.parametrize("name", OTHER)
def test_another_training_is_refused_by_what_differs(tmp_path, name):
    checkpoint = {"checkpoint": tmp_path / CHECKPOINT, "resume": True}
    trained(tmp_path, epochs=1, **checkpoint)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match=f"belongs to another training: {name} was .* and is now") as caught:
        trained(tmp_path, epochs=1, **checkpoint, **OTHER[name])
    # A guide's hidden layer comes with the model's here.
    assert caught.value.args[0].count(" and is now ") == (2 if name == "model" else 1)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_kind_of_device_is_refused(tmp_path):
    checkpoint = {"checkpoint": tmp_path / CHECKPOINT, "resume": True}
    trained(tmp_path, epochs=1, **checkpoint)
    path = tmp_path / CHECKPOINT
    tensors, header = load_tensors(path, "training")
    header["settings"]["device"] = "cuda"
    save_tensors(path, "training", tensors, header)
    with pytest.raises(ValueError, match="another training: device was cuda and is now cpu"):
        trained(tmp_path, epochs=1, **checkpoint)


@pytest.mark.parametrize("other, found", [(-1, "step 6, none"), (1, "step 6, step 1")])
def test_processes_that_find_different_files_are_refused(tmp_path, monkeypatch, other, found):
    class Two(Processes):
        """Beside another whose folder holds nothing, or an older file."""

        def gather(self, tensor):
            where_it_is = tensor.shape == (2,)  # epoch and step
            return [tensor, torch.full_like(tensor, other) if where_it_is else tensor]

    checkpoint = {"checkpoint": tmp_path / CHECKPOINT, "resume": True}
    trained(tmp_path, epochs=1, checkpoint=tmp_path / CHECKPOINT)
    monkeypatch.setattr("pyrovae.training.settings.Processes", Two)
    with pytest.raises(ValueError, match=f"not one file for all processes: by rank they find {found}"):
        trained(tmp_path, epochs=1, **checkpoint)


@pytest.mark.parametrize("other", [{"gamma": 0.5}, {"step_size": 3}])
def test_another_setting_of_the_scheduler_is_refused(tmp_path, other):
    def with_settings(**settings):
        return {"scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, **({"step_size": 1} | settings))}

    checkpoint = {"checkpoint": tmp_path / CHECKPOINT, "resume": True}
    trained(tmp_path, epochs=1, **checkpoint, **with_settings())
    with pytest.raises(ValueError, match="scheduler was StepLR"):
        trained(tmp_path, epochs=1, **checkpoint, **with_settings(**other))


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / CHECKPOINT
    with pytest.raises(ValueError, match="resume=True needs checkpoint="):
        trained(tmp_path, resume=True)
    with pytest.raises(FileNotFoundError, match="no folder"):
        trained(tmp_path, checkpoint=tmp_path / "nowhere" / "a")
    with pytest.raises(TypeError, match="expected a path or a pyrovae.Checkpoint"):
        trained(tmp_path, checkpoint=3)
    trained(tmp_path, checkpoint=path, epochs=1)
    with pytest.raises(ValueError, match="is there already and would be overwritten"):
        trained(tmp_path, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        trained(tmp_path, checkpoint=path, resume=True)
    composed().save(path)
    with pytest.raises(ValueError, match="not a saved training but a saved VAE"):
        trained(tmp_path, checkpoint=path, resume=True)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="truncated or damaged"):
        trained(tmp_path, checkpoint=path, resume=True)


def of_rank(K):
    """Plain functions that read a size which is no number."""
    size = torch.Size([K])

    def model(x):
        weight = pyro.param("weight", torch.full((*size, 6), 0.1))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))

    return pv.VAE(model, guide)


def test_another_model_of_the_same_name_is_refused_by_its_parameters(tmp_path):
    checkpoint = {"checkpoint": tmp_path / CHECKPOINT, "resume": True}
    trained(tmp_path, make=lambda: of_rank(2), **checkpoint)
    with pytest.raises(
        ValueError, match=r"another model: 'store.weight' has shape \[2, 6\] in the file and \[3, 6\]"
    ):
        trained(tmp_path, make=lambda: of_rank(3), **checkpoint)


def test_another_program_of_the_same_parameters_is_refused_by_its_sites(tmp_path):
    class Of(torch.nn.Module):
        def __init__(self, likelihood):
            super().__init__()
            self.likelihood, self.decoder = likelihood, pv.nn.MLP(2, 6)

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
                pyro.sample("x", self.likelihood(logits=self.decoder(z)).to_event(1), obs=x)

    checkpoint = {"checkpoint": tmp_path / CHECKPOINT, "resume": True}
    trained(tmp_path, make=lambda: pv.VAE(Of(dist.Bernoulli)), **checkpoint)
    with pytest.raises(ValueError, match=r"sites was x Bernoulli, observed and is now x Geometric, observed"):
        trained(tmp_path, make=lambda: pv.VAE(Of(dist.Geometric)), **checkpoint)


def test_a_state_that_no_file_holds_is_refused_before_the_first_step(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"function": print}

        def on_batch(self, training):
            raise AssertionError("a step was taken")

    with pytest.raises(
        TypeError, match=r"function is builtin_function_or_method: only tensors and plain data"
    ):
        trained(tmp_path, checkpoint=tmp_path / CHECKPOINT, callbacks=lambda: [Odd()])


def test_states_come_back_as_they_were():
    state = {
        1: torch.ones(2),
        "1": [torch.zeros(1), (3, None, float("inf"))],
        "a.b": torch.tensor(1.0),
        "a": {"b": torch.tensor(2.0), "c": np.float64(0.1), "d": np.int64(3)},
        "empty": {},
    }
    tensors, packed = pack(state)
    again = unpack(json.loads(json.dumps(packed)), tensors)
    assert again["a.b"].item() == 1.0
    assert again["a"] == {"b": torch.tensor(2.0), "c": 0.1, "d": 3}
    assert torch.equal(again[1], torch.ones(2))
    assert again["1"][1] == (3, None, float("inf"))
    assert again["empty"] == {}


def test_until_a_file_is_whole_the_old_one_stays(tmp_path, monkeypatch):
    path, seen, sync = tmp_path / "a.safetensors", [], os.fsync
    save_tensors(path, "test", {"a": torch.zeros(3)}, {})
    old = path.read_bytes()

    def watched(handle):
        sync(handle)
        seen.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", watched)
    save_tensors(path, "test", {"a": torch.ones(3)}, {})
    assert seen == [old]
    assert load_tensors(path, "test")[0]["a"].tolist() == [1.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


SCHEDULERS = torch.optim.lr_scheduler
EACH_SCHEDULER = {
    "LambdaLR": lambda o: SCHEDULERS.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: SCHEDULERS.MultiplicativeLR(o, lambda epoch: 0.9),
    "MultiStepLR": lambda o: SCHEDULERS.MultiStepLR(o, [2, 2, 5], 0.5),
    "ExponentialLR": lambda o: SCHEDULERS.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: SCHEDULERS.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: SCHEDULERS.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False),
    "OneCycleLR": lambda o: SCHEDULERS.OneCycleLR(o, 0.1, 20),
    "PolynomialLR": lambda o: SCHEDULERS.PolynomialLR(o, 9),
    "SequentialLR": lambda o: SCHEDULERS.SequentialLR(
        o, [SCHEDULERS.LinearLR(o), SCHEDULERS.MultiStepLR(o, [2, 3])], [4]
    ),
    "ChainedScheduler": lambda o: SCHEDULERS.ChainedScheduler(
        [SCHEDULERS.ExponentialLR(o, 0.9), SCHEDULERS.ConstantLR(o)]
    ),
    "ReduceLROnPlateau": lambda o: SCHEDULERS.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("name", EACH_SCHEDULER)
def test_torchs_schedulers_survive_a_file(name):
    def rates(resumed):
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.Adam([weight], lr=0.1)
        scheduler = EACH_SCHEDULER[name](optimizer)
        found = []
        for step in range(12):
            if step == 5 and resumed:
                tensors, packed = pack([optimizer.state_dict(), scheduler.state_dict()])
                optimizer = torch.optim.Adam([weight], lr=0.1)
                scheduler = EACH_SCHEDULER[name](optimizer)
                states = unpack(json.loads(json.dumps(packed)), tensors)
                optimizer.load_state_dict(states[0])
                scheduler.load_state_dict(states[1])
            optimizer.step()
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            found.append(optimizer.param_groups[0]["lr"])
        return found

    assert rates(resumed=True) == rates(resumed=False)


FULL_DISK = """
import resource, sys, warnings
import torch
import pyrovae as pv
from pyrovae.files import load_tensors
from pyrovae.callbacks import Callback
from tests.pairs import binary_rows, composed

class Filling(Callback):
    def on_epoch(self, training, row):
        if training.epoch in (2, 5):
            # Files may not grow beyond this: what the kernel says is what it says of a full disk.
            limit = 4096 if training.epoch == 2 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sizes.append(load_tensors(path, "training")[1]["state"] if training.epoch > 1 else None)

path, sizes = sys.argv[1], []
epochs = lambda: load_tensors(path, "training")[1]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    history = pv.fit(
        composed(hidden=[60]), binary_rows(), epochs=6, checkpoint=path, callbacks=[Filling()], compile=False,
        progress=False, seed=0,
    )
assert len(history) == 6
messages = [str(w.message) for w in caught]
assert len(messages) == 1, messages
assert "could not be saved" in messages[0] and "File too large" in messages[0], messages
# Readable all along: from the first epoch while the disk was full, from the last at the end.
written = [dict((k, v) for k, v in state["dict"]).get("epoch") for state in sizes if state]
assert written == [1, 1, 1, 1, 5], written
again = pv.fit(
    composed(hidden=[60]), binary_rows(), epochs=6, checkpoint=path, resume=True, callbacks=[Filling()],
    compile=False, progress=False, seed=0,
)
assert again.equals(history)
"""


def test_a_full_disk_loses_neither_the_old_checkpoint_nor_the_training(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / CHECKPOINT)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize("derived", [False, True])
def test_a_vae_loads_the_weights_of_a_checkpoint(tmp_path, derived):
    def made():
        torch.manual_seed(0)
        vae = composed()
        return pv.VAE(vae.model) if derived else vae

    vae, path = made(), tmp_path / CHECKPOINT
    pv.fit(vae, binary_rows(), epochs=2, checkpoint=path, compile=False, seed=0, progress=False)
    other = made().load(path)  # which has seen no data
    given = {"num_samples": 3, "seed": 0}
    assert torch.equal(pv.elbo(other, binary_rows(), **given).elbo, pv.elbo(vae, binary_rows(), **given).elbo)
    other.save(tmp_path / "weights.vae")
    assert load_tensors(tmp_path / "weights.vae", "VAE")[0].keys() == vae.tensors().keys()
    with pytest.raises(ValueError, match="belongs to another architecture"):
        composed(hidden=[7]).load(path)
    with pytest.raises(ValueError, match="not a saved training but a saved VAE"):
        pv.fit(made(), binary_rows(), checkpoint=tmp_path / "weights.vae", resume=True, progress=False)
