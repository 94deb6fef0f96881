"""The training loop: epochs of batches, each a step of the optimizer, and the state that a checkpoint keeps."""

from __future__ import annotations

import math
import time
import warnings
from contextlib import nullcontext

import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import level_of_caller
from pyrovae.progress import Bar
from pyrovae.random_state import noise_state, set_noise_state
from pyrovae.training.batch_loss import BatchLoss
from pyrovae.training.batches import Batches, GatheredBatches, Minibatch
from pyrovae.training.checkpoints import Keeper
from pyrovae.training.course import Course
from pyrovae.training.gradient_norms import why_stalled
from pyrovae.training.interruption import Interruption, in_words
from pyrovae.training.log import Log
from pyrovae.training.modes import evaluating, frozen, take_modes
from pyrovae.training.nonfinite import FAILURES, LOOK_EVERY, Watch
from pyrovae.training.optimization import Optimization
from pyrovae.training.processes import Processes
from pyrovae.training.resumption import check_resumable, give_back
from pyrovae.training.saved_training import SavedTraining, columns_of, parameter_names, rows_of
from pyrovae.training.seeds import Seeds
from pyrovae.training.settings import Record
from pyrovae.training.steps import Gradients, Steps
from pyrovae.training.totals import COLUMNS, STATISTICS, Totals
from pyrovae.training.training import Training
from pyrovae.training.validation import Validation
from pyrovae.vae import VAE


