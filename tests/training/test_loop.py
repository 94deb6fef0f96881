"""The loop: schedules, accumulation, clipping, callbacks, precisions, loggers, Ctrl-C; and what is refused."""

import math
import os
import random
import signal
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.callbacks import Callback, EarlyStopping, EncoderSteps
from pyrovae.random_state import fixed_seed
from pyrovae.traced.traced import Traced
from tests.pairs import binary_rows, composed
from tests.training.test_fitting import Deterministic, Recording

SCHEDULERS = torch.optim.lr_scheduler
N = 45


class Noting(Callback):
    """Keeps what a function says of the training after each step."""

    def __init__(self, told):
        self.told, self.notes = told, []

    def on_step(self, training):
        self.notes.append(self.told(training))


def rate(training):
    return training.optimizer.param_groups[0]["lr"]


def train(vae=None, data=None, **settings):
    torch.manual_seed(0)
    vae = composed() if vae is None else vae
    given = {"epochs": 3, "batch_size": 8, "seed": 0, "compile": False, "progress": False} | settings
    return vae, pv.fit(vae, binary_rows(N) if data is None else data, **given)


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def sgd(lr):
    return lambda p: torch.optim.SGD(p, lr=lr)


# Schedules


def test_schedules_by_epoch_and_by_step():
    halving = lambda o: SCHEDULERS.ExponentialLR(o, 0.5)  # noqa: E731
    by_epoch, by_step = Noting(rate), Noting(rate)
    train(optimizer=sgd(1.0), scheduler=halving, callbacks=[by_epoch])
    train(optimizer=sgd(1.0), scheduler=halving, callbacks=[by_step], schedule_steps=True, epochs=1)
    assert by_epoch.notes == [1.0] * 6 + [0.5] * 6 + [0.25] * 6
    assert by_step.notes == [0.5**k for k in range(1, 7)]


@pytest.mark.parametrize("by_step", [True, False])
def test_a_learning_rate_that_falls_below_zero_ends_the_training(by_step):
    falling = lambda o: SCHEDULERS.LambdaLR(o, lambda time: 1.0 - 0.75 * time)  # noqa: E731
    step = 2 if by_step else 12
    with pytest.raises(ValueError, match=f"the learning rate -0.5 after step {step}: expected"):
        train(optimizer=sgd(1.0), scheduler=falling, schedule_steps=by_step)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateaus_are_those_of_the_validation(mode):
    """With a threshold that no fall passes, each epoch is a plateau; with a rising ELBO and none, none is."""
    notes = Noting(rate)
    plateau = lambda o: SCHEDULERS.ReduceLROnPlateau(o, mode, factor=0.5, patience=0, threshold=0.0)  # noqa: E731
    x = binary_rows(N)
    _, history = train(
        optimizer=sgd(0.5), scheduler=plateau, callbacks=[notes], validation=x, epochs=4, batch_size=N
    )
    assert (history.elbo_valid.diff()[1:] > 0).all()
    assert notes.notes == [0.5] * 4
    falling = Noting(rate)
    train(
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5, maximize=True),
        scheduler=plateau,
        callbacks=[falling],
        epochs=3,
        batch_size=N,
    )
    assert falling.notes == [0.5, 0.5, 0.25]


def test_beta_changes_without_new_traces_and_the_history_logs_the_true_elbo():
    beta = pv.objectives.LinearWarmUp(steps=12, start=0.25, end=4.0)
    objective = pv.objectives.ELBO(beta=beta)
    told = Noting(
        lambda t: (len(t._steps.traced.traces), t._steps.traced.retraces, float(objective.coefficients[0]))
    )
    _, history = train(compile="auto", objective=objective, callbacks=[told], optimizer=sgd(0.0))
    assert history.attrs["engine"].startswith("traced")
    assert told.notes[-1][:2] == (2, 0)  # a full and a ragged batch
    assert [n[2] for n in told.notes] == pytest.approx([beta(k, None) for k in range(18)])
    plain, expected = train(objective=pv.objectives.ELBO(), optimizer=sgd(0.0))
    np.testing.assert_allclose(history.elbo, expected.elbo, rtol=1e-5)
    np.testing.assert_allclose(history.elbo, history.reconstruction - history.rate, rtol=1e-5)
    # The last epoch is at beta = 4 all along.
    assert history.loss[2] == pytest.approx(4 * history.rate[2] - history.reconstruction[2], rel=1e-5)
    x = binary_rows(N)
    exact = pv.elbo(plain, x, num_samples=500, seed=0)
    spread = float(exact.std_error.mean()) * 500**0.5 / N**0.5
    assert history.elbo.mean() == pytest.approx(float(exact.elbo.mean()), abs=5 * spread / 3**0.5)


