"""Figures and axes that Jupyter shows without pyplot: as PNG."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 110


class Picture(Figure):
    """A figure that a notebook shows where it ends a cell."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


class PictureAxes(Axes):
    """Axes of a figure of their own, which a notebook shows where they end a cell."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


def png_of(picture: Axes | Figure, dpi: int = DPI) -> bytes:
    """A figure, or that of axes, as the bytes of a PNG file, with all that stands around its axes."""
    figure = picture if isinstance(picture, Figure) else picture.figure
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png", bbox_inches="tight")
    return buffer.getvalue()
