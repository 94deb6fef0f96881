"""What loggers are told of a training: each epoch's row of the history, and between epochs the steps' means."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyrovae.training.settings import Record
from pyrovae.training.totals import STATISTICS, Totals
from pyrovae.training.training import Training


class Log:
    """Tells loggers of steps and epochs.

    Args:
        record: has the loggers, and whether and how often they are told of steps.
        is_first: whether this process tells; all others keep silent.
        device: of the statistics.

    """

    def __init__(self, record: Record, device: torch.device, *, is_first: bool) -> None:
        self._loggers = record.loggers if is_first else ()
        self._every, self._device = record.log_every, device
        self._since = Totals(device)

    def add(self, statistics: Tensor, num_rows: int) -> None:
        """Count one batch."""
        if self._every is not None:
            self._since.add(statistics, num_rows)

    def after_step(self, training: Training) -> None:
        """The means per row since this was told last, if now is the time; a GPU is waited for then."""
        if self._every is None or training.step % self._every:
            return
        sums, count = self._since.read()
        self._since = Totals(self._device)
        if count:
            means = {f"{name}_step": total / count for name, total in zip(STATISTICS, sums, strict=True)}
            self._tell(training, means, training.step)

    def after_epoch(self, training: Training, row: Mapping[str, float]) -> None:
        """An epoch's row; by the number of the step where steps are told of too, so that both have one axis."""
        known = {name: value for name, value in row.items() if not math.isnan(value)}
        self._tell(training, known, training.epoch if self._every is None else training.step)
        for logger in self._loggers:
            if hasattr(logger, "save"):
                logger.save()

    def _tell(self, training: Training, figures: Mapping[str, float], step: int) -> None:
        metrics = {**figures, "learning_rate": float(training.optimizer.param_groups[0]["lr"])}
        for logger in self._loggers:
            logger.log_metrics(dict(metrics), step=step)