# Steps


def test_full_batches_are_traced_and_rare_ragged_ones_run_as_plain_pyro(monkeypatch):
    plain, sizes = Traced._run_plain, []

    def watched(traced, arguments):
        sizes.append(len(arguments[1]))  # after whether entries are absent
        return plain(traced, arguments)

    monkeypatch.setattr("pyrovae.training.steps.MIN_STEPS", 10)  # between the 3 ragged steps and all 18
    monkeypatch.setattr(Traced, "_run_plain", watched)
    traces = Noting(lambda training: len(training._steps.traced.traces))
    vae, history = train(compile="auto", callbacks=[traces])
    assert history.attrs["engine"] == "traced"
    assert sizes.count(N % 8) == 3
    assert sizes.count(8) < 5  # to compare the trace with
    assert traces.notes == [1] * 18
    other, expected = train()
    np.testing.assert_allclose(history.drop(columns="seconds"), expected.drop(columns="seconds"), rtol=1e-5)
    torch.testing.assert_close(weights(vae), weights(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_accumulated_batches_are_one_large_batch(compile):
    x = torch.arange(10.0)
    found = []
    for settings in ({"batch_size": 6}, {"batch_size": 2, "accumulate": 3}):
        pair = Deterministic()
        optimizer = Recording([pair.w])
        vae = pv.VAE(pair.model, pair.guide)
        train(vae, x, optimizer=optimizer, epochs=2, compile=compile, **settings)
        found.append([float(g[0]) for g in optimizer.gradients])
    assert len(found[0]) == 4  # of 6 and of 4 rows
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_gradients_are_clipped_together():
    norms = Noting(lambda t: math.hypot(*(float(p.grad.norm()) for p in t.vae.parameters())))
    train(clip_norm=0.01, callbacks=[norms])
    assert norms.notes == pytest.approx([0.01] * 18, rel=1e-3)
    vae = composed()
    alone = Noting(lambda t: math.hypot(*(float(p.grad.norm()) for p in t.vae.guide.parameters())))
    train(vae, clip_norm=0.001, callbacks=[alone], optimizer=torch.optim.SGD(vae.guide.parameters(), lr=0.1))
    assert alone.notes == pytest.approx([0.001] * 18, rel=1e-3)  # the model's are not stepped


def test_an_optimizer_over_all_parameters_takes_frozen_ones_too():
    vae = composed()
    vae.model.requires_grad_(False)
    before = [p.clone() for p in vae.model.parameters()]
    train(vae, optimizer=torch.optim.Adam(vae.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, vae.model.parameters(), strict=True))


# Callbacks


class Overfitting(Callback):
    """Moves the weights away from where they were, after a good epoch."""

    def __init__(self, after):
        self.after, self.best = after, None

    @torch.no_grad()
    def on_epoch(self, training, row):
        if training.epoch == self.after:
            self.best = weights(training.vae)
        if training.epoch >= self.after:
            for p in training.vae.parameters():
                p.add_(3.0)


def test_early_stopping_goes_back_to_the_best_weights():
    settings = {"epochs": 30, "validation": binary_rows(20), "optimizer": sgd(0.2)}
    stopping, moving = EarlyStopping(patience=2), Overfitting(5)
    vae, history = train(callbacks=[stopping, moving], **settings)
    assert len(history) == 7
    assert stopping.best_epoch == 5
    assert torch.equal(weights(vae), moving.best)
    vae, _ = train(callbacks=[EarlyStopping(patience=2, restore_best=False), moving], **settings)
    assert not torch.equal(weights(vae), moving.best)
    with pytest.raises(ValueError, match="EarlyStopping watches the validation ELBO"):
        train(callbacks=[EarlyStopping()])


def test_early_stopping_says_so_where_its_best_weights_no_longer_fit():
    class Growing(Callback):
        def on_end(self, training):
            training.vae.guide.register_buffer("more", torch.zeros(2))

    settings = {"validation": binary_rows(20), "callbacks": [Growing(), EarlyStopping()]}
    with pytest.warns(
        UserWarning, match=r"could not go back to the weights of epoch 3.*it lacks 'guide.more'"
    ):
        _, history = train(**settings)
    assert len(history) == 3


class Order(Callback):
    def __init__(self):
        self.calls = []

    def on_start(self, training):
        self.calls.append("start")

    def on_batch(self, training):
        self.calls.append("batch")

    def on_step(self, training):
        self.calls.append("step")

    def on_epoch(self, training, row):
        self.calls.append(f"epoch {row['epoch']}")

    def on_end(self, training):
        self.calls.append("end")


def test_callbacks_are_called_in_their_order():
    order = Order()
    train(callbacks=[order], epochs=2, batch_size=20, accumulate=2)
    of_epoch = ["batch", "batch", "step", "batch", "step"]
    assert order.calls == ["start", *of_epoch, "epoch 1", *of_epoch, "epoch 2", "end"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_encoder_steps_train_the_guide_alone_by_steps_of_their_own(accumulate):
    class FreezeMain(Callback):
        """Lets no other step than the extra ones happen."""

        def on_start(self, training):
            self.guide = {id(p) for p in training.vae.guide.parameters()}
            self.gradients = []
            plain = training.optimizer.step

            def step():
                if all(p.grad is None for p in training.vae.model.parameters()):
                    self.gradients.append([p.grad.clone() for p in training.vae.guide.parameters()])
                    plain()

            training.optimizer.step = step

    vae, freeze = composed(), FreezeMain()
    before = [p.clone() for p in vae.model.parameters()], [p.clone() for p in vae.guide.parameters()]
    settings = {"accumulate": accumulate, "epochs": 2, "batch_size": N, "optimizer": sgd(0.0)}
    train(vae, callbacks=[freeze, EncoderSteps(3, epochs=1)], **settings)
    assert len(freeze.gradients) == 3
    assert all(torch.equal(a, b) for a, b in zip(before[0], vae.model.parameters(), strict=True))
    # Whole batches of all rows: a gradient of the mean ELBO, whatever the other steps gather.
    with fixed_seed(0, vae.device), vae.scope():
        x = binary_rows(N).repeat(200, 1)
        loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x) / len(x)
    exact = torch.autograd.grad(loss, list(vae.guide.parameters()))
    mean = [torch.stack(g).mean(0) for g in zip(*freeze.gradients, strict=True)]
    ratio = sum(float((m * e).sum()) for m, e in zip(mean, exact, strict=True)) / sum(
        float((e * e).sum()) for e in exact
    )
    assert 0.75 < ratio < 1.25


def test_encoder_steps_need_rows_at_hand_and_a_guide():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(binary_rows(N)), batch_size=8)
    with pytest.raises(ValueError, match="EncoderSteps draws batches of its own"):
        train(data=loader, batch_size=None, callbacks=[EncoderSteps(1)])


# Precisions


@pytest.mark.parametrize("precision, places", [("bf16-mixed", 0.02), ("16-mixed", 0.005)])
@pytest.mark.parametrize("compile", [False, "auto"])
def test_mixed_precision_keeps_densities_in_float32(precision, places, compile):
    kinds = set()

    class Watching(pv.nn.MLP):
        def forward(self, *inputs):
            made = super().forward(*inputs)
            kinds.add(made.dtype)
            return made

    def make():
        torch.manual_seed(0)
        decoder = pv.models.Bernoulli(Watching(2, 6, [16]))
        model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), decoder)
        return pv.VAE(model, composed(hidden=[16]).guide)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = {"compile": compile, "scheduler": lambda o: SCHEDULERS.OneCycleLR(o, 0.01, 18)}
        vae, history = train(make(), precision=precision, schedule_steps=True, **settings)
        other, exact = train(make(), schedule_steps=True, **settings)
    assert kinds == {torch.float32}
    assert history.attrs["engine"].startswith("traced" if compile else "plain Pyro (compile=False)")
    assert not torch.equal(weights(vae), weights(other))
    np.testing.assert_allclose(history.elbo, exact.elbo, rtol=places)
    assert all(p.dtype == torch.float32 for p in vae.parameters())


