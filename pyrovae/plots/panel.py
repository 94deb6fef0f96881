"""A panel of the report: a picture, a sentence that says what it shows in these numbers, and the numbers."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from pyrovae.plots.style import axes_or_new
from pyrovae.shown import Shown, table_of, within_a_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (5.4, 4.1)  # inches


class Content(NamedTuple):
    """What a panel shows, whatever it is called: see `Panel`."""

    draw: Callable[[Axes], Axes]
    sentence: str
    table: pd.DataFrame | None = None
    of: str = ""


@dataclass(frozen=True, repr=False)
class Panel(Shown):
    """One panel: `draw(ax)` draws the picture; a table is shown on the HTML page.

    `of` says which rows it shows and how many draws; it stands under the title.

    Example:
        >>> panel = Panel("A line", lambda ax: ax.plot([0, 1]) and ax, "It rises.")

    """

    title: str
    draw: Callable[[Axes], Axes]
    sentence: str
    table: pd.DataFrame | None = None
    of: str = ""

    def __str__(self) -> str:
        return f"{self.title}: {self.sentence}"

    def _repr_html_(self) -> str:
        return within_a_page([self.html()])

    def picture(self, dpi: int = 100) -> str:
        """The picture alone, as HTML."""
        from pyrovae.plots.pictures import png_of

        ax = axes_or_new(None, SIZE)
        self.draw(ax)
        source = "data:image/png;base64," + base64.b64encode(png_of(ax, dpi=dpi)).decode("ascii")
        return f'<img alt="{html.escape(f"{self.title}: {self.sentence}")}" src="{source}">'

    def html(self) -> str:
        """Its picture, what it shows, and its table."""
        name, sentence = html.escape(self.title), html.escape(self.sentence)
        of = f"\n<p><small>{html.escape(self.of)}</small></p>" if self.of else ""
        table = "" if self.table is None else table_of(self.table)
        head = f"<h2>{name}</h2>{of}\n<p>{sentence}</p>"
        return "\n".join(["<section>", head, self.picture(dpi=130), table, "</section>"])
