"""Pyro's own ways to train: `pyro.infer.SVI`, and its loss inside Lightning's Trainer."""

from __future__ import annotations

import time
from typing import Any

import pyro
import torch
from torch import Tensor

from benchmarks.rivals.epochs import RATE, AbsentError, Epoch, Rival, Rows, batches, finish, quiet, timed
from benchmarks.training_tasks import Task


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
            finish(device)
            self.seconds = -time.perf_counter()

        def on_train_epoch_end(self) -> None:
            finish(device)
            self.seconds += time.perf_counter()

    with quiet():
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
        with quiet():
            trainer.fit(inference, loader)
        return inference.seconds

    return epoch
