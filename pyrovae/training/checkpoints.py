"""Files from which a killed training goes on exactly: weights, optimizer, random states, place in the epoch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from pyrovae.checks import check_count
from pyrovae.files import (
    FileError,
    check_savable,
    file_path,
    load_tensors,
    reading,
    remove_leftovers,
    save_tensors,
)
from pyrovae.pair.savable import TRAINING
from pyrovae.pair.saved_pair import SavedPair, to_json
from pyrovae.schema import checked
from pyrovae.training.differences import RATES, difference
from pyrovae.training.saved_training import SavedTraining, check_counts
from pyrovae.training.state_tree import Packed, pack, unpack
from pyrovae.training.training import Training

KIND = TRAINING


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a training is saved.

    Args:
        path: of the file; its folder must be there.
        every_epochs: saved after each so many epochs, and after the last.
        every_steps: within epochs too, after each so many optimizer steps.

    Raises:
        ValueError: counts below 1, or a path that no file may have.
        FileNotFoundError: no such folder.
        IsADirectoryError: the path of a folder.

    Example:
        >>> Checkpoint("training.ckpt", every_steps=1000).every_epochs
        1

    """

    path: str | os.PathLike[str]
    every_epochs: int = 1
    every_steps: int | None = None

    def __post_init__(self) -> None:
        check_count("every_epochs", self.every_epochs)
        if self.every_steps is not None:
            check_count("every_steps", self.every_steps)
        folder = file_path(self.path).resolve().parent
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder} to keep a checkpoint in.")


class _Facts(TypedDict):
    """What a file holds beside tensors."""

    kind: str
    settings: dict[str, object]
    state: object
    pair: SavedPair


class Keeper:
    """Saves one training, and brings back what it saved."""

    def __init__(self, checkpoint: Checkpoint, settings: Mapping[str, object]) -> None:
        self.checkpoint, self.settings = checkpoint, dict(settings)
        self.path = Path(checkpoint.path)
        self.last_good = self.path.with_name(f"{self.path.name}.last_good")
        self.failed = False

    def read(self, *, any_rate: bool = False) -> SavedTraining:
        """The saved state; with `any_rate` also of a training at other learning rates.

        Raises:
            FileError: not a checkpoint, damaged, or of a training with other settings (says which).

        """
        tensors, facts = load_tensors(self.path, KIND)
        with reading(self.path, KIND):
            known = checked(facts, _Facts, "metadata")
            saved = checked(unpack(cast("Packed", known["state"]), tensors), SavedTraining, "state")
            different = self._differences(known["settings"], saved, RATES if any_rate else frozenset())
            if different:
                raise FileError(
                    self.path,
                    next(iter(different)),
                    f"belongs to another training: {'; '.join(different.values())}. Resume with what it was started "
                    "with (resume='new rate' takes another learning rate), or give another checkpoint file to start "
                    "anew, with these weights if you like: vae.load(path).",
                )
            check_counts(saved)
        return saved

    def _differences(
        self, settings: Mapping[str, object], saved: SavedTraining, ignored: Set[str]
    ) -> dict[str, str]:
        """By name of the setting, in words."""
        # Where the same VAE goes on, it is as callbacks have left it.
        left = {"frozen": saved["frozen"], "evaluating": saved["evaluating"]}
        found = {
            name: difference(settings.get(name), value, ignored)
            for name, value in self.settings.items()
            if name not in left or left[name] != value
        }
        return {name: f"{name} {words}" for name, words in found.items() if words}

    def check(self, training: Training) -> None:
        """Raise TypeError where a callback, scheduler or optimizer has a state that no file can hold."""
        tensors, packed = pack(training.state_dict())
        check_savable(KIND, tensors, self._facts(training, packed))
        if training.processes.is_first:
            remove_leftovers(self.path)

    def _facts(self, training: Training, packed: Packed) -> dict[str, object]:
        pair = to_json(training.vae.layout, training.vae.row_specs)
        return {"settings": self.settings, "state": packed, "pair": pair}

    def write(self, training: Training) -> None:
        """Save; where that fails, keep the older file and warn, so that training goes on."""
        noises = training.processes.gather(training.noise_state())
        if not training.processes.is_first:
            return
        try:
            tensors, packed = pack({**training.state_dict(), "noises": noises})
            save_tensors(self.path, KIND, tensors, self._facts(training, packed))
        except (OSError, ValueError) as error:
            if not self.failed:
                warnings.warn(
                    f"the training could not be saved to {self.path} ({error}). It goes on, the last checkpoint "
                    "that was written is kept, and saving is tried again.",
                    stacklevel=2,
                )
            self.failed = True
        else:
            self.failed = False

    def is_due(self, training: Training, *, epoch_ended: bool) -> bool:
        """Whether now is the time to save."""
        if epoch_ended:
            return training.epoch % self.checkpoint.every_epochs == 0 or training.is_over
        every = self.checkpoint.every_steps
        return every is not None and training.step % every == 0
