"""A training under way, as callbacks see it and checkpoints keep it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyrovae.training.course import Course
from pyrovae.training.optimizers import Scheduler
from pyrovae.training.processes import Processes
from pyrovae.vae import VAE


class Training(ABC):
    """What can be asked of a training.

    `epoch` counts finished epochs, `step` optimizer steps, `history` has a dict of each finished epoch.
    """

    vae: VAE
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    settings: Course
    processes: Processes
    epoch: int
    step: int
    history: list[dict[str, float]]

    @property
    @abstractmethod
    def has_validation(self) -> bool:
        """Whether each epoch ends with a validation ELBO."""

    @property
    @abstractmethod
    def can_draw(self) -> bool:
        """Whether batches can be drawn at random beside those of the epoch."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether the last epoch is done."""

    @property
    @abstractmethod
    def engine(self) -> str:
        """How steps are computed."""

    @abstractmethod
    def stop(self) -> None:
        """End the training after this epoch."""

    @abstractmethod
    def extra_step(self, only: set[int]) -> None:
        """A step on a batch drawn at random, of the parameters with these ids alone."""

    @abstractmethod
    def noise_state(self) -> Tensor:
        """The random state that draws latents."""

    @abstractmethod
    def state_dict(self) -> dict[str, object]:
        """All that a resumed training needs."""
