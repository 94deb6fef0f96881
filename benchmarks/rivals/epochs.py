"""An epoch of training and its seconds: what every way to train a model is asked for.

A `Rival` prepares a training of a task's model on its rows and gives a function that trains for one epoch and
returns the seconds that this took. All start at the same weights and use Adam at one learning rate, fused where
the rival lets it be, on batches gathered by a shuffled index where the rival has no loader of its own.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.training_tasks import Task

RATE = 1e-3

Rows = tuple[Tensor, ...]
Epoch = Callable[[], float]
Rival = Callable[[Task, Rows, torch.device], Epoch]


class AbsentError(Exception):
    """A rival cannot run here; says why."""


def timed(train: Callable[[], Any], device: torch.device) -> Epoch:
    """An epoch with its seconds, whatever a GPU had to do included."""

    def epoch() -> float:
        finish(device)
        started = time.perf_counter()
        train()
        finish(device)
        return time.perf_counter() - started

    return epoch


def finish(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches(task: Task, rows: Rows, device: torch.device) -> Iterator[Rows]:
    """Shuffled minibatches."""
    for places in torch.randperm(len(rows[0]), device=device).split(task.batch):
        yield tuple(values[places] for values in rows)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices and warnings of a rival's start."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
