"""What all pictures share: axes to draw on, and colours that anyone can tell apart."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Tensor | npt.ArrayLike

# Okabe & Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/, less the yellow, too faint on white.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#999999"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] = (6.0, 4.0)) -> Axes:
    """The axes given, or those of a new figure, which pyplot does not know of and Jupyter shows."""
    if ax is not None:
        return ax
    from pyrovae.plots.pictures import Picture, PictureAxes

    return Picture(figsize=figsize, layout="constrained").subplots(subplot_kw={"axes_class": PictureAxes})


def as_array(values: Values) -> np.ndarray:
    """Tensors, arrays and lists as arrays."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def columns_of(frame: pd.DataFrame, needed: tuple[str, ...], maker: str) -> None:
    """Raise unless a table has the columns.

    Raises:
        ValueError: says which are lacking.

    """
    if lacking := [name for name in needed if name not in frame]:
        raise ValueError(f"the table lacks the columns {lacking}: expected what {maker} gives.")


def note_above(ax: Axes, text: str) -> None:
    """Small print between a picture and its title."""
    if not text:
        return
    lines = textwrap.wrap(text, 84)
    ax.set_title(ax.get_title(), pad=8 + 10 * len(lines))
    ax.annotate(
        "\n".join(lines),
        (0.5, 1.0),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        color="#555555",
    )
