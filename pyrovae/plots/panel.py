"""A panel of the report: a picture, a sentence that says what it shows in these numbers, and the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Content(NamedTuple):
    """What a panel shows, whatever it is called: see `Panel`."""

    draw: Callable[[Axes], Axes]
    sentence: str
    table: pd.DataFrame | None = None


@dataclass(frozen=True)
class Panel:
    """One panel: `draw(ax)` draws the picture; a table is shown on the HTML page.

    Example:
        >>> panel = Panel("A line", lambda ax: ax.plot([0, 1]) and ax, "It rises.")

    """

    title: str
    draw: Callable[[Axes], Axes]
    sentence: str
    table: pd.DataFrame | None = None
