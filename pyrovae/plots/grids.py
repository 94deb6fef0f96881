"""Rows as lines of images, or as strips of a heat map where they are no images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.plots.style import Values, as_array, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ImageShape = tuple[int, ...]
MOST_LABELS = 16  # of strips, before one overlaps the next


def image_grid(
    lines: Sequence[Values],
    image_shape: ImageShape | None = None,
    *,
    labels: Sequence[str] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Lines of images, each [n, *event], one under another; strips of a heat map where rows are no images.

    Args:
        lines: arrays or tensors of as many rows each.
        image_shape: height and width, or channels (1 or 3), height and width; None takes the event's own.
        labels: of the lines; the y axis names them once where there are many strips.
        title: of the picture.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: an image shape that does not fit the rows.

    Example:
        >>> image_grid([torch.rand(5, 64), torch.rand(5, 64)], (8, 8), labels=["x", "mean"]).get_title()
        ''

    """
    images = [_as_images(as_array(line), image_shape) for line in lines]
    joined = np.concatenate([line.ravel() for line in images])
    unit = bool(np.nanmin(joined) >= 0 and np.nanmax(joined) <= 1)
    height, width = images[0].shape[1:3]
    strips = height == 1
    colour = images[0].ndim == 4
    said, names = "", labels
    if strips:  # the rows one under another, each with its lines together
        order = [line[i].astype(float) for i in range(len(images[0])) for line in images]
        page, step = np.concatenate(order), 1.0
        if names is not None and len(order) > MOST_LABELS:
            said, names = "each row: " + " over ".join(names), None
        elif names is not None:
            names = list(names) * len(images[0])
    else:
        gap = max(1, round(0.1 * min(height, width)))
        page, step = _framed(images, gap), height + 2.0 * gap
    ax = axes_or_new(ax)
    drawn = ax.imshow(
        page,
        cmap="gray_r" if unit else "viridis",
        interpolation="nearest",
        aspect="auto" if strips else "equal",
        vmin=0 if unit else None,
        vmax=1 if unit else None,
    )
    if not unit and not colour:
        ax.figure.colorbar(drawn, ax=ax, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    ax.set(yticks=[], title=title, ylabel=said)
    if strips:
        ax.set_xticks(_whole_places(width))
        ax.set_xlabel("entry of the row")
        if len(lines) > 1:
            divide(ax, len(images[0]), len(lines))
    else:
        ax.set_xticks([])
    if names is not None:
        ax.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(names))], names, fontsize="small")
        ax.tick_params(axis="y", length=0)
    return ax


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


def _whole_places(width: int) -> np.ndarray:
    """At most about ten of the entries of a row, evenly spaced."""
    return np.arange(0, width, math.ceil(width / 10))


def is_strips(line: np.ndarray, image_shape: ImageShape | None) -> bool:
    """Whether rows are no images, but lines of pixels."""
    return _as_images(line, image_shape).shape[1] == 1


def _as_images(line: np.ndarray, image_shape: ImageShape | None) -> np.ndarray:
    """[n, H, W], or [n, H, W, 3] in colour; a row that is no image is one line of pixels."""
    shape = tuple(image_shape) if image_shape is not None else line.shape[1:]
    if math.prod(shape) != math.prod(line.shape[1:]):
        raise ValueError(f"image_shape is {shape}: a row has {math.prod(line.shape[1:])} entries.")
    images = line.reshape(len(line), *shape)
    if images.ndim == 4 and shape[0] == 3:
        return np.nan_to_num(np.clip(np.moveaxis(images, 1, -1), 0, 1), nan=1.0)  # white where nothing is
    if images.ndim == 4 and shape[0] == 1:
        return images[:, 0]
    if images.ndim == 3:
        return images
    if image_shape is not None:
        raise ValueError(f"image_shape is {shape}: expected (height, width) or (1 or 3, height, width).")
    return images.reshape(len(line), 1, -1)
