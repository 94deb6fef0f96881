"""Ways to train one model: pyrovae's engines and what they are measured against.

Each `Rival` prepares a training of a task's model on its rows and gives a function that trains for one epoch and
returns the seconds that this took. All start at the same weights and use Adam at one learning rate, fused where
the rival lets it be, on batches gathered by a shuffled index where the rival has no loader of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

import numpy as np
import pyro
import torch
from torch import Tensor

import pyrovae as pv
from benchmarks import in_numpyro
from benchmarks.in_pythae import pythae_vae
from benchmarks.training_tasks import HIDDEN, K, Task

RATE = 1e-3

Rows = tuple[Tensor, ...]
Epoch = Callable[[], float]
Rival = Callable[[Task, Rows, torch.device], Epoch]


class AbsentError(Exception):
    """A rival cannot run here; says why."""


def timed(train: Callable[[], Any], device: torch.device) -> Epoch:
    """An epoch with its seconds, whatever a GPU had to do included."""

    def epoch() -> float:
        _finish(device)
        started = time.perf_counter()
        train()
        _finish(device)
        return time.perf_counter() - started

    return epoch


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches(task: Task, rows: Rows, device: torch.device) -> Iterator[Rows]:
    """Shuffled minibatches."""
    for places in torch.randperm(len(rows[0]), device=device).split(task.batch):
        yield tuple(values[places] for values in rows)


# pyrovae


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
                    training.settings = dataclasses.replace(training.settings, epochs=training.epoch + 1)
                    training.run()

                train()
        expected = {"traced": "traced", "compiled": "traced and compiled"}.get(engine, training.engine)
        if training.engine.replace(", in a CUDA graph", "") != expected:
            raise AbsentError(f"the steps run {training.engine}")
        return timed(train, device)

    return prepare


# By hand


def by_hand(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """Plain PyTorch, operation by operation."""
    model = task.hand(rows, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def train() -> float:
        total = torch.zeros((), device=device)
        for batch in batches(task, rows, device):
            optimizer.zero_grad()
            log_likelihood, rate = model(*batch)
            loss = (rate - log_likelihood).mean()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item()

    return timed(train, device)


def by_hand_compiled(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """Plain PyTorch, its loss through `torch.compile`, forward and backward; compiled before it is timed."""
    model = task.hand(rows, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def mean_loss(*batch: Tensor) -> Tensor:
        log_likelihood, rate = model(*batch)
        return (rate - log_likelihood).mean()

    with _quiet():
        loss_of = torch.compile(mean_loss, dynamic=False)
        loss_of(*(values[: task.batch] for values in rows)).backward()

    def train() -> float:
        total = torch.zeros((), device=device)
        for batch in batches(task, rows, device):
            optimizer.zero_grad()
            loss = loss_of(*batch)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item()

    return timed(train, device)


def by_hand_graphed(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """Plain PyTorch with forward and backward pass and Adam in one CUDA graph."""
    if device.type != "cuda":
        raise AbsentError("CUDA graphs need a GPU")
    model = task.hand(rows, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True, capturable=True)
    held = tuple(values[: task.batch].clone() for values in rows)
    total = torch.zeros((), device=device)

    def step() -> None:
        log_likelihood, rate = model(*held)
        loss = (rate - log_likelihood).mean()
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(beside)
    recorded = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)  # so that the graph writes gradients and does not add them up
    with torch.cuda.graph(recorded):
        step()

    def train() -> float:
        total.zero_()
        for places in torch.randperm(len(rows[0]), device=device).split(task.batch):
            for place, values in zip(held, rows, strict=True):
                torch.index_select(values, 0, places, out=place)
            recorded.replay()
        return total.item()

    return timed(train, device)


# Pyro


def svi(*, validation: bool) -> Rival:
    """`pyro.infer.SVI` on the declared programs; Pyro checks arguments and supports unless told not to."""

    def prepare(task: Task, rows: Rows, device: torch.device) -> Epoch:
        vae = task.pair(rows, device)

        def model(*batch: Tensor) -> None:
            pyro.module("model", vae.model)
            vae.model(*batch)

        def guide(*batch: Tensor) -> None:
            pyro.module("guide", vae.guide)
            vae.guide(*batch)

        optimizer = pyro.optim.Adam({"lr": RATE, "fused": True})
        inference = pyro.infer.SVI(model, guide, optimizer, loss=pyro.infer.Trace_ELBO())
        store = pyro.get_param_store()
        with store.scope() as own:
            inference.step(*(values[: task.batch] for values in rows))

        def train() -> float:
            with store.scope(own), pyro.validation_enabled(validation):
                return sum(inference.step(*batch) for batch in batches(task, rows, device))

        return timed(train, device)

    return prepare


def in_lightning(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """Pyro's loss inside Lightning's Trainer, as Pyro's own example has it."""
    if not task.in_lightning:
        raise AbsentError("measured with the first model only")
    try:
        import lightning
    except ImportError as error:
        raise AbsentError("lightning is not installed") from error
    vae = task.pair(rows, device)

    class Inference(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.loss = pyro.infer.Trace_ELBO()(vae.model, vae.guide)
            self.adam = torch.optim.Adam(self.loss.parameters(), lr=RATE, fused=True)
            self.seconds = 0.0

        def training_step(self, batch: Rows, index: int) -> Tensor:
            return self.loss(*batch) / len(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.adam

        def on_train_epoch_start(self) -> None:
            _finish(device)
            self.seconds = -time.perf_counter()

        def on_train_epoch_end(self) -> None:
            _finish(device)
            self.seconds += time.perf_counter()

    with _quiet():
        inference = Inference()
        loader: Any = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*(values.cpu() for values in rows)), task.batch, shuffle=True
        )
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def epoch() -> float:
        assert trainer.fit_loop.max_epochs is not None
        trainer.fit_loop.max_epochs += 1
        with _quiet():
            trainer.fit(inference, loader)
        return inference.seconds

    return epoch