def test_16_bits_that_overflow_lower_the_scale_and_leave_the_step_out():
    scales = Noting(lambda t: float(t._steps.loss_scale))
    x = torch.full((N,), 3.0)

    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(1, 1, bias=False)

        def model(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.line(z).squeeze(-1), 0.001), obs=x)

        def guide(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(torch.ones(1), 0.5).to_event(1))

    pair = Steep()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(
            pv.VAE(pair.model, pair.guide),
            x,
            precision="16-mixed",
            callbacks=[scales],
            optimizer=sgd(1e-9),
            scheduler=lambda o: SCHEDULERS.ExponentialLR(o, 0.9),
            schedule_steps=True,
        )
    assert scales.notes[0] == 2.0**15
    assert scales.notes[-1] < scales.notes[0]
    assert math.isfinite(pair.line.weight.item())


# Loggers


def test_loggers_write_files(tmp_path):
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tensorboard")]
    _, history = train(loggers=loggers, validation=binary_rows(10), optimizer=sgd(0.1))
    written = pd.read_csv(next((tmp_path / "csv").rglob("metrics.csv")))
    assert written.epoch.tolist() == [1, 2, 3]
    assert written.step.tolist() == [1, 2, 3]
    assert written.learning_rate.tolist() == [0.1] * 3
    for name in ("loss", "elbo", "reconstruction", "rate", "elbo_valid"):
        np.testing.assert_allclose(written[name], history[name], rtol=1e-6)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(loggers[1].log_dir)
    events.Reload()
    np.testing.assert_allclose([e.value for e in events.Scalars("elbo")], history.elbo, rtol=1e-5)


