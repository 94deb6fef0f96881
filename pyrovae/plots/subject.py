"""What a report is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import pandas as pd

from pyrovae.criticism.calibration import Calibration
from pyrovae.criticism.diagnosis import Diagnosis
from pyrovae.data import Rows
from pyrovae.plots.grids import ImageShape
from pyrovae.plots.style import Values
from pyrovae.vae import VAE

FEW_ROWS = 500


class Grid(TypedDict):
    """What all pictures of rows take alike, see `pyrovae.plots.image_grid`."""

    image_shape: ImageShape | None
    columns: Sequence[str] | None
    cmap: str | None


@dataclass(frozen=True)
class Subject:
    """A pair, some rows, and what is known of them: all that a panel may look at.

    Attributes:
        vae: the pair.
        data: the rows.
        diagnosis: of these rows.
        calibration: makes or gives the simulations; a pair that cannot simulate raises ValueError.
        history: of training, if known.
        rate_distortion: a curve, if known.
        labels: of the rows, if known.
        image_shape: of a row, if it is an image and its own shape does not say so.
        columns: names of a row's entries, if it is no image and they are known.
        cmap: the colours of rows, if others than usual are asked for.
        seed: of the panel's draws.

    """

    vae: VAE
    data: Rows
    diagnosis: Diagnosis
    calibration: Callable[[], Calibration]
    history: pd.DataFrame | None
    rate_distortion: pd.DataFrame | None
    labels: Values | None
    image_shape: ImageShape | None
    columns: Sequence[str] | None
    cmap: str | None
    seed: int

    @property
    def grid(self) -> Grid:
        """How rows are shown."""
        return {"image_shape": self.image_shape, "columns": self.columns, "cmap": self.cmap}

    @property
    def few(self) -> Rows:
        """As many of the rows as a panel needs that averages over them."""
        return self.data[:FEW_ROWS]

    @property
    def site(self) -> str:
        """The observed site that is shown: the first."""
        return next(iter(self.vae.layout.observed))
