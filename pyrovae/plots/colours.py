"""Which colours stand for which numbers in a grid of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

# Entries outside, at either end, do not decide how bright a picture is.
OUTLIERS = 0.005
# Numbers so far above the mean leave nothing else to see on an even scale, as in counts.
LONG_TAIL, MANY = 10, 10


@dataclass(frozen=True)
class Scale:
    """From `low` to `high`, evenly, or by the logarithm above 1 where they are counts."""

    low: float
    high: float
    log: bool = False

    @property
    def unit(self) -> bool:
        """Whether it is that of probabilities, or of pixels as torchvision gives them."""
        return (self.low, self.high) == (0.0, 1.0)

    def norm(self) -> Normalize:
        """The same to matplotlib."""
        from matplotlib.colors import Normalize, SymLogNorm

        if self.log:
            return SymLogNorm(linthresh=1.0, vmin=self.low, vmax=self.high, base=10)
        return Normalize(self.low, self.high)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Where values lie between the ends, from 0 to 1."""
        return np.clip((values - self.low) / max(self.high - self.low, np.finfo(float).tiny), 0, 1)


def scale_of_images(images: Sequence[np.ndarray]) -> Scale:
    """Of pixels: from 0 to 1 where almost all lie there."""
    pixels = _finite(images)
    low, high = np.quantile(pixels, [OUTLIERS, 1 - OUTLIERS])
    return Scale(0.0, 1.0) if low >= 0 and high <= 1 else Scale(float(low), float(high))


def scale_of_strips(strips: Sequence[np.ndarray], log: bool | None) -> Scale:
    """Of entries; by the logarithm if asked, or if they are not negative and have a long tail, where log is None."""
    entries = _finite(strips)
    low, high = float(entries.min()), float(entries.max())
    if log is None:
        log = low >= 0 and high > max(MANY, LONG_TAIL * entries.mean())
    return Scale(0.0, 1.0) if low >= 0 and high <= 1 else Scale(min(low, 0.0) if log else low, high, log)


def _finite(arrays: Sequence[np.ndarray]) -> np.ndarray:
    joined = np.concatenate([array.ravel() for array in arrays]).astype(float)
    joined = joined[np.isfinite(joined)]
    return joined if len(joined) else np.zeros(1)