# Ctrl-C


class Counting(Callback):
    """Adds a figure of its own, from the second epoch on."""

    def on_epoch(self, training, row):
        if training.epoch > 1:
            row["mine"] = 10.0 * training.epoch


def test_what_a_callback_adds_to_a_row_is_a_column_and_is_logged(tmp_path):
    path, told = tmp_path / "training", []

    class Logger:
        def log_metrics(self, metrics, step):
            told.append(metrics.get("mine"))

    given = {
        "callbacks": [Counting()],
        "checkpoint": path,
        "seed": 0,
        "progress": False,
        "loggers": [Logger()],
    }
    pv.fit(composed(), binary_rows(), epochs=2, **given)
    history = pv.fit(composed(), binary_rows(), epochs=3, resume=True, **given)
    assert history.columns[-2:].tolist() == ["seconds", "mine"]
    assert history["mine"].isna().tolist() == [True, False, False]
    assert history["mine"].iloc[-1] == 30.0
    assert told == [None, 20.0, 30.0]


INTERRUPTED = """
import os, signal, sys, torch, warnings
import pyrovae.training.checkpoints
import pyrovae as pv
from pyrovae.callbacks import Callback
from tests.pairs import binary_rows, composed

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are started deaf to it

class Interrupting(Callback):
    def __init__(self, moment):
        self.when = moment
    def on_batch(self, training):
        if self.when == "batch" and training.step == 4 and training._optimization.waiting == 1:
            os.kill(os.getpid(), signal.SIGINT)
    def on_step(self, training):
        if self.when == "step" and training.step == 20:
            os.kill(os.getpid(), signal.SIGINT)
    def on_epoch(self, training, row):
        if self.when == "epoch" and training.epoch == 3:
            os.kill(os.getpid(), signal.SIGINT)

def train(moment, path, **settings):
    torch.manual_seed(0)
    vae = composed()
    history = pv.fit(vae, binary_rows(45), epochs=7, batch_size=8, compile=False, seed=0, progress=False,
                     callbacks=[Interrupting(moment)], checkpoint=path, **settings)
    return history.drop(columns="seconds"), torch.cat([p.detach().flatten() for p in vae.parameters()])

for moment, step, epochs, accumulate in (("step", 20, 3, 1), ("epoch", 18, 3, 1), ("batch", 5, 2, 3)):
    whole, weights = train(None, None, accumulate=accumulate)
    path = f"{sys.argv[1]}/{moment}"
    seldom = pv.Checkpoint(path, every_epochs=100)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history, learned = train(moment, seldom, accumulate=accumulate)
    assert f"(Ctrl-C) after epoch {epochs} of 7, at step {step}:" in str(told[-1].message), told
    assert told[-1].filename == "<string>" and "resume=True" in str(told[-1].message)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(history) == epochs and history.equals(whole[:epochs]), history
    assert history.attrs["interrupted"] and not whole.attrs["interrupted"]
    assert not torch.equal(learned, weights)
    state = pyrovae.training.checkpoints.Keeper(seldom, {}).read()
    assert state["step"] == step, state["step"]
    again, found = train(None, seldom, resume=True, accumulate=accumulate)
    assert again.equals(whole) and torch.equal(found, weights)
"""


