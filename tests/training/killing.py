"""Trainings that are killed: a script that imports once, forks them, kills them at random moments and resumes.

Run as `python -m tests.training.killing FOLDER KILLS COMPILE`; prints how many kills there were and how many of
them hit a write.
"""

import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pyrovae as pv
from pyrovae.callbacks import Callback, EarlyStopping
from pyrovae.traced import traced
from pyrovae.training import steps
from tests.pairs import binary_rows

EPOCHS, ROWS = 10, 45


class Telling(Callback):
    """Says when the first step of a process is done."""

    def __init__(self, pipe=None):
        self._pipe = pipe

    def on_step(self, training):
        if self._pipe is not None:
            os.write(self._pipe, b"x")
            self._pipe = None


def build():
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 6))
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), pv.nn.MLP(8, (2, 2)))
    decoder.register_buffer("ballast", torch.rand(500_000))  # so that writing takes its time
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(decoder))
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(encoder)))


def train(checkpoint, compile, pipe=None):
    """Everything that a resumed training could forget: dropout, transforms, moments, schedules, ragged batches."""
    vae = build()
    history = pv.fit(
        vae,
        binary_rows(ROWS) * 0.8 + 0.1,
        transform=torch.bernoulli,
        validation=binary_rows(20) * 0.8 + 0.1,
        epochs=EPOCHS,
        batch_size=8,  # 5 batches of 8 and one of 5
        accumulate=4,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02, amsgrad=True),
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=2 * EPOCHS),
        schedule_steps=True,
        clip_norm=0.5,
        objective=pv.objectives.ELBO(beta=pv.objectives.LinearWarmUp(steps=15)),
        callbacks=[EarlyStopping(patience=EPOCHS - 3), Telling(pipe)],
        compile=compile,
        checkpoint=None if checkpoint is None else pv.Checkpoint(checkpoint, every_steps=1),
        resume=checkpoint is not None,
        seed=3,
        progress=False,
    )
    weights = torch.cat([t.detach().double().flatten() for t in vae.tensors().values()])
    return np.concatenate([history.drop(columns="seconds").to_numpy().flatten(), weights.numpy()])


def forked(work):
    """A child process that does some work and ends."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def run_until_killed(folder, compile, rng):
    """Start or resume one training and kill it; whether it was quicker than that."""
    reading, writing = os.pipe()
    result = folder / "result.npy"
    pid = forked(lambda: np.save(result, train(folder / "training.ckpt", compile, writing)))
    os.close(writing)
    select.select([reading], [], [])
    time.sleep(rng.uniform(0.0, 0.04))
    finished, status = os.waitpid(pid, os.WNOHANG)
    if not finished:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    os.close(reading)
    if not os.WIFSIGNALED(status):
        assert os.waitstatus_to_exitcode(status) == 0, "the training failed"
    return not os.WIFSIGNALED(status)


def main(folder, kills, compile):
    folder, compile = Path(folder), {"auto": "auto", "False": False}[compile]
    checkpoint, result = folder / "training.ckpt", folder / "result.npy"
    train(None, compile)  # what is imported late is here for all children
    pid = forked(lambda: np.save(folder / "expected.npy", train(None, compile)))
    assert os.waitpid(pid, 0)[1] == 0, "the training failed"
    rng, killed, in_writes, compared = random.Random(0), 0, 0, 0
    while killed < int(kills) or not compared:
        if killed < int(kills):
            finished = run_until_killed(folder, compile, rng)
            killed += not finished
            in_writes += not finished and any(folder.glob(".training.ckpt.*"))
        else:
            pid = forked(lambda: np.save(result, train(checkpoint, compile)))
            assert os.waitpid(pid, 0)[1] == 0, "the training failed"
            finished = True
        if finished:
            expected, found = np.load(folder / "expected.npy"), np.load(result)
            assert np.array_equal(expected, found, equal_nan=True), "the resumed training ended elsewhere"
            left = {path.name for path in folder.iterdir()}
            assert left == {"expected.npy", "result.npy", "training.ckpt"}, left
            checkpoint.unlink()
            compared += 1
    print(killed, in_writes, compared)


if __name__ == "__main__":
    steps.MIN_STEPS = 0  # trace, few as the steps are
    traced.tracing_pays_off = lambda work, calls, **_: True
    torch.set_num_threads(1)
    main(*sys.argv[1:])
