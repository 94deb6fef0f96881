"""Losses that turn NaN: where, when and for which rows is said; the good weights are kept; batches can be skipped."""

import itertools
import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import pyrovae as pv
from pyrovae.callbacks import Callback
from pyrovae.files import load_tensors
from pyrovae.random_state import seed_of
from pyrovae.training.nonfinite import LOOK_EVERY
from tests.pairs import binary_rows, composed

# Pyro's own, where it runs without a trace.
pytestmark = pytest.mark.filterwarnings("ignore:Encountered NaN")

N, BAD_ROW = 20, 13


class Logarithm(torch.autograd.Function):
    """The identity, whose gradient is NaN for rows marked by a 7."""

    @staticmethod
    def forward(ctx, value, x):
        ctx.save_for_backward(x)
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return torch.where(x == 7.0, torch.nan, gradient), None


class Fragile(nn.Module):
    """A pair that gives NaN for the rows marked by a 7: in the guide's location, in the model's, or in a gradient."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.slope = nn.Parameter(torch.tensor(0.1))
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))  # as attention has them

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            mean = self.slope * z
            if self.where == "x":
                mean = mean + torch.where(x == 7.0, torch.nan, 0.0)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(self, x):
        mean = self.slope * x
        if self.where == "z":
            mean = mean * torch.where(x == 7.0, math.inf, 1.0)
        if self.where == "gradient":
            mean = Logarithm.apply(mean, x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(mean, 1.0))


class Poisoning(Callback):
    """Marks a row from some epoch on, as if the weights had grown there."""

    def __init__(self, x, epoch):
        self.x, self.epoch, self.weights = x, epoch, []

    def on_batch(self, training):
        if training.epoch == self.epoch:
            self.x[BAD_ROW] = 7.0
        self.weights.append(training.vae.model.__self__.slope.item())


def poisoned(where, epoch=2, **settings):
    pair, x = Fragile(where), torch.linspace(-1, 1, N)
    vae, poison = pv.VAE(pair.model, pair.guide), Poisoning(x, epoch)
    optimizer = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    given = {"epochs": 4, "batch_size": 5, "seed": 0, "progress": False, "optimizer": optimizer} | settings
    given["callbacks"] = [*given.get("callbacks", ()), poison]
    return pair, vae, poison, lambda: pv.fit(vae, x, **given)


@pytest.mark.parametrize("compile", ["auto", False])
@pytest.mark.parametrize("where, program", [("z", "guide"), ("x", "model")])
def test_site_step_and_row_are_named_and_the_weights_kept(tmp_path, compile, where, program):
    checkpoint = tmp_path / "training.ckpt"
    pair, _, poison, train = poisoned(where, compile=compile, checkpoint=checkpoint)
    with pytest.raises(pv.NonFiniteLossError) as caught:
        train()
    message = str(caught.value)
    step = len(poison.weights)  # the batches begun
    assert 8 < step <= 12
    assert f"the loss of step {step} (epoch 3) is not finite" in message
    assert f"site '{where}' of the {program} is not finite for row {BAD_ROW} of the data (1 of the" in message
    assert "training.ckpt.last_good" in message
    # No step was taken with a NaN, and none is lost.
    assert pair.slope.item() == poison.weights[-1]
    other = Fragile(where)
    saved = pv.VAE(other.model, other.guide).load(tmp_path / "training.ckpt.last_good")
    assert saved.model.__self__.slope.item() == pair.slope.item()
    # The checkpoint is older, and good.
    again = load_tensors(checkpoint, "training")[0]
    assert all(bool(torch.isfinite(t).all()) for n, t in again.items() if "weights" in n and "mask" not in n)


class Static:
    """Steps that write their results where they wrote the last, as a CUDA graph does."""

    def __init__(self, steps):
        self._steps, self._results = steps, None

    def __getattr__(self, name):
        return getattr(self._steps, name)

    def __call__(self, arguments):
        statistics, gradients = self._steps(arguments)
        if self._results is None:
            self._results = statistics, gradients
        self._results[0].copy_(statistics)
        for old, new in zip(self._results[1], gradients, strict=True):
            old.copy_(new)
        return self._results


class AsOnAGPU(Callback):
    """Losses that are looked at late, from results that are overwritten."""

    def on_start(self, training):
        training._watch._every = LOOK_EVERY
        training._steps = Static(training._steps)


@pytest.mark.parametrize("where, program", [("z", "guide"), ("x", "model")])
def test_late_looks_name_the_first_bad_loss_and_its_site_and_go_back(where, program):
    pair, _, poison, train = poisoned(where, seed=2, callbacks=[AsOnAGPU()])
    with pytest.raises(pv.NonFiniteLossError) as caught:
        train()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed_of(seed_of(2, 0), 2)))
    step = 8 + int((order == BAD_ROW).nonzero()) // 5
    assert step < 11, "no step after the bad one"
    assert math.isnan(poison.weights[-1])  # which was taken
    assert f"the loss of step {step + 1} (epoch 3) is not finite" in str(caught.value)
    assert f"site '{where}' of the {program} is not finite for row {BAD_ROW} of the data" in str(caught.value)
    # Of the look before, at the end of the second epoch.
    assert pair.slope.item() == poison.weights[8]


class Reads(TorchDispatchMode):
    """Counts how often a number of a tensor is asked for, which waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class ReadsByEpoch(Callback):
    def __init__(self, reads):
        self.reads, self.counts = reads, []

    def on_epoch(self, training, row):
        self.counts.append(self.reads.count)