class Loop(Training):
    """A training and its parts.

    Args:
        vae: the pair.
        batches: its data.
        loss: what its objective gives.
        steps: computes gradients.
        optimization: takes them.
        validation: held-out rows, or None.
        course: how it proceeds.
        seeds: what its seed decides.
        processes: that train together.
        record: what is kept, called and shown.
        keeper: of its checkpoint, or None.

    """

    def __init__(
        self,
        vae: VAE,
        batches: Batches,
        loss: BatchLoss,
        steps: Steps,
        optimization: Optimization,
        validation: Validation | None,
        *,
        course: Course,
        seeds: Seeds,
        processes: Processes,
        record: Record,
        keeper: Keeper | None,
    ) -> None:
        self.vae, self.optimizer, self.scheduler = vae, optimization.optimizer, optimization.scheduler
        self._device = vae.device  # finding it walks the modules
        self.settings, self.processes = course, processes
        self.epoch = self.step = 0
        self.history = []
        self._batches, self._loss, self._steps, self._optimization = batches, loss, steps, optimization
        self._validation, self._seeds, self._record, self._keeper = validation, seeds, record, keeper
        self._batch_number = 0
        self._totals = Totals(self._device)
        self._log = Log(record, self._device, is_first=processes.is_first)
        self._seconds = 0.0
        self._confirmed: int | None = None  # the step after which a loss was found to be finite
        self._stopped, self._interruption = False, Interruption()
        self._watch = Watch(
            vae,
            1 if self._device.type == "cpu" else LOOK_EVERY,
            skips=course.on_nonfinite == "skip",
            save_to=keeper.last_good if keeper is not None and processes.is_first else None,
        )

    # What callbacks may ask

    @property
    def has_validation(self) -> bool:
        """Whether each epoch ends with a validation ELBO."""
        return self._validation is not None

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
        if found is not None:
            self._optimization.extra_step(found[1], only)

    # The loop

    def run(self) -> None:
        """Train to the last epoch; Ctrl-C ends it after the step under way."""
        for callback in self._record.callbacks:
            callback.on_start(self)
        self._agree_to_stop()
        # Several processes would stop at different steps.
        heard = self._interruption.heard() if self.processes.share.of == 1 else nullcontext()
        with heard, self._bar() as bar:
            while not self.is_over and not self._interruption.asked:
                self._run_epoch(bar)
            if self._interruption.asked:
                self._save()
        for callback in self._record.callbacks:
            callback.on_end(self)
        self._optimization.forget_gradients()
        if self.processes.is_first and (stalled := why_stalled(self.history)):
            warnings.warn(stalled, stacklevel=level_of_caller())
        if self._interruption.asked and not self.is_over:
            warnings.warn(in_words(self, resumable=self._keeper is not None), stacklevel=level_of_caller())
        self.processes.wait()  # so that all find the last checkpoint

    def _agree_to_stop(self) -> None:
        self._stopped = self.processes.any(self._stopped)

    def _bar(self) -> Bar:
        steps = self._batches.steps
        return Bar(
            "fit",
            "step",
            shown=self._record.progress and self.processes.is_first,
            total=None if steps is None else steps * self.settings.epochs,
            initial=0 if steps is None else steps * self.epoch + self._batch_number,
        )

    def _run_epoch(self, bar: Bar) -> None:
        started = time.perf_counter()
        batches = self._batches.epoch(self._seeds.order(self.epoch), self._batch_number)
        for minibatch in batches if self.can_draw else self.processes.in_step(batches):
            self._advance_objective()
            for callback in self._record.callbacks:
                callback.on_batch(self)
            self._take(minibatch)
            self._batch_number += 1
            bar.update()
            if (
                self._keeper is not None
                and not self._optimization.waiting
                and self._keeper.is_due(self, epoch_ended=False)
            ):
                self._save()
            if self._interruption.asked and not self._optimization.waiting:
                self._seconds += time.perf_counter() - started
                return
        if self._batch_number == 0:
            raise ValueError(
                f"the data gave no batches in epoch {self.epoch + 1}: they can be read once only. Give a Dataset that "
                "starts anew with each __iter__."
            )
        if self._optimization.waiting:
            self._optimize()
        self._watch.look(self.step, self.epoch)
        self._seconds += time.perf_counter() - started
        self._end_epoch(bar)

    def _end_epoch(self, bar: Bar) -> None:
        sums, count = self._totals.read()
        if not count:
            raise self._watch.failure(
                f"epoch {self.epoch + 1}: ", None, "every batch was skipped, for its loss was not finite"
            )
        row: dict[str, float] = {"epoch": self.epoch + 1}
        row |= {name: value / count for name, value in zip(STATISTICS, sums, strict=True)}
        self.processes.alike_buffers(self.vae)
        if self.has_validation or self.epoch + 1 == self.settings.epochs:
            self._confirm()
        if (elbo_valid := self._validate()) is None:
            return  # Ctrl-C: the epoch ends when the training goes on
        row["elbo_valid"] = elbo_valid
        row |= self._optimization.norms.read()
        self._optimization.norms.forget()
        row["seconds"] = self._seconds
        self.epoch += 1
        self.history.append(row)
        self._batch_number, self._seconds = 0, 0.0
        self._totals = Totals(self._device)
        self._optimization.step_scheduler(self.step, row)
        for callback in self._record.callbacks:
            callback.on_epoch(self, row)
        self._agree_to_stop()
        self._log.after_epoch(self, row)
        shown = f"ELBO {row['elbo']:.2f}"
        shown += f", valid {row['elbo_valid']:.2f}" if self.has_validation else ""
        bar.say(f"epoch {self.epoch}/{self.settings.epochs}, {shown}", refresh=self.is_over)
        if self._keeper is not None and self._keeper.is_due(self, epoch_ended=True):
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, only of weights at which a loss is finite."""
        self._watch.look(self.step, self.epoch)
        if self._keeper is not None:
            self._confirm()
            self._keeper.write(self)

    def _confirm(self) -> None:
        """Raise NonFiniteLossError, in all processes, unless a loss is finite after the last step."""
        if self._confirmed == self.step:
            return
        found = torch.tensor([self._watch.has_finite_loss()])
        if not all(bool(own) for own in self.processes.gather(found)):
            raise self._watch.failure(f"after step {self.step} (epoch {self.epoch + 1}), ", None)
        self._confirmed = self.step

    # One step

    def _advance_objective(self) -> None:
        steps = self._batches.steps
        within = 0.0 if steps is None else self._batch_number / steps
        self._loss.advance(self.step, self.epoch + within)

    def _take(self, minibatch: Minibatch) -> None:
        found = self._losses(minibatch)
        if found is None:
            return
        statistics, gradients = found
        self._totals.add(statistics, minibatch.num_rows)
        self._log.add(statistics, minibatch.num_rows)
        self._optimization.gather(gradients)
        if self._optimization.is_due:
            self._optimize()

    def _losses(self, minibatch: Minibatch) -> tuple[Tensor, Gradients] | None:
        """All processes' statistics and gradients; None where the batch is left out."""
        self._watch.begin()
        none: Gradients = [None] * len(self._steps.parameters)
        if minibatch.batch is None:
            own = torch.zeros(len(STATISTICS), device=self._device), none
        else:
            try:
                own = self._steps(minibatch.batch)
            except FAILURES:
                if not self._watch.blames_nan(minibatch.batch):
                    raise
                own = torch.full((len(STATISTICS),), math.nan, device=self._device), none  # which all see
        statistics, gradients = self.processes.add_up(*own, self._steps.parameters)
        watched = [] if self._optimization.is_scaled else gradients
        good = self._watch.see(self.step, self.epoch, minibatch, statistics[0], watched)
        return (statistics, gradients) if good else None

    def _optimize(self) -> None:
        self._optimization.step()
        self.step += 1
        self._optimization.step_scheduler(self.step)
        self._log.after_step(self)
        for callback in self._record.callbacks:
            callback.on_step(self)

    def _validate(self) -> float | None:
        """The held-out rows' ELBO; None if Ctrl-C was pressed meanwhile."""
        if self._validation is None:
            return math.nan
        found = self._validation.mean_elbo(self._seeds.validation, stop=lambda: self._interruption.asked)
        return None if found is None else self.processes.same(found)

    # Around the loop

    def noise_state(self) -> Tensor:
        """The random state that draws latents."""
        return noise_state(self._device)

    def to_frame(self) -> pd.DataFrame:
        """The history, one row an epoch; what callbacks added to its rows comes last."""
        columns = dict.fromkeys((*COLUMNS, *(name for row in self.history for name in row)))
        kinds = {name: int if name == "epoch" else float for name in columns}
        history = pd.DataFrame(self.history, columns=list(columns)).astype(kinds)
        history.attrs |= {
            "engine": self.engine,
            "skipped": self._watch.skipped,
            "interrupted": self._interruption.asked,
        }
        return history

    def state_dict(self) -> dict[str, object]:
        """All that a resumed training needs."""
        return {
            "weights": self.vae.tensors(),
            "parameters": parameter_names(self.vae, self.optimizer),
            "frozen": frozen(self.vae),
            "evaluating": evaluating(self.vae),
            **self._optimization.state_dict(),
            "callbacks": [callback.state_dict() for callback in self._record.callbacks],
            "epoch": self.epoch,
            "step": self.step,
            "batch_number": self._batch_number,
            "totals": self._totals.read(),
            "skipped": self._watch.skipped,
            "stopped": self._stopped,
            "seconds": self._seconds,
            "engine": self._steps.state_dict(),
            "history": columns_of(self.history),
            "seed": self._seeds.seed,
        }

    def load_state_dict(self, state: SavedTraining) -> None:
        """Go on from what `state_dict` gave: all of it, or nothing of the VAE and the optimizer changes.

        Raises:
            MalformedError: another model, or states of other shapes or kinds than those here.

        """
        check_resumable(state, self.vae, self._optimization, self._record.callbacks)
        give_back(state, self._record.callbacks)
        self._optimization.load_state_dict(state)
        self.vae.take_values(state["weights"])
        take_modes(self.vae, state["frozen"], state["evaluating"])
        self.epoch, self.step, self._batch_number = state["epoch"], state["step"], state["batch_number"]
        self._totals = Totals(self._device, *state["totals"])
        self._stopped, self._seconds = state["stopped"], state["seconds"]
        self._watch.skipped = state["skipped"]
        self._steps.load_state_dict(state["engine"])
        self.history = rows_of(state["history"])
        self._watch.look(self.step, self.epoch)
        noises = state["noises"]
        if len(noises) == self.processes.share.of:
            set_noise_state(noises[self.processes.share.rank], self._device)
