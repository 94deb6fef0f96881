"""A training that can be stopped at any time: it goes on from its checkpoint, and its curve lies beside that."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

import pyrovae as pv
from pyrovae.training.checkpoints import Checkpoint


@dataclass(frozen=True)
class Run:
    """How far and where entries train.

    Args:
        folder: of checkpoints and curves under way.
        epochs: instead of the recipe's.
        minutes: after which a training is stopped, what it has come to evaluated, and its checkpoint kept.
        seeds: at most so many of an entry's.

    """

    folder: Path = Path("build/published")
    epochs: int | None = None
    minutes: float | None = None
    seeds: int | None = None

    def fit(
        self, name: str, vae: pv.VAE, data: Any, *, epochs: int, every: int = 1, **how: Any
    ) -> pd.DataFrame:
        """`pv.fit` from where it was stopped; Ctrl-C stops it, and the history tells of the epochs done.

        The checkpoint and the curve are written after each `every` epochs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        curve = self.folder / f"{name}_curve.csv"
        callbacks = [*how.pop("callbacks", ()), _Curve(curve, every)]
        with _ending(self.minutes):
            history = pv.fit(
                vae,
                data,
                epochs=self.epochs or epochs,
                checkpoint=Checkpoint(self.folder / f"{name}.training", every_epochs=every),
                resume=True,
                callbacks=callbacks,
                progress=False,
                **how,
            )
        history.to_csv(curve, index=False)
        return history


def done(history: pd.DataFrame, epochs: int) -> str:
    """How much of the recipe's training was done, in words."""
    return f"{len(history)} of {epochs} epochs"


def thinned(curve: pd.DataFrame, most: int = 60) -> pd.DataFrame:
    """A curve of so many epochs at most, the last one among them."""
    places = sorted({round(place * (len(curve) - 1) / max(most - 1, 1)) for place in range(most)})
    return curve.iloc[places] if len(curve) else curve


class _Curve(pv.callbacks.Callback):
    """Writes the history so far, and prints its last row."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_epoch(self, training: Any, row: Mapping[str, float]) -> None:
        """Every so many epochs."""
        if training.epoch % self.every == 0:
            pd.DataFrame(training.history).to_csv(self.path, index=False)
            figures = ", ".join(f"{name} {row[name]:.3f}" for name in row if name not in ("epoch", "seconds"))
            print(f"{self.path.stem}: epoch {training.epoch}, {figures}", flush=True)


@contextmanager
def _ending(minutes: float | None) -> Iterator[None]:
    """Hears Ctrl-C, also in the background of a shell, where it is not heard; after so many minutes presses it."""

    def press(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    by_hand = signal.signal(signal.SIGINT, signal.default_int_handler)
    by_clock = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 60 * (minutes or 0))  # 0 is never
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, by_clock)
        signal.signal(signal.SIGINT, by_hand)