@pytest.mark.parametrize(
    "settings", [{}, {"precision": "16-mixed", "clip_norm": 1.0}, {"on_nonfinite": "skip"}]
)
def test_a_step_on_a_gpu_does_not_wait_for_its_numbers(settings):
    found = []
    for steps in (3, 6):
        with Reads() as reads:
            told = ReadsByEpoch(reads)
            given = {"epochs": 3, "batch_size": 8, "seed": 0, "progress": False} | settings
            pv.fit(composed(), binary_rows(8 * steps), callbacks=[AsOnAGPU(), told], **given)
        found.append(told.counts[2] - told.counts[1])
    # To skip a batch is to look at it first, once.
    assert found[1] - found[0] == (3 if "on_nonfinite" in settings else 0)


@pytest.mark.parametrize("compile", ["auto", False])
def test_a_gradient_alone_is_seen_and_never_saved(tmp_path, compile):
    checkpoint = pv.Checkpoint(tmp_path / "training.ckpt", every_steps=1)
    pair, _, poison, train = poisoned("gradient", compile=compile, checkpoint=checkpoint)
    with pytest.raises(
        pv.NonFiniteLossError, match=r"parameters .*slope are not finite themselves, since a grad"
    ):
        train()
    assert math.isfinite(pair.slope.item())
    # A checkpoint each step: the weights before the step that spoilt them.
    assert pair.slope.item() == poison.weights[-1]
    tensors, _ = load_tensors(checkpoint.path, "training")
    assert any(t.numel() == 1 and t.item() == pair.slope.item() for t in tensors.values())


def test_a_gradient_of_the_last_step_is_seen_too():
    pair, _, _, train = poisoned(
        "gradient", epoch=0, epochs=2, batch_size=N
    )  # marked after the first batch was taken
    with pytest.raises(pv.NonFiniteLossError, match=r"after step 2 \(epoch 2\), the parameters"):
        train()
    assert math.isfinite(pair.slope.item())


@pytest.mark.parametrize("compile", ["auto", False])
@pytest.mark.parametrize("where", ["z", "x", "gradient"])
def test_skipping_leaves_such_batches_out(compile, where):
    pair, _, poison, train = poisoned(where, compile=compile, on_nonfinite="skip")
    history = train()
    assert len(poison.weights) == 16
    assert history.attrs["skipped"] == 2  # one batch of each of two epochs
    same = [a == b for a, b in zip(poison.weights, [*poison.weights[1:], pair.slope.item()], strict=True)]
    assert sum(same) == 2
    assert bool(history.drop(columns="elbo_valid").notna().all(axis=None))


def test_an_epoch_of_nothing_but_skipped_batches_ends_it():
    with pytest.raises(pv.NonFiniteLossError, match="epoch 4: every batch was skipped"):
        poisoned("x", batch_size=N, on_nonfinite="skip")[-1]()


class Normed(Fragile):
    """A pair whose running statistics a marked row makes NaN."""

    def __init__(self):
        super().__init__("nowhere")
        self.norm = nn.BatchNorm1d(1)

    def guide(self, x):
        mean = self.norm((x / (7.0 - x).sign().abs()).unsqueeze(-1)).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.slope * mean, 1.0))


@pytest.mark.parametrize("compile", ["auto", False])
def test_a_skipped_batch_leaves_running_statistics_and_weights_as_they_were(compile):
    class Noting(Callback):
        def on_batch(self, training):
            module = training.vae.model.__self__
            notes.append([t.detach().clone() for t in (*module.parameters(), *module.norm.buffers())])

    pair, x, notes = Normed(), torch.linspace(-1, 1, N), []
    history = pv.fit(
        pv.VAE(pair.model, pair.guide),
        x,
        epochs=4,
        batch_size=5,
        callbacks=[Poisoning(x, 2), Noting()],
        on_nonfinite="skip",
        compile=compile,
        seed=0,
        progress=False,
    )
    assert history.attrs["skipped"] == 2
    notes.append([*pair.parameters(), *pair.norm.buffers()])
    # Each batch moves every parameter and statistic, but for the two, which move none.
    moved = [
        {not torch.equal(a, b) for a, b in zip(*pair, strict=True)} for pair in itertools.pairwise(notes)
    ]
    assert sorted(map(str, moved)) == ["{False}"] * 2 + ["{True}"] * 14
    assert bool(torch.isfinite(pair.norm.running_mean).all())


