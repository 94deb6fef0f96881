"""Rows as lines of images, or as strips of a heat map where they are no images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.plots.colours import Scale, scale_of_images, scale_of_strips
from pyrovae.plots.style import Values, as_array, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ImageShape = tuple[int, ...]
MOST_LABELS = 16  # of strips, before one overlaps the next
MOST_COLUMNS, LONGEST_NAME = 24, 14


def image_grid(
    lines: Sequence[Values],
    image_shape: ImageShape | None = None,
    *,
    labels: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    log: bool | None = None,
    title: str = "",
    cmap: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Lines of images, each [n, *event], one under another; strips of a heat map where rows are no images.

    Images of one channel are grey, larger numbers brighter; pixels from 0 to 1 are shown as they are, others between
    their own ends, but for one in a hundred.

    Args:
        lines: arrays or tensors of as many rows each.
        image_shape: height and width, or channels (1 or 3), height and width; None takes the event's own.
        labels: of the lines; the y axis names them once where there are many strips.
        columns: names of a row's entries, for strips.
        log: colours of strips by the logarithm of numbers above 1; None does so for numbers that are not negative
            and of which the largest is far above the mean, such as counts.
        title: of the picture.
        cmap: matplotlib's name of the colours; "gray_r" draws ink on paper.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: an image shape that does not fit the rows, or names of another number than entries.

    Example:
        >>> image_grid([torch.rand(5, 64), torch.rand(5, 64)], (8, 8), labels=["x", "mean"]).get_title()
        ''

    """
    images = [as_images(as_array(line), image_shape) for line in lines]
    ax = axes_or_new(ax)
    if images[0].shape[1] == 1:
        _draw_strips(ax, images, labels, columns, scale_of_strips(images, log), cmap)
    else:
        _draw_images(ax, images, labels, scale_of_images(images), cmap)
    ax.set_title(title)
    return ax


def _draw_images(
    ax: Axes, images: Sequence[np.ndarray], labels: Sequence[str] | None, scale: Scale, cmap: str | None
) -> None:
    colour = images[0].ndim == 4
    height, width = images[0].shape[1:3]
    gap = max(1, round(0.1 * min(height, width)))
    page = _framed([np.nan_to_num(scale.shares(line), nan=1.0) for line in images] if colour else images, gap)
    drawn = ax.imshow(
        page, cmap=cmap or "gray", norm=None if colour else scale.norm(), interpolation="nearest"
    )
    if not scale.unit and not colour:
        ax.figure.colorbar(drawn, ax=ax, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if labels is not None:
        name_lines(ax, labels, height + 2 * gap)


def _draw_strips(
    ax: Axes,
    images: Sequence[np.ndarray],
    labels: Sequence[str] | None,
    columns: Sequence[str] | None,
    scale: Scale,
    cmap: str | None,
) -> None:
    """The rows one under another, each with its lines together."""
    count, _, width = images[0].shape
    order = [line[i].astype(float) for i in range(count) for line in images]
    colours = cmap or ("gray_r" if scale.unit else "viridis")
    drawn = ax.imshow(
        np.concatenate(order), cmap=colours, norm=scale.norm(), interpolation="nearest", aspect="auto"
    )
    if not scale.unit:
        said = "log scale above 1" if scale.log else ""
        ax.figure.colorbar(drawn, ax=ax, location="bottom", shrink=0.6, aspect=40, pad=0.02, label=said)
    ax.set_yticks([])
    if columns is None:
        ax.set_xticks(np.arange(0, width, math.ceil(width / 10)))
        ax.set_xlabel("entry of the row")
    elif len(columns) != width:
        raise ValueError(f"columns has {len(columns)} names: a row has {width} entries.")
    else:
        shown = range(0, width, math.ceil(width / MOST_COLUMNS))
        ax.set_xticks(shown, [_short(columns[place]) for place in shown], rotation=90, fontsize="small")
    if len(images) > 1:
        divide(ax, count, len(images))
    if labels is not None and len(order) > MOST_LABELS:
        ax.set_ylabel("each row: " + " over ".join(labels))
    elif labels is not None:
        name_lines(ax, list(labels) * count, 1.0)


def name_lines(ax: Axes, labels: Sequence[str], step: float) -> None:
    """Names beside lines, or groups of strips, of this height."""
    ax.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(labels))], labels, fontsize="small")
    ax.tick_params(axis="y", length=0)


def by_column(lines: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each entry from 0, its least number in all the lines, to 1, its greatest: columns have units of their own."""
    numbers = [line.astype(float) for line in lines]
    low, high = (reduce(np.concatenate(numbers)) for reduce in (np.fmin.reduce, np.fmax.reduce))
    width = np.where(high > low, high - low, 1.0)
    return [(line - low) / width for line in numbers]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _framed(images: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """Lines of images one under another, with a gap around each image: white in colour, else nothing."""
    colour = images[0].ndim == 4
    around = [(0, 0), (gap, gap), (gap, gap)] + ([(0, 0)] if colour else [])
    filler = 1.0 if colour else np.nan
    padded = [np.pad(line.astype(float), around, constant_values=filler) for line in images]
    return np.concatenate([np.concatenate(list(line), axis=1) for line in padded])


def divide(ax: Axes, groups: int, strips: int) -> None:
    """Lines between groups of so many strips."""
    for group in range(1, groups):
        ax.axhline(group * strips - 0.5, color="white", linewidth=1.5)


def is_strips(line: np.ndarray, image_shape: ImageShape | None) -> bool:
    """Whether rows are no images, but lines of pixels."""
    return as_images(line, image_shape).shape[1] == 1


def as_images(line: np.ndarray, image_shape: ImageShape | None) -> np.ndarray:
    """[n, H, W], or [n, H, W, 3] in colour; a row that is no image is one line of pixels."""
    shape = tuple(image_shape) if image_shape is not None else line.shape[1:]
    if math.prod(shape) != math.prod(line.shape[1:]):
        raise ValueError(f"image_shape is {shape}: a row has {math.prod(line.shape[1:])} entries.")
    images = line.reshape(len(line), *shape)
    if images.ndim == 4 and shape[0] == 3:
        return np.moveaxis(images, 1, -1)
    if images.ndim == 4 and shape[0] == 1:
        return images[:, 0]
    if images.ndim == 3:
        return images
    if image_shape is not None:
        raise ValueError(f"image_shape is {shape}: expected (height, width) or (1 or 3, height, width).")
    return images.reshape(len(line), 1, -1)
