"""How results show themselves: as text where they are printed, as a page with tables in Jupyter."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import pandas as pd

Part: TypeAlias = str | pd.DataFrame
"""A paragraph, or a table."""

Section: TypeAlias = Sequence[Part]
"""What belongs together; sections stand apart."""

ROWS_SHOWN = 20  # of a table, before its middle is left out
CSS = """
.pyrovae table { border-collapse: collapse; font-size: 0.85em; display: block; overflow-x: auto; }
.pyrovae th, .pyrovae td { text-align: right; padding: 0.15em 0.7em; border: 0; border-bottom: 1px solid #ddd;
  font-weight: normal; white-space: nowrap; }
.pyrovae thead th { border-bottom: 1px solid #444; }
.pyrovae p { white-space: pre-wrap; margin: 0.5em 0; }
"""


class Shown:
    """A result that is worth reading as it is: its repr is its text, and Jupyter shows its sections as a page.

    Example:
        >>> class Two(Shown):
        ...     def __str__(self):
        ...         return "1 < 2"
        >>> Two()
        1 < 2
        >>> "<p>1 &lt; 2</p>" in Two()._repr_html_()
        True

    """

    def sections(self) -> Sequence[Section]:
        """What Jupyter shows, in its order: the text, where there is nothing more."""
        return [[str(self)]]

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return within_a_page(
            table_of(part) if isinstance(part, pd.DataFrame) else f"<p>{html.escape(part)}</p>"
            for section in self.sections()
            for part in section
        )


def text_of(sections: Iterable[Section], number: str) -> str:
    """Sections as text, with a format for the numbers of tables, such as ".3f".

    An index that only counts rows is left out.
    """

    def text(part: Part) -> str:
        if isinstance(part, str):
            return part
        counted = isinstance(part.index, pd.RangeIndex)
        return part.to_string(index=not counted, float_format=lambda value: format(value, number))

    return "\n\n".join("\n".join(map(text, section)) for section in sections)


def within_a_page(parts: Iterable[str]) -> str:
    """Pieces of HTML that look the same on any page and leave the rest of it alone."""
    return "\n".join(['<div class="pyrovae">', f"<style>{CSS}</style>", *parts, "</div>"])


def table_of(table: pd.DataFrame) -> str:
    """A table as HTML, numbers to four figures."""
    return table.to_html(
        border=0,
        float_format=lambda value: f"{value:.4g}",
        na_rep="",
        max_rows=ROWS_SHOWN,
        show_dimensions=len(table) > ROWS_SHOWN,
    )
