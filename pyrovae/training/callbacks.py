"""What a training calls between steps and epochs, and the callbacks that ship with pyrovae."""

from __future__ import annotations

import math
import warnings
from typing import Any, TypedDict

from torch import Tensor, nn

from pyrovae.checks import check_count
from pyrovae.schema import checked
from pyrovae.training.training import Training


class Callback:
    """Override what is needed; `training` has the VAE, the optimizer, `step`, `epoch`, `history` and `stop()`.

    What a callback remembers from epoch to epoch belongs into `state_dict`, which checkpoints keep: tensors,
    numbers, texts, and lists and dicts of them.
    """

    def on_start(self, training: Training) -> None:
        """Before the first step, also of a resumed training."""

    def on_batch(self, training: Training) -> None:
        """Before each batch's step."""

    def on_step(self, training: Training) -> None:
        """After each optimizer step."""

    def on_epoch(self, training: Training, row: dict[str, float]) -> None:
        """After each epoch, given its row of the history; a number that is added to it is a column, and logged."""

    def on_end(self, training: Training) -> None:
        """After the last epoch, also where training was stopped early."""

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps of it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class _Stopping(TypedDict):
    """What `EarlyStopping` remembers."""

    best: float
    best_epoch: int
    weights: dict[str, Tensor]


class EarlyStopping(Callback):
    """Stops when the validation ELBO has not risen for some epochs, and goes back to the best weights.

    Args:
        patience: epochs without a rise that are allowed.
        min_rise: nats per row that count as a rise.
        restore_best: whether the VAE ends with the weights of its best epoch, or of its last.

    Raises:
        ValueError: `patience` below 1, or a negative `min_rise`; at the start, a training without validation.

    Example:
        >>> EarlyStopping(patience=3).patience
        3

    """

    def __init__(self, patience: int = 10, *, min_rise: float = 0.0, restore_best: bool = True) -> None:
        check_count("patience", patience)
        if not min_rise >= 0:
            raise ValueError(f"min_rise is {min_rise}: expected nats per row, at least 0.")
        self.patience, self.min_rise, self.restore_best = patience, min_rise, restore_best
        self._forget()

    def _forget(self) -> None:
        self.best, self.best_epoch = -math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def on_start(self, training: Training) -> None:
        """Forgets an earlier training."""
        if not training.has_validation:
            raise ValueError("EarlyStopping watches the validation ELBO: give fit(..., validation=...) too.")
        if training.epoch == 0:
            self._forget()

    def on_epoch(self, training: Training, row: dict[str, float]) -> None:
        """Compares with the best epoch so far."""
        if row["elbo_valid"] > self.best + self.min_rise:
            self.best, self.best_epoch = row["elbo_valid"], training.epoch
            if self.restore_best:
                self._weights = {n: t.detach().clone() for n, t in training.vae.tensors().items()}
        elif training.epoch - self.best_epoch >= self.patience:
            training.stop()

    def on_end(self, training: Training) -> None:
        """Goes back to the best weights."""
        differences = training.vae.take_values(self._weights) if self._weights else ""
        if differences:
            warnings.warn(
                f"EarlyStopping could not go back to the weights of epoch {self.best_epoch}, for the VAE has changed: "
                f"{differences}. It holds those of the last epoch.",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, object]:
        """The best ELBO, its epoch and its weights."""
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        saved = checked(state, _Stopping, "state")
        self.best, self.best_epoch, self._weights = saved["best"], saved["best_epoch"], dict(saved["weights"])


class EncoderSteps(Callback):
    """Extra steps of the guide alone before each step, against a guide that lags behind its model.

    He, Spokoyny, Neubig, Berg-Kirkpatrick, "Lagging Inference Networks and Posterior Collapse in Variational
    Autoencoders" (2019), https://arxiv.org/abs/1901.05534. Each extra step takes a batch of its own.

    Args:
        num_steps: extra steps before each step.
        epochs: only in the first epochs; None in all.

    Raises:
        ValueError: counts below 1; at the start, data that come from a DataLoader, or model and guide that share
            all their parameters.

    Example:
        >>> EncoderSteps(5, epochs=2).num_steps
        5

    """

    def __init__(self, num_steps: int, *, epochs: int | None = None) -> None:
        check_count("num_steps", num_steps)
        if epochs is not None:
            check_count("epochs", epochs)
        self.num_steps, self.epochs = num_steps, epochs
        self._guide: set[int] = set()

    def on_start(self, training: Training) -> None:
        """Finds the guide's own parameters."""
        if not training.can_draw:
            raise ValueError(
                "EncoderSteps draws batches of its own: give the data as tensors, not as a loader."
            )
        model, guide = training.vae.model, training.vae.guide
        if not isinstance(model, nn.Module) or not isinstance(guide, nn.Module):
            raise ValueError("EncoderSteps needs model and guide as modules, to tell their parameters apart.")
        of_model = {id(p) for p in model.parameters()}
        self._guide = {id(p) for p in guide.parameters() if id(p) not in of_model}
        if not self._guide:
            raise ValueError("EncoderSteps: the guide has no parameters of its own.")

    def on_batch(self, training: Training) -> None:
        """Steps the guide."""
        if self.epochs is None or training.epoch < self.epochs:
            for _ in range(self.num_steps):
                training.extra_step(self._guide)
