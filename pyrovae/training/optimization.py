"""From gradients to steps: gathered over batches, scaled back, clipped, stepped, and the learning rate after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from pyrovae.schema import MalformedError, described
from pyrovae.training.course import Course
from pyrovae.training.gradient_norms import LOOK_EVERY, GradientNorms, norm_of
from pyrovae.training.optimizers import Scheduler, check_learning_rates
from pyrovae.training.saved_training import HOW, SavedTraining, check_part


class Optimization:
    """An optimizer and its scheduler over the parameters of a training.

    Args:
        parameters: that steps give gradients of.
        optimizer: over them.
        scheduler: on it.
        course: `accumulate`, `clip_norm` and `schedule_steps` are read.
        loss_scale: what losses are multiplied by, changed in place; None where gradients are not scaled.

    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler | None,
        course: Course,
        loss_scale: Tensor | None,
    ) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        self.waiting = 0  # batches whose gradients wait for the optimizer
        self.norms = GradientNorms(LOOK_EVERY if course.clip_norm is None else 1)
        self._parameters, self._course = parameters, course
        self._loss_scale = loss_scale
        self._scaler: torch.amp.GradScaler | None = None
        if loss_scale is not None:
            self._scaler = torch.amp.GradScaler(loss_scale.device.type)
            self._scale_losses()

    @property
    def is_scaled(self) -> bool:
        """Whether gradients are scaled: then they overflow as a matter of course, and the scaler sees to it."""
        return self._scaler is not None

    @property
    def is_due(self) -> bool:
        """Whether as many batches wait as make a step."""
        return self.waiting == self._course.accumulate

    def gather(self, gradients: Sequence[Tensor | None]) -> None:
        """Add a batch's gradients to those that wait."""
        for p, gradient in zip(self._parameters, gradients, strict=True):
            if self.waiting == 0:
                # A CUDA graph writes its next gradients where it wrote these.
                several = self._course.accumulate > 1
                p.grad = gradient.clone() if gradient is not None and several else gradient
            elif gradient is not None:
                p.grad = gradient.clone() if p.grad is None else p.grad.add_(gradient)
        self.waiting += 1

    def step(self) -> None:
        """Step by the gradients that wait."""
        self.norms.add(self._step(measured=self.norms.is_due))
        self.waiting = 0

    def extra_step(self, gradients: Sequence[Tensor | None], only: set[int]) -> None:
        """Step by one batch's gradients of the parameters with these ids; those that wait go on waiting."""
        kept = [p.grad for p in self._parameters]
        for p, gradient in zip(self._parameters, gradients, strict=True):
            used = gradient is not None and id(p) in only
            # One batch makes this step, whatever makes the others.
            p.grad = gradient * self._course.accumulate if gradient is not None and used else None
        self._step()
        for p, old in zip(self._parameters, kept, strict=True):
            p.grad = old

    def step_scheduler(self, step: int, row: Mapping[str, float] | None = None) -> None:
        """Step the scheduler, if this is its time: after an optimizer step, or after an epoch, given its row."""
        if self.scheduler is None or ((row is None) != self._course.schedule_steps):
            return
        # A resumed training, or one whose scaler left the first steps out, has not stepped: no reason to warn.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            assert row is not None
            loss = row["loss"] if math.isnan(row["elbo_valid"]) else -row["elbo_valid"]
            self.scheduler.step(loss if self.scheduler.mode == "min" else -loss)
        else:
            self.scheduler.step()
        check_learning_rates(self.optimizer, step)

    def forget_gradients(self) -> None:
        """Leave none behind."""
        for p in self._parameters:
            p.grad = None

    def state_dict(self) -> dict[str, object]:
        """What a resumed training needs of it."""
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self._scaler}
        states = {name: None if part is None else part.state_dict() for name, part in parts.items()}
        return {**states, "gradient_norms": self.norms.state}

    def check_state(self, state: SavedTraining) -> None:
        """Raise MalformedError unless scheduler, scaler and norms were saved as they are here."""
        parts = {"scheduler": self.scheduler, "scaler": self._scaler}
        saved = {"scheduler": state["scheduler"], "scaler": state["scaler"]}
        for name, part in parts.items():
            found = saved[name]
            if (found is None) != (part is None):
                raise MalformedError(name, f"is {described(found)}: expected {type(part).__name__}")
            if part is not None and found is not None:
                check_part(name, part, part.state_dict(), found)
        steps, norms = state["gradient_norms"]
        if steps < 0 or norms.dim() != 1 or not norms.is_floating_point():
            raise MalformedError(
                "gradient_norms", f"are {described(norms)} of {steps} steps: expected one of each"
            )

    def load_state_dict(self, state: SavedTraining) -> None:
        """Go on from what `state_dict` gave."""
        groups = cast("list[dict[str, object]]", state["optimizer"]["param_groups"])
        for group, own in zip(groups, self.optimizer.param_groups, strict=True):
            group.update({name: own[name] for name in HOW if name in own})
        self.optimizer.load_state_dict(state["optimizer"])
        steps, norms = state["gradient_norms"]
        self.norms.resume(steps, norms.to(self._parameters[0].device))
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self._scaler is not None and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])
            self._scale_losses()

    def _step(self, *, measured: bool = False) -> Tensor | None:
        """Step, and give the norm of the gradients before clipping if it is asked for."""
        norm = None
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        if measured or self._course.clip_norm is not None:
            stepped = [p for group in self.optimizer.param_groups for p in group["params"]]
            if self._course.clip_norm is not None:
                norm = torch.nn.utils.clip_grad_norm_(stepped, self._course.clip_norm)
            else:
                norm = norm_of([p.grad for p in stepped if p.grad is not None])
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self._scale_losses()
        return norm if measured else None

    def _scale_losses(self) -> None:
        assert self._scaler is not None
        assert self._loss_scale is not None
        # To ask for the scale would wait for the GPU.
        self._loss_scale.copy_(self._scaler.scale(torch.ones_like(self._loss_scale)))
