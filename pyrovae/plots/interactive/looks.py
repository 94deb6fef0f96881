"""How rows look on the page: pictures of images and sequences, numbers of tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from pyrovae.pair.observed import observations_of
from pyrovae.pair.sites import Ragged, innermost
from pyrovae.plots.colours import Scale, scale_of_images, scale_of_strips
from pyrovae.plots.decoded import sites_shown
from pyrovae.plots.entries import codes_in, shown_rows
from pyrovae.plots.grids import as_images
from pyrovae.plots.interactive.thumbnails import LARGEST, Thumbnails, size_on_page, thumbnails
from pyrovae.plots.panels.latent_space import MOST_CLASSES
from pyrovae.plots.style import SKY
from pyrovae.plots.subject import Subject
from pyrovae.random_state import fixed_seed

Kind: TypeAlias = Literal["image", "sequence", "table", "strip"]

MOST_ENTRIES = 60  # of a table, whose numbers are shown; wider rows are pictures, one strip each
STRIP = (168, 14)  # pixels on the page
WIDEST = 168  # pixels of a sequence on the page, where its steps are fewer
BEYOND = "#d0d0d0"  # the colour of steps that a sequence does not have


@dataclass(frozen=True)
class Look:
    """How one subject's rows are drawn, once they are arrays [n, *event].

    Attributes:
        kind: what the rows are.
        scale: from numbers to shades; the same for rows and what is decoded.
        cmap: matplotlib's name of the colours; None for grey.
        image_shape: of an image, if its own shape does not say so.

    """

    kind: Kind
    scale: Scale
    cmap: str | None
    image_shape: tuple[int, ...] | None

    def pictures(self, rows: np.ndarray, budget: int) -> Thumbnails:
        """A picture of each row, within a number of bytes in all."""
        absent = BEYOND if self.kind == "sequence" else SKY
        return thumbnails(self._images(rows), self.scale, self.cmap, budget, absent)

    def as_long_as(self, rows: np.ndarray, means: np.ndarray) -> np.ndarray:
        """What is decoded of rows, [n, *event], which of a sequence goes no further than the row itself."""
        means = means.reshape(len(means), *rows.shape[1:])
        return np.where(np.isnan(rows.astype(float)), np.nan, means) if self.kind == "sequence" else means

    def size(self, rows: np.ndarray) -> tuple[int, int] | None:
        """Width and height of a picture on the page; None where there are none."""
        if self.kind == "table":
            return None
        height, width = self._images(rows[:1])[0].shape[:2]
        if self.kind == "sequence":  # steps and notes are no pixels of an image, and need not be square
            return width * max(1, WIDEST // width), height * max(1, LARGEST // height)
        return STRIP if self.kind == "strip" else size_on_page(height, width)

    def _images(self, rows: np.ndarray) -> list[np.ndarray]:
        images = as_images(rows, self.image_shape)
        if self.kind == "sequence":  # time goes to the right, and what is high in pitch or place lies above
            images = images.swapaxes(1, 2)[:, ::-1]
        return list(images)


def look_of(subject: Subject, rows: np.ndarray) -> Look:
    """How the rows [n, *event] of a subject are drawn."""
    kind = _kind(subject, rows)
    shape = None if kind == "sequence" else subject.image_shape
    scale = scale_of_strips([rows], None) if kind in ("strip", "table") else scale_of_images([rows])
    return Look(kind, scale, subject.cmap or ("gray_r" if kind == "sequence" else None), shape)


def _kind(subject: Subject, rows: np.ndarray) -> Kind:
    if rows.ndim == 3 and subject.image_shape is None and _is_ragged(subject):
        return "sequence"
    if as_images(rows[:1], subject.image_shape).shape[1] > 1:
        return "image"
    return "table" if rows[0].size <= MOST_ENTRIES else "strip"


def _is_ragged(subject: Subject) -> bool:
    """Whether the shown site is a sequence by its distribution, and not only by its shape."""
    vae = subject.vae
    batch = subject.data.take(slice(0, 1), vae.device)
    with vae.evaluating(), fixed_seed(0, vae.device):
        site = observations_of(vae, batch)[sites_shown(vae, subject.site)[0]].site
    return isinstance(innermost(site.distribution), Ragged)


def labels_by_code(subject: Subject) -> dict[int, dict[float, str]]:
    """By place of a table's entry, the labels that the frame has for its codes, such as names of categories."""
    names, frame = subject.names, subject.frame
    if names is None or frame is None:
        return {}
    rows = shown_rows(subject.vae, subject.data, subject.site).reshape(len(subject.data), -1)
    found = {p: codes_in(rows[:, p], frame[name]) for p, name in enumerate(names) if name in frame}
    return {place: codes for place, codes in found.items() if codes and len(codes) <= MOST_CLASSES}
