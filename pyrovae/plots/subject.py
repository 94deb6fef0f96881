"""What a report is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import pandas as pd

from pyrovae.criticism import activity
from pyrovae.criticism.calibration import Calibration
from pyrovae.criticism.diagnosis import Diagnosis
from pyrovae.data import Rows
from pyrovae.exchange.arviz_bridge import Tree
from pyrovae.plots.decoded import is_flat, sites_shown
from pyrovae.plots.entries import entry_names
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
        tree: makes or gives draws of the first rows, for predictive checks.
        history: of training, if known.
        rate_distortion: a curve, if known.
        labels: of the rows, if known.
        image_shape: of a row, if it is an image and its own shape does not say so.
        columns: names of the columns of `x`, if it is no image and they are known.
        cmap: the colours of rows, if others than usual are asked for.
        seed: of the panel's draws.
        frame: the rows as people know them, if as a data frame.
        site: the observed site that is shown; None shows the only one, or all of a table side by side.
        calibrates: whether the simulations are shown, or given, so that other panels may show more of them.

    """

    vae: VAE
    data: Rows
    diagnosis: Diagnosis
    calibration: Callable[[], Calibration]
    tree: Callable[[], Tree]
    history: pd.DataFrame | None
    rate_distortion: pd.DataFrame | None
    labels: Values | None
    image_shape: ImageShape | None
    columns: Sequence[str] | None
    cmap: str | None
    seed: int
    frame: pd.DataFrame | None = None
    site: str | None = None
    calibrates: bool = True

    @property
    def grid(self) -> Grid:
        """How rows are shown."""
        return {"image_shape": self.image_shape, "columns": self.columns, "cmap": self.cmap}

    @property
    def names(self) -> list[str] | None:
        """Of a shown row's entries, in the order in which they are shown; None where they have none."""
        return entry_names(self.vae, self.data, self.site, self.columns)

    def of_site(self, site: str) -> Subject:
        """The same about one observed site, with what was said of rows where it is of such rows."""
        numel = self.vae.layout.observed[site].numel
        fits = self.image_shape is not None and math.prod(self.image_shape) == numel
        width = self.data.x.shape[1] if len(self.data.x.shape) == 2 else numel
        named = self.columns is not None and len(self.columns) in (numel, width)
        return replace(
            self,
            site=site,
            image_shape=self.image_shape if fits else None,
            columns=self.columns if named else None,
        )

    @property
    def few(self) -> Rows:
        """As many of the rows as a panel needs that averages over them."""
        return self.data[:FEW_ROWS]

    @property
    def by_column(self) -> bool:
        """Whether several sites of a table stand side by side, of which each column has colours of its own."""
        return len(sites_shown(self.vae, self.site)) > 1

    @property
    def draws_of_rates(self) -> int:
        """How many draws a row's parts of the ELBO are averaged over."""
        return activity.DRAWS


def views(vae: VAE) -> tuple[str | None, ...]:
    """What is shown of a pair's rows: (None,) for the only site or all those of a table, else each site by itself."""
    observed = vae.layout.observed
    if len(observed) == 1 or all(map(is_flat, observed.values())):
        return (None,)
    return tuple(observed)
