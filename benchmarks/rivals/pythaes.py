"""pythae's trainer."""

from __future__ import annotations

import os
import tempfile

import torch

from benchmarks.in_pythae import pythae_vae
from benchmarks.rivals.epochs import RATE, AbsentError, Epoch, Rival, Rows, quiet, timed
from benchmarks.training_tasks import K, Task


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
        with quiet(), tempfile.TemporaryDirectory() as folder:
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