def test_ctrl_c_returns_what_was_learned_and_leaves_a_checkpoint(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


# Nothing process-wide


def state():
    return {
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": str(np.random.get_state()),
        "python random": random.getstate(),
        "store": dict(pyro.get_param_store()),
        "filters": list(warnings.filters),
        "SIGINT": signal.getsignal(signal.SIGINT),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "dtype": torch.get_default_dtype(),
        "validation": torch.distributions.Distribution._validate_args,
        "pyro validation": (
            pyro.poutine.util.is_validation_enabled(),
            pyro.infer.util.is_validation_enabled(),
        ),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
    }


class Failing(Callback):
    def on_step(self, training):
        if training.step == 3:
            raise RuntimeError("a callback's own")


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"compile": "auto"},
        {"compile": False},
        {"compile": "auto", "precision": "bf16-mixed", "objective": pv.objectives.IWAE(3)},
        {"callbacks": [Failing()]},
        {"callbacks": [Failing()], "compile": "auto"},
        {"optimizer": sgd(1e38)},
    ],
)
def test_nothing_process_wide_is_left_behind(validation, settings):
    pyro.enable_validation(validation)
    vae = composed()
    before = state()
    caught = None
    try:
        pv.fit(
            vae,
            binary_rows(N),
            epochs=2,
            batch_size=8,
            seed=0,
            validation=binary_rows(9),
            progress=False,
            **settings,
        )
    except (RuntimeError, pv.NonFiniteLossError) as error:
        caught = error
    assert (caught is not None) == ("callbacks" in settings or "optimizer" in settings)
    changed = [name for name, value in state().items() if value != before[name]]
    assert changed == []
    if caught is None:
        assert all(p.grad is None for p in vae.parameters())
        assert vae.training


# What is refused before the first step


class NoStep(Callback):
    def on_batch(self, training):
        raise AssertionError("a step was taken")


def foreign_scheduler(optimizer):
    return SCHEDULERS.StepLR(sgd(0.1)([nn.Parameter(torch.ones(1))]), 1)