# pythae


def pythae(*, fused: bool) -> Rival:
    """Whole epochs of pythae's trainer, with its data set and loader; its own Adam is not fused.

    What it does between epochs (a copy of the best model, its progress bar) is not counted.
    """

    def prepare(task: Task, rows: Rows, device: torch.device) -> Epoch:
        if not task.in_pythae:
            raise AbsentError("pythae has no such model")
        try:
            from pythae.data.datasets import BaseDataset
            from pythae.trainers import BaseTrainer, BaseTrainerConfig
            from pythae.trainers.training_callbacks import ProgressBarCallback
        except ImportError as error:
            raise AbsentError("pythae is not installed") from error
        network = task.hand(rows, device)
        shape = rows[0].shape[1:]
        model = pythae_vae(network.encoder, network.decoder, shape, K)
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            settings = BaseTrainerConfig(
                output_dir=os.path.join(folder, "out"),
                per_device_train_batch_size=task.batch,
                learning_rate=RATE,
                optimizer_params={"fused": True} if fused else None,
                no_cuda=device.type != "cuda",
            )
            rows_of = BaseDataset(rows[0].cpu(), torch.zeros(len(rows[0])))
            trainer = BaseTrainer(model, train_dataset=rows_of, training_config=settings)
            trainer.prepare_training()
        handler = trainer.callback_handler
        handler.callbacks = [c for c in handler.callbacks if not isinstance(c, ProgressBarCallback)]
        return timed(lambda: trainer.train_step(1), device)

    return prepare


# NumPyro


def numpyro(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """The same perceptrons in NumPyro, an epoch of steps as one call compiled by XLA, in a process of its own.

    PYROVAE_NUMPYRO names a Python that has NumPyro; weights and draws are its own.
    """
    python = os.environ.get("PYROVAE_NUMPYRO")
    if not task.in_pythae or rows[0].dim() != 2:
        raise AbsentError("measured with perceptrons only")
    if not python:
        raise AbsentError("PYROVAE_NUMPYRO names no Python that has NumPyro")
    if device.type != "cpu":
        raise AbsentError("measured on the CPU only")
    threads = torch.get_num_threads()
    flags = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}"
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.npy")
        np.save(path, rows[0].numpy())
        served = subprocess.Popen(
            [python, in_numpyro.__file__, path, str(task.batch), str(HIDDEN), str(K), str(RATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            preexec_fn=None if threads > 1 else _on_one_core,
        )
        assert served.stdin is not None
        assert served.stdout is not None
        asked, answers = served.stdin, served.stdout
        if answers.readline().strip() != "ready":
            raise AbsentError("NumPyro did not start; its messages are above")

    def epoch() -> float:
        print(file=asked, flush=True)
        return float(answers.readline().split()[0])

    return epoch


def _on_one_core() -> None:
    """XLA takes as many threads as there are cores, whatever it is told."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices and warnings of a rival's start."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


RIVALS: Mapping[str, Rival] = {
    "compiled": ours("compiled"),
    "traced": ours("traced"),
    "plain": ours("plain"),
    "by hand": by_hand,
    "by hand, torch.compile": by_hand_compiled,
    "by hand, CUDA graph": by_hand_graphed,
    "pyro.infer.SVI": svi(validation=True),
    "SVI without validation": svi(validation=False),
    "Pyro in Lightning": in_lightning,
    "pythae": pythae(fused=False),
    "pythae, fused Adam": pythae(fused=True),
    "NumPyro": numpyro,
}
