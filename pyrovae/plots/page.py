"""One page of panels: as a picture, or as an HTML file."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyrovae.files import write_atomically
from pyrovae.plots.panel import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
PANEL_SIZE = (5.4, 4.1)  # inches

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1500px; margin: 0 auto; padding: 1em; }
main { display: flex; flex-wrap: wrap; column-gap: 2em; }
section { flex: 1 1 420px; min-width: 0; max-width: 700px; }
img { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.85em; display: block; overflow-x: auto; }
th, td { text-align: right; padding: 0.15em 0.7em; border-bottom: 1px solid #ddd; font-weight: normal; white-space: nowrap; }
thead th { border-bottom: 1px solid #444; }
pre { font-size: 0.85em; white-space: pre-wrap; }
h1, h2 { font-weight: 600; margin-bottom: 0.2em; }
"""  # noqa: E501


@dataclass(frozen=True)
class Report:
    """What `report` gives: a summary, the diagnosis in words, panels, and what had to be left out and why."""

    title: str
    summary: pd.DataFrame
    diagnosis: str
    panels: tuple[Panel, ...]
    left_out: tuple[str, ...]

    def figure(self) -> Figure:
        """All pictures on one page."""
        from matplotlib.figure import Figure

        lines = math.ceil(len(self.panels) / COLUMNS)
        columns = min(COLUMNS, len(self.panels))
        figure = Figure(figsize=(columns * PANEL_SIZE[0], lines * PANEL_SIZE[1] + 0.5), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        figure.suptitle(self.title, fontsize=15)
        places = figure.subplots(lines, columns, squeeze=False).flat
        for place, ax in enumerate(places):
            if place < len(self.panels):
                self.panels[place].draw(ax)
            else:
                ax.remove()
        return figure

    def html(self) -> str:
        """The page as one file: pictures inside, no scripts, nothing from elsewhere."""
        parts = [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{html.escape(self.title)}</h1>\n<p>Nats per row, higher is better, but for the rate.</p>",
            _table(self.summary),
            "<main>",
        ]
        for panel in self.panels:
            name = html.escape(panel.title)
            parts.append(f"<section>\n<h2>{name}</h2>\n<p>{html.escape(panel.sentence)}</p>")
            parts.append(f'<img alt="{name}: {html.escape(panel.sentence)}" src="{_data_uri(panel)}">')
            parts.append("" if panel.table is None else _table(panel.table))
            parts.append("</section>")
        parts.append("</main>")
        parts.append(f"<h2>Diagnosis</h2>\n<pre>{html.escape(self.diagnosis)}</pre>")
        parts += [f"<p>Left out: {html.escape(line)}</p>" for line in self.left_out]
        return "\n".join([*parts, "</body>\n</html>\n"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, atomically: the pictures as `.png`, or everything as `.html`.

        Raises:
            ValueError: another ending.
            OSError: the file cannot be written; an older one is left as it was.

        """
        ending = Path(path).suffix.lower()
        if ending == ".png":
            figure = self.figure()
            write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
        elif ending == ".html":
            page = self.html()
            write_atomically(path, lambda file: file.write_text(page, encoding="utf-8"))
        else:
            raise ValueError(f"path ends in '{ending}': expected .png or .html.")


def _data_uri(panel: Panel) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=PANEL_SIZE, layout="constrained")
    panel.draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format="png", bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(table: pd.DataFrame) -> str:
    return table.to_html(border=0, float_format=lambda value: f"{value:.4g}", na_rep="")
