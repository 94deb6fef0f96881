"""The training loop: epochs of batches, each a step of the optimizer, and the state that a checkpoint keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.objectives.base import RowObjective
from pyrovae.random_state import noise_state, seed_of, set_noise_state
from pyrovae.training.batch_loss import STATISTICS
from pyrovae.training.batches import Batches, GatheredBatches, Minibatch
from pyrovae.training.callbacks import Callback
from pyrovae.training.checkpoints import Keeper
from pyrovae.training.interruption import Interruption
from pyrovae.training.nonfinite import FAILURES, LOOK_EVERY, NonFiniteLossError, Watch
from pyrovae.training.processes import Processes
from pyrovae.training.steps import Gradients, Steps
from pyrovae.vae import VAE

Scheduler: TypeAlias = torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau
OnNonFinite: TypeAlias = Literal["stop", "skip"]

COLUMNS = ("epoch", *STATISTICS, "elbo_valid", "seconds")


@dataclass(frozen=True)
class Settings:
    """What of `fit`'s arguments the loop itself reads."""

    epochs: int
    seed: int
    accumulate: int = 1
    clip_norm: float | None = None
    schedule_steps: bool = False
    on_nonfinite: OnNonFinite = "stop"
    progress: bool = True


def check_rates(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Raise where a scheduler has made a learning rate that climbs the loss, or NaN."""
    for group in optimizer.param_groups:
        if not group["lr"] >= 0:
            raise ValueError(
                f"the scheduler gives the learning rate {float(group['lr']):g} after step {step}: expected a number of "
                "at least 0."
            )


class Totals:
    """Sums of statistics over rows, and the number of rows; on a GPU they stay there until they are read."""

    def __init__(self, device: torch.device, sums: Sequence[float] = (0.0,) * len(STATISTICS), rows: int = 0):
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which has none of the latter
        self._sums, self._rows = torch.tensor(sums, dtype=dtype, device=device), rows

    def add(self, statistics: Tensor, num_rows: int) -> None:
        """Count one batch."""
        self._sums += statistics
        self._rows += num_rows

    def read(self) -> tuple[list[float], int]:
        """The sums and the number of rows."""
        return self._sums.tolist(), self._rows


class Training:
    """One training under way: what callbacks see and checkpoints keep.

    `epoch` counts finished epochs, `step` optimizer steps, `history` has a dict of each finished epoch.
    """

    def __init__(
        self,
        vae: VAE,
        batches: Batches,
        steps: Steps,
        objective: Any,
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler | None,
        validate: Callable[[], float] | None,
        settings: Settings,
        *,
        processes: Processes,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Any] = (),
        keeper: Keeper | None = None,
    ) -> None:
        self.vae, self.optimizer, self.scheduler = vae, optimizer, scheduler
        self._device = vae.device  # finding it walks the modules
        self.settings, self.processes = settings, processes
        self.epoch = self.step = 0
        self.history: list[dict[str, float]] = []
        self._batches, self._steps, self._objective = batches, steps, objective
        self._validate, self._callbacks, self._loggers, self._keeper = validate, callbacks, loggers, keeper
        self._parameters = steps.parameters
        self._batch_number = 0
        self._totals = Totals(self._device)
        self._waiting = 0  # batches whose gradients wait for the optimizer
        self._seconds = 0.0
        self._stopped, self._interruption = False, Interruption()
        self._scaler: torch.amp.GradScaler | None = None
        self._watch = Watch(
            vae,
            1 if self._device.type == "cpu" else LOOK_EVERY,
            skips=settings.on_nonfinite == "skip",
            save_to=keeper.last_good if keeper is not None and processes.is_first else None,
        )

    # What callbacks may ask

    @property
    def has_validation(self) -> bool:
        """Whether each epoch ends with a validation ELBO."""
        return self._validate is not None

    @property
    def can_draw(self) -> bool:
        """Whether batches can be drawn at random beside those of the epoch."""
        return isinstance(self._batches, GatheredBatches)

    @property
    def is_over(self) -> bool:
        """Whether the last epoch is done."""
        return self._stopped or self.epoch >= self.settings.epochs

    @property
    def engine(self) -> str:
        """How steps are computed."""
        return self._steps.engine

    def stop(self) -> None:
        """End the training after this epoch."""
        self._stopped = True

    def extra_step(self, only: set[int]) -> None:
        """A step on a batch drawn at random, of the parameters with these ids alone."""
        assert isinstance(self._batches, GatheredBatches)
        found = self._losses(self._batches.draw())
        if found is None:
            return
        kept = [p.grad for p in self._parameters]
        for p, gradient in zip(self._parameters, found[1], strict=True):
            used = gradient is not None and id(p) in only
            # One batch makes this step, whatever makes the others.
            p.grad = gradient * self.settings.accumulate if gradient is not None and used else None
        self._optimize()
        for p, old in zip(self._parameters, kept, strict=True):
            p.grad = old

    # The loop

    def run(self) -> None:
        """Train to the last epoch; Ctrl-C ends it after the step under way."""
        for callback in self._callbacks:
            callback.on_start(self)
        steps = self._batches.steps
        total = None if steps is None else steps * self.settings.epochs
        with (
            # Several processes would stop at different steps.
            self._interruption.heard() if self.processes.share.of == 1 else nullcontext(),
            tqdm(
                total=total,
                initial=0 if steps is None else steps * self.epoch + self._batch_number,
                desc="fit",
                unit="step",
                disable=not self.settings.progress or not self.processes.is_first,
                mininterval=0.5,
            ) as bar,
        ):
            while not self.is_over and not self._interruption.asked:
                self._run_epoch(bar)
            if self._interruption.asked:
                self._save()
        for callback in self._callbacks:
            callback.on_end(self)
        for p in self._parameters:
            p.grad = None
        self.processes.wait()  # so that all find the last checkpoint

    def _run_epoch(self, bar: tqdm[Any]) -> None:
        started = time.perf_counter()
        # One order for all processes, whatever noise each has drawn.
        order = seed_of(seed_of(self.settings.seed, 0), self.epoch)
        for minibatch in self._batches.epoch(order, self._batch_number):
            self._advance_objective()
            for callback in self._callbacks:
                callback.on_batch(self)
            self._take(minibatch)
            self._batch_number += 1
            bar.update()
            if (
                self._keeper is not None
                and not self._waiting
                and self._keeper.is_due(self, epoch_ended=False)
            ):
                self._save()
            if self._interruption.asked and not self._waiting:
                self._seconds += time.perf_counter() - started
                return
        if self._batch_number == 0:
            raise ValueError(
                f"the data gave no batches in epoch {self.epoch + 1}: they can be read once only. Give a Dataset that "
                "starts anew with each __iter__."
            )
        if self._waiting:
            self._optimize_and_count()
        self._watch.look(self.step, self.epoch)
        self._seconds += time.perf_counter() - started
        self._end_epoch(bar)

    def _end_epoch(self, bar: tqdm[Any]) -> None:
        sums, count = self._totals.read()
        if not count:
            raise NonFiniteLossError(
                f"epoch {self.epoch + 1}: every batch was skipped, for its loss was not finite."
            )
        row: dict[str, float] = {"epoch": self.epoch + 1}
        row |= {name: value / count for name, value in zip(STATISTICS, sums, strict=True)}
        self.processes.alike_buffers(self.vae)
        row["elbo_valid"] = math.nan if self._validate is None else self.processes.same(self._validate())
        row["seconds"] = self._seconds
        self.epoch += 1
        self.history.append(row)
        self._batch_number, self._seconds = 0, 0.0
        self._totals = Totals(self._device)
        self._step_scheduler(row)
        for callback in self._callbacks:
            callback.on_epoch(self, row)
        self._log(row)
        shown = f"ELBO {row['elbo']:.2f}" + (
            "" if self._validate is None else f", valid {row['elbo_valid']:.2f}"
        )
        bar.set_postfix_str(f"epoch {self.epoch}/{self.settings.epochs}, {shown}", refresh=self.is_over)
        if self._keeper is not None and self._keeper.is_due(self, epoch_ended=True):
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, never of weights that are not finite."""
        self._watch.look(self.step, self.epoch)
        if self._keeper is not None:
            self._keeper.write(self)

    # One step

    def _advance_objective(self) -> None:
        if isinstance(self._objective, RowObjective):
            steps = self._batches.steps
            within = 0.0 if steps is None else self._batch_number / steps
            self._objective.advance(self.step, self.epoch + within)

    def _take(self, minibatch: Minibatch) -> None:
        found = self._losses(minibatch)
        if found is None:
            return
        statistics, gradients = found
        self._totals.add(statistics, minibatch.num_rows)
        self._gather(gradients)
        if self._waiting == self.settings.accumulate:
            self._optimize_and_count()

    def _losses(self, minibatch: Minibatch) -> tuple[Tensor, Gradients] | None:
        """All processes' statistics and gradients; None where the batch is left out."""
        self._watch.begin()
        none: Gradients = [None] * len(self._parameters)
        if minibatch.batch is None:
            own = torch.zeros(len(STATISTICS), device=self._device), none
        else:
            try:
                own = self._steps(minibatch.batch)
            except FAILURES:
                if not self._watch.blames_nan(minibatch.batch):
                    raise
                own = torch.full((len(STATISTICS),), math.nan, device=self._device), none  # which all see
        statistics, gradients = self.processes.add_up(*own, self._parameters)
        # Scaled 16-bit gradients overflow as a matter of course: the scaler sees to them.
        watched = gradients if self._scaler is None else []
        good = self._watch.see(self.step, self.epoch, minibatch, statistics[0], watched)
        return (statistics, gradients) if good else None

    def _gather(self, gradients: Gradients) -> None:
        for p, gradient in zip(self._parameters, gradients, strict=True):
            if self._waiting == 0:
                # A CUDA graph writes its next gradients where it wrote these.
                p.grad = (
                    gradient.clone() if gradient is not None and self.settings.accumulate > 1 else gradient
                )
            elif gradient is not None:
                p.grad = gradient.clone() if p.grad is None else p.grad.add_(gradient)
        self._waiting += 1

    def _optimize_and_count(self) -> None:
        self._optimize()
        self._waiting = 0
        self.step += 1
        if self.settings.schedule_steps:
            self._step_scheduler({})
        for callback in self._callbacks:
            callback.on_step(self)

    def _optimize(self) -> None:
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        if self.settings.clip_norm is not None:
            stepped = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(stepped, self.settings.clip_norm)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self._scale_losses(self._scaler)

    def use_scaler(self) -> None:
        """Scale losses so that 16-bit gradients do not vanish."""
        self._scaler = torch.amp.GradScaler(self._device.type)
        self._scale_losses(self._scaler)

    def _scale_losses(self, scaler: torch.amp.GradScaler) -> None:
        # To ask for the scale would wait for the GPU.
        self._steps.loss_scale.copy_(scaler.scale(torch.ones_like(self._steps.loss_scale)))

    def _step_scheduler(self, row: Mapping[str, float]) -> None:
        if self.scheduler is None or (bool(row) == self.settings.schedule_steps):
            return
        # A resumed training, or one whose scaler left the first steps out, has not stepped: no reason to warn.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            loss = row["loss"] if math.isnan(row["elbo_valid"]) else -row["elbo_valid"]
            self.scheduler.step(loss if self.scheduler.mode == "min" else -loss)
        else:
            self.scheduler.step()
        check_rates(self.optimizer, self.step)

    # Around the loop

    def _log(self, row: Mapping[str, float]) -> None:
        metrics = {name: value for name, value in row.items() if not math.isnan(value)}
        metrics["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        if self.processes.is_first:
            for logger in self._loggers:
                logger.log_metrics(metrics, step=self.epoch)
                if hasattr(logger, "save"):
                    logger.save()

    @property
    def skipped(self) -> int:
        """Batches left out because their loss was not finite."""
        return self._watch.skipped

    def noise_state(self) -> Tensor:
        """The random state that draws latents."""
        return noise_state(self._device)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {
            "weights": self.vae.tensors(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "callbacks": [callback.state_dict() for callback in self._callbacks],
            "epoch": self.epoch,
            "step": self.step,
            "batch_number": self._batch_number,
            "totals": self._totals.read(),
            "skipped": self._watch.skipped,
            "stopped": self._stopped,
            "seconds": self._seconds,
            "engine": self._steps.state_dict(),
            "history": self.history,
            "seed": self.settings.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        differences = self.vae.take_values(state["weights"])
        if differences:
            raise ValueError(f"the checkpoint belongs to another model: {differences}.")
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
            self._scale_losses(self._scaler)
        for callback, saved in zip(self._callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(saved)
        self.epoch, self.step, self._batch_number = state["epoch"], state["step"], state["batch_number"]
        self._totals = Totals(self._device, *state["totals"])
        self._stopped, self._seconds = state["stopped"], state["seconds"]
        self._watch.skipped = state["skipped"]
        self._steps.load_state_dict(state["engine"])
        self.history = state["history"]
        self._watch.look(self.step, self.epoch)
        noises = state["noises"]
        if len(noises) == self.processes.share.of:
            set_noise_state(noises[self.processes.share.rank], self._device)
