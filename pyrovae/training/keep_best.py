"""The weights of a training's best epochs, each in a file of its own."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from pyrovae.checks import check_count
from pyrovae.training.callbacks import Callback
from pyrovae.training.training import Training


class KeepBest(Callback):
    """Saves the VAE after each epoch that is among the best so far, and removes the files of those that no longer are.

    Each file is one of `VAE.save`, named `epoch-12.vae`, and read by `VAE.load`. `best` holds the figure, the epoch and
    the file of each, the best one first.

    Args:
        folder: for the files; made if it is not there.
        num_kept: how many epochs' weights are kept.
        by: the column of the history that they are chosen by, also one that a callback before this one has added.
        smallest: whether small figures are the good ones, as of a loss.

    Raises:
        ValueError: `num_kept` below 1; at the start, weights of an earlier training in the folder, or `by` "elbo_valid"
            without validation; after an epoch, a column that is not there.

    Example:
        >>> KeepBest("weights", 3).by
        'elbo_valid'

    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        num_kept: int = 1,
        *,
        by: str = "elbo_valid",
        smallest: bool = False,
    ) -> None:
        check_count("num_kept", num_kept)
        self.folder, self.num_kept, self.by, self.smallest = Path(folder), num_kept, by, smallest
        self.best: list[tuple[float, int, Path]] = []

    def on_start(self, training: Training) -> None:
        """Looks after the folder."""
        if self.by == "elbo_valid" and not training.has_validation:
            raise ValueError(
                "KeepBest chooses by the validation ELBO: give fit(..., validation=...) too, or another column, by=."
            )
        if training.epoch > 0:
            return
        self.best = []
        if there := sorted(self.folder.glob("epoch-*.vae")):
            raise ValueError(
                f"{there[0]} is there already, of an earlier training: give KeepBest another folder, or remove it."
            )

    def on_epoch(self, training: Training, row: dict[str, float]) -> None:
        """Saves and removes."""
        if self.by not in row:
            raise ValueError(
                f"KeepBest chooses by '{self.by}', and the history's columns are {', '.join(row)}: a callback that "
                "adds one must come before KeepBest."
            )
        found = float(row[self.by])
        if math.isnan(found):
            return
        this = (found, training.epoch, self.folder / f"epoch-{training.epoch}.vae")
        # Of equal ones the first stays.
        ordered = sorted(
            [*self.best, this], key=lambda kept: (kept[0] if self.smallest else -kept[0], kept[1])
        )
        self.best, fallen = ordered[: self.num_kept], ordered[self.num_kept :]
        if not training.processes.is_first:
            return
        if this in self.best:
            self.folder.mkdir(parents=True, exist_ok=True)
            training.vae.save(this[2])
        for _, _, path in fallen:
            path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, object]:
        """Figures and epochs of the files."""
        return {"best": [[found, epoch] for found, epoch, _ in self.best]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        self.best = [(found, epoch, self.folder / f"epoch-{epoch}.vae") for found, epoch in state["best"]]