BAD = {
    "steps": (TypeError, "unexpected keyword argument 'steps'", {"steps": 3}),
    "lr": (TypeError, "unexpected keyword argument 'lr'", {"lr": 0.1}),
    "epochs": (ValueError, "epochs is 0", {"epochs": 0}),
    "float epochs": (ValueError, r"epochs is 1\.5", {"epochs": 1.5}),
    "batch_size": (ValueError, "batch_size is -1", {"batch_size": -1}),
    "accumulate": (ValueError, "accumulate is 0", {"accumulate": 0}),
    "seed": (ValueError, r"seed is 1\.5: expected a whole number", {"seed": 1.5}),
    "compile": (ValueError, "compile is 'yes': expected 'auto', True or False", {"compile": "yes"}),
    "on_nonfinite": (ValueError, "on_nonfinite is 'ignore'", {"on_nonfinite": "ignore"}),
    "precision": (ValueError, "precision is '64': expected one of 32-true", {"precision": "64"}),
    "clip_norm": (ValueError, "clip_norm is -1", {"clip_norm": -1.0}),
    "NaN clip_norm": (ValueError, "clip_norm is nan", {"clip_norm": math.nan}),
    "device": (ValueError, "device 'cuda:7' is not there: this machine has cpu", {"device": "cuda:7"}),
    "no device": (ValueError, "device 'tpu9' is not there", {"device": "tpu9"}),
    "strategy": (ValueError, "strategy is 'ddp', but there is one process", {"strategy": "ddp"}),
    "sharded": (ValueError, "FSDP", {"devices": 2, "strategy": "fsdp", "device": "cpu"}),
    "spawned": (
        ValueError,
        "Use 'ddp', or torchrun",
        {"devices": 2, "strategy": "ddp_spawn", "device": "cpu"},
    ),
    "unknown strategy": (ValueError, "quantum", {"devices": 2, "strategy": "quantum", "device": "cpu"}),
    "devices": (ValueError, "devices is 0", {"devices": 0}),
    "optimizer": (TypeError, "optimizer is 'adam'", {"optimizer": "adam"}),
    "Pyro's optimizer": (TypeError, "gave NoneType", {"optimizer": pyro.optim.Adam({"lr": 0.1})}),
    "LBFGS": (TypeError, "LBFGS evaluates each loss several times", {"optimizer": torch.optim.LBFGS}),
    "other parameters": (
        ValueError,
        "holds 1 parameters that are not this VAE's",
        {"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)},
    ),
    "scheduler": (TypeError, "scheduler is 'cosine'", {"scheduler": "cosine"}),
    "scheduler's kind": (TypeError, "scheduler gave int", {"scheduler": lambda o: 3}),
    "another's scheduler": (ValueError, "on another optimizer", {"scheduler": foreign_scheduler}),
    "no scheduler": (ValueError, "schedule_steps=True needs scheduler=", {"schedule_steps": True}),
    "negative rate": (
        ValueError,
        "the scheduler gives the learning rate -0.1 after step 0",
        {"optimizer": sgd(0.1), "scheduler": lambda o: SCHEDULERS.LambdaLR(o, lambda step: -1.0)},
    ),
    "plateau by step": (
        ValueError,
        "ReduceLROnPlateau watches the loss of epochs",
        {"scheduler": SCHEDULERS.ReduceLROnPlateau, "schedule_steps": True},
    ),
    "objective": (TypeError, "expected one of pyrovae.objectives", {"objective": "elbo"}),
    "schedule below zero": (
        ValueError,
        "the schedule of beta gives -0.7 at step 17",
        {"objective": pv.objectives.ELBO(beta=lambda step, epoch: 1.0 - step / 10)},
    ),
    "one callback": (TypeError, r"give a list of them", {"callbacks": NoStep()}),
    "callback": (TypeError, "expected instances of pyrovae.callbacks.Callback", {"callbacks": [print]}),
    "logger": (TypeError, "expected objects with log_metrics", {"loggers": [print]}),
    "validation": (TypeError, "validation data: x is str", {"validation": "rows"}),
    "other validation": (
        ValueError,
        "validation data: x has rows of shape",
        {"validation": torch.zeros(3, 2)},
    ),
    "resume": (ValueError, "resume=True needs checkpoint=", {"resume": True}),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_before_the_first_step(name):
    kind, message, settings = BAD[name]
    vae = composed()
    before = weights(vae)
    settings = {"callbacks": [NoStep()]} | settings
    with pytest.raises(kind, match=message):
        train(vae, **settings)
    assert torch.equal(before, weights(vae))


def test_a_precision_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match=r"this VAE has some of torch.float64"):
        train(composed().double(), binary_rows(N).double(), precision="bf16-mixed")
