"""`pyrovae.fit`, by each of its engines."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal
from unittest import mock

import torch

import pyrovae as pv
from benchmarks.rivals.epochs import AbsentError, Epoch, Rival, Rows, timed
from benchmarks.training_tasks import Task


class _Ready(Exception):  # noqa: N818
    pass


class _Catch(pv.callbacks.Callback):
    """Takes the training that `fit` has prepared, to run it epoch by epoch."""

    def __init__(self) -> None:
        self.training: Any = None

    def on_start(self, training: Any) -> None:
        """The first time ends `fit`."""
        if self.training is None:
            self.training = training
            raise _Ready

    def on_epoch(self, training: Any, row: Mapping[str, float]) -> None:
        """Ends a run after each epoch, as if more were to come: what a training does once at its end is no step."""
        raise _Ready


def ours(engine: Literal["plain", "traced", "compiled"]) -> Rival:
    """`pyrovae.fit` by one of its engines."""

    def prepare(task: Task, rows: Rows, device: torch.device) -> Epoch:
        vae, catch = task.pair(rows, device), _Catch()
        compile: Any = {"plain": False, "traced": "auto", "compiled": True}[engine]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the engine is looked at below
            # "auto" compiles nothing for one short epoch, and is made to trace for it, in its first steps.
            with (
                mock.patch("pyrovae.training.steps.MIN_STEPS", 0),
                mock.patch("pyrovae.traced.traced.tracing_pays_off", return_value=True),
            ):
                with contextlib.suppress(_Ready):
                    pv.fit(
                        vae,
                        rows,
                        epochs=1,
                        batch_size=task.batch,
                        compile=compile,
                        callbacks=[catch],
                        progress=False,
                    )
                training = catch.training

                def train() -> None:
                    training.settings = dataclasses.replace(training.settings, epochs=training.epoch + 2)
                    with contextlib.suppress(_Ready):
                        training.run()

                train()
        expected = {"traced": "traced", "compiled": "traced and compiled"}.get(engine, training.engine)
        if training.engine.replace(", in a CUDA graph", "") != expected:
            raise AbsentError(f"the steps run {training.engine}")
        return timed(train, device)

    return prepare