@pytest.mark.parametrize("late", [[], [AsOnAGPU()]], ids=["", "late"])
def test_running_statistics_are_good_ones_where_training_stops(late):
    pair, x = Normed(), torch.linspace(-1, 1, N)
    settings = {"epochs": 4, "batch_size": 5, "seed": 0, "progress": False}
    with pytest.raises(pv.NonFiniteLossError, match="site 'z' of the guide is not finite for row"):
        pv.fit(pv.VAE(pair.model, pair.guide), x, callbacks=[*late, Poisoning(x, 2)], **settings)
    assert all(bool(torch.isfinite(t).all()) for t in (*pair.parameters(), *pair.norm.buffers()))


def test_an_error_that_is_no_nan_is_left_alone():
    class Failing(Callback):
        def on_batch(self, training):
            training.vae.model.failing = training.epoch == 1

    class Model(nn.Module):
        failing = False

        def __init__(self):
            super().__init__()
            self.plain = composed().model

        def forward(self, x):
            if self.failing:
                raise ValueError("of another kind")
            self.plain(x)

    vae = pv.VAE(Model(), composed().guide)
    with pytest.raises(ValueError, match=re.escape("of another kind")):
        pv.fit(vae, torch.zeros(8, 6), epochs=2, callbacks=[Failing()], compile=False, progress=False)


def test_a_disk_too_full_for_the_good_weights_hides_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    _, vae, _, train = poisoned("x", checkpoint=tmp_path / "training.ckpt")
    monkeypatch.setattr(type(vae), "save", full)
    with pytest.raises(pv.NonFiniteLossError, match="could not be saved .No space left"):
        train()


def test_validation_and_modes_are_as_before():
    _, _, _, train = poisoned("z", compile=False)
    with pytest.raises(pv.NonFiniteLossError):
        train()
    assert torch.distributions.Distribution._validate_args is True


class Leaping(Callback):
    """Makes weights finite and far too large after some step."""

    def __init__(self, step):
        self.step, self.weights = step, []

    def on_step(self, training):
        slope = training.vae.model.__self__.slope
        if training.step == self.step:
            with torch.no_grad():
                slope.fill_(2.6e20)
        else:
            self.weights.append(slope.item())


@pytest.mark.parametrize("late", [[], [AsOnAGPU()]], ids=["", "late"])
@pytest.mark.parametrize("compile", ["auto", False])
@pytest.mark.parametrize("step", [6, 8, 16])  # within an epoch, at the end of one, the last of all
def test_last_good_weights_are_those_of_a_finite_loss(tmp_path, compile, late, step):
    pair, leap = Fragile("nowhere"), Leaping(step)
    vae, x = pv.VAE(pair.model, pair.guide), torch.linspace(-1, 1, N)
    checkpoint = pv.Checkpoint(tmp_path / "training.ckpt", every_steps=1)
    given = {"epochs": 4, "batch_size": 5, "seed": 0, "progress": False, "compile": compile}
    with pytest.raises(
        pv.NonFiniteLossError, match=r"no loss is finite at .* the largest of which is 2.6e\+20"
    ):
        pv.fit(vae, x, validation=x, checkpoint=checkpoint, callbacks=[*late, leap], **given)
    assert pair.slope.item() == leap.weights[-1]
    assert bool(pv.elbo(vae, x).elbo.isfinite().all())
    # Neither file has them: the checkpoint is that of the step before.
    other = Fragile("nowhere")
    saved = pv.VAE(other.model, other.guide).load(tmp_path / "training.ckpt.last_good")
    assert saved.model.__self__.slope.item() == leap.weights[-1]
    tensors, _ = load_tensors(checkpoint.path, "training")
    assert all(
        float(t.abs().max()) < 1e10 for t in tensors.values() if t.is_floating_point() and t.numel() == 1
    )


@pytest.mark.parametrize("late", [[], [AsOnAGPU()]], ids=["", "late"])
def test_without_a_checkpoint_the_last_step_counts_too(late):
    pair, leap = Fragile("nowhere"), Leaping(16)
    with pytest.raises(pv.NonFiniteLossError, match=r"after step 16 \(epoch 4\), no loss is finite"):
        pv.fit(
            pv.VAE(pair.model, pair.guide),
            torch.linspace(-1, 1, N),
            callbacks=[*late, leap],
            epochs=4,
            batch_size=5,
            progress=False,
        )
    assert abs(pair.slope.item()) < 10


def test_to_confirm_weights_changes_no_figure(tmp_path):
    def trained(**settings):
        pair = Normed()
        history = pv.fit(
            pv.VAE(pair.model, pair.guide),
            torch.linspace(-1, 1, N),
            **{"epochs": 3, "batch_size": 6, "seed": 0, "progress": False} | settings,
        )
        return history.loss.tolist(), pair.slope.item(), pair.norm.running_mean.item()

    assert trained() == trained(checkpoint=pv.Checkpoint(tmp_path / "training.ckpt", every_steps=1))
