"""Small pictures of rows, as addresses that hold the picture itself, within a number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyrovae.plots.colours import Scale
from pyrovae.plots.style import SKY

# How pictures are written, from the best to the smallest: format, quality, and every how many pixels one is kept.
MANNERS = (("PNG", 0, 1), ("WEBP", 80, 1), ("WEBP", 50, 1), ("WEBP", 50, 2), ("WEBP", 40, 4), ("WEBP", 30, 8))
TRIED = 24  # pictures, by whose size a manner is chosen
LARGEST, SMALLEST = 112, 6  # sides on the page, in pixels


@dataclass(frozen=True)
class Thumbnails:
    """Addresses `data:image/...`, one a picture, and whether they hold every pixel as it is (to 256 shades)."""

    addresses: list[str]
    exact: bool

    @property
    def num_bytes(self) -> int:
        """Of all addresses."""
        return sum(map(len, self.addresses))


def thumbnails(
    images: Sequence[np.ndarray], scale: Scale, cmap: str | None, budget: int, absent: str = SKY
) -> Thumbnails:
    """Pictures [H, W], or [H, W, 3] in colour, in the best manner that keeps them within a number of bytes.

    Entries that are NaN have a colour of their own.
    """
    shades = [_shades(image, scale, cmap, absent) for image in images]
    places = np.unique(np.linspace(0, len(shades) - 1, TRIED).round().astype(int))
    for manner in MANNERS:
        tried = [len(_address(shades[place], *manner)) for place in places]
        if sum(tried) / len(tried) * len(shades) <= budget:
            break
    return Thumbnails([_address(one, *manner) for one in shades], manner == MANNERS[0])


def size_on_page(height: int, width: int) -> tuple[int, int]:
    """Width and height that a picture of so many pixels has on the page."""
    factor = LARGEST / max(height, width)
    factor = max(1, int(factor)) if factor >= 1 else factor
    return max(SMALLEST, round(width * factor)), max(SMALLEST, round(height * factor))


def _shades(image: np.ndarray, scale: Scale, cmap: str | None, of_absent: str) -> np.ndarray:
    """[H, W] or [H, W, 3], whole numbers from 0 to 255."""
    numbers = image.astype(float)
    absent = np.isnan(numbers)
    shares = np.clip(np.asarray(scale.norm()(np.nan_to_num(numbers)), dtype=float), 0, 1)
    shades = (255 * shares).round().astype(np.uint8)
    if image.ndim == 3:
        absent = absent.any(-1)
    elif cmap is not None:
        from matplotlib import colormaps

        shades = (255 * colormaps[cmap](shares)[..., :3]).round().astype(np.uint8)
    elif absent.any():
        shades = np.repeat(shades[..., None], 3, -1)
    if absent.any():
        shades[absent] = [int(of_absent[place : place + 2], 16) for place in (1, 3, 5)]
    return shades


def _address(shades: np.ndarray, form: str, quality: int, step: int) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    options = {} if form == "PNG" else {"quality": quality}
    Image.fromarray(np.ascontiguousarray(shades[::step, ::step])).save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
