"""What a report is: a printable sheet of pictures, and a page to look at rows and latents."""

from __future__ import annotations

import html
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyrovae.files import write_atomically
from pyrovae.plots.interactive.need import need_bokeh
from pyrovae.plots.panel import SIZE, Panel
from pyrovae.plots.style import note_above
from pyrovae.plots.subject import Subject
from pyrovae.shown import Shown, table_of, within_a_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
FRAME_HEIGHT = 900  # of a page within a notebook, in pixels

BODY_CSS = """
body {
  font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1500px; margin: 0 auto; padding: 1em;
}
"""
PAGE_CSS = """
.pyrovae main { display: flex; flex-wrap: wrap; column-gap: 2em; }
.pyrovae section { flex: 1 1 420px; min-width: 0; max-width: 700px; }
.pyrovae img { width: 100%; height: auto; }
.pyrovae pre { font-size: 0.85em; white-space: pre-wrap; }
.pyrovae h1, .pyrovae h2 { font-weight: 600; margin-bottom: 0.2em; }
"""


@dataclass(frozen=True)
class Page:
    """A page to look at rows and latents: HTML that a browser shows by itself and a notebook in a frame."""

    html: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as one file, atomically.

        Raises:
            OSError: the file cannot be written; an older one is left as it was.

        """
        write_atomically(path, lambda file: file.write_text(self.html, encoding="utf-8"))

    def __repr__(self) -> str:
        return f"a page of {len(self.html) / 1e6:.1f} MB; .save('page.html') writes it"

    def _repr_html_(self) -> str:
        # A frame keeps the page's scripts and styles from the notebook's, and the other way round.
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" width="100%" height="{FRAME_HEIGHT}" '
            'style="border:0" sandbox="allow-scripts allow-downloads"></iframe>'
        )


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """What `report` gives: a summary, the diagnosis in words, panels, and what had to be left out and why.

    It has two forms. The sheet is for paper, and is what Jupyter shows: `figure()`, `save("report.png")`, `html()`. The
    page is for looking at rows and latents: `page()`, `save("report.html")`.
    """

    title: str
    summary: pd.DataFrame
    diagnosis: str
    panels: tuple[Panel, ...]
    left_out: tuple[str, ...]
    subject: Subject

    def figure(self) -> Figure:
        """All pictures on one sheet."""
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        from pyrovae.plots.pictures import Picture

        lines = math.ceil(len(self.panels) / COLUMNS)
        columns = min(COLUMNS, len(self.panels))
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Picture(figsize=(columns * SIZE[0], lines * SIZE[1] + 0.5), layout=layout)
        figure.suptitle(self.title, fontsize=15)
        places = figure.subplots(lines, columns, squeeze=False).flat
        for place, ax in enumerate(places):
            if place < len(self.panels):
                panel = self.panels[place]
                panel.draw(ax)
                note_above(ax, panel.of)
            else:
                ax.remove()
        return figure

    def page(self) -> Page:
        """The page to look at rows and latents: one file that needs no server and asks nothing of any network.

        A map of the rows to zoom, with each row's picture or numbers, reconstruction, log p(x) and Pareto k beside the
        pointer; colours by any column, k, log p(x) or cluster; brushing that lists the rows, a search for the
        strangest, a slider for each latent dimension with what `VAE.decode` makes of it, training curves, and tables
        that sort. Of more than 2000 rows it has the strangest, and others evenly spaced. A notebook shows it where it
        ends a cell.

        Raises:
            ModuleNotFoundError: without Bokeh (`pip install 'pyrovae[page]'`).

        """
        need_bokeh("the page of a report")
        from pyrovae.plots.interactive.document import document

        return Page(
            document(self.title, self.summary, self.diagnosis, self.panels, self.left_out, self.subject)
        )

    def html(self) -> str:
        """The sheet with all that is said of its panels, as one file: pictures inside, no scripts."""
        parts = [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(self.title)}</title>\n<style>{BODY_CSS}</style>\n</head>\n<body>",
            self._repr_html_(),
            "</body>\n</html>\n",
        ]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        parts = [
            f"<style>{PAGE_CSS}</style>",
            f"<h1>{html.escape(self.title)}</h1>\n<p>Nats per row, higher is better, but for the rate.</p>",
            table_of(self.summary),
            "<main>",
            *(panel.html() for panel in self.panels),
            "</main>",
            f"<h2>Diagnosis</h2>\n<pre>{html.escape(self.diagnosis)}</pre>",
            *(f"<p>Left out: {html.escape(line)}</p>" for line in self.left_out),
        ]
        return within_a_page(parts)

    def __str__(self) -> str:
        lines = [f"Report '{self.title}', {len(self.panels)} panels; .save('page.html') writes it"]
        lines += [f"  {panel.title}: {panel.sentence}" for panel in self.panels]
        return "\n".join([*lines, *(f"  Left out: {line}" for line in self.left_out)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, atomically: the printable sheet as `.png`, or the page to look at rows and latents as `.html`.

        Raises:
            ValueError: another ending.
            ModuleNotFoundError: the page without Bokeh (`pip install 'pyrovae[page]'`).
            OSError: the file cannot be written; an older one is left as it was.

        """
        ending = Path(path).suffix.lower()
        if ending == ".png":
            figure = self.figure()
            write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
        elif ending == ".html":
            self.page().save(path)
        else:
            raise ValueError(f"path ends in '{ending}': expected .png or .html.")
