"""Bokeh's widgets as this page has them: in the colours of either look, and tables that sort."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
from bokeh.models import (
    ColumnDataSource,
    DataTable,
    InlineStyleSheet,
    NumberFormatter,
    StringFormatter,
    TableColumn,
)

from pyrovae.plots.interactive.columns import Column

ROW_HEIGHT, TALLEST = 25, 330
# The page's own colours, which reach into widgets by name.
CSS = """
:host, .bk-input-group, label, .bk-slider-title { color: var(--text); font-size: 14px; }
.bk-input, .bk-btn, .bk-btn-default { background: var(--paper); color: var(--text); border-color: var(--lines); }
.bk-input:focus, .bk-btn:focus-visible, input:focus-visible { outline: 3px solid var(--accent); }
.bk-btn.bk-active { background: var(--accent); color: var(--paper); }
.noUi-target { background: var(--faint); border-color: var(--lines); }
.noUi-connect { background: var(--accent); }
.noUi-handle { background: var(--accent); border-color: var(--text); }
.noUi-handle:focus { outline: 3px solid var(--text); }
.bk-data-table, .slick-viewport, .grid-canvas {
  background: var(--paper); color: var(--text); border-color: var(--faint); }
.slick-header-columns, .slick-header-column, .slick-header-column.slick-header-sortable {
  background: var(--faint) !important; color: var(--text) !important; border-color: var(--lines); }
.slick-row, .slick-row.odd, .slick-row .slick-cell {
  background: var(--paper); color: var(--text); border-color: var(--faint); }
.slick-row.odd .slick-cell { background: var(--page); }
.slick-row .slick-cell.selected { background: var(--accent) !important; color: var(--paper) !important; }
"""


def style() -> list[InlineStyleSheet]:
    """The style sheets of a widget."""
    return [InlineStyleSheet(css=CSS)]


def figure_style() -> list[InlineStyleSheet]:
    """That of a picture, whose edges show what lies behind it."""
    return [InlineStyleSheet(css=":host { background-color: var(--paper) !important; }")]


def sorting_table(
    columns: dict[str, Column], source: ColumnDataSource, name: str, num_rows: int
) -> DataTable:
    """A table of some columns of a source, which sorts by a click, or by Enter, on its heads."""
    shown = [
        TableColumn(
            field=key,
            title=html.escape(one.title),
            formatter=StringFormatter() if one.text else NumberFormatter(format=one.format, nan_format="-"),
            width=120 if one.text else 90,
        )
        for key, one in columns.items()
    ]
    return DataTable(
        source=source,
        columns=shown,
        index_position=None,
        reorderable=False,
        name=name,
        height=min(TALLEST, ROW_HEIGHT * (num_rows + 1) + 12),
        sizing_mode="stretch_width",
        stylesheets=style(),
    )


def table_of_frame(table: pd.DataFrame, name: str) -> DataTable:
    """A frame as a table that sorts, its index first unless that only counts."""
    if not isinstance(table.index, pd.RangeIndex):
        index = " ".join(str(part) for part in table.index.names if part is not None) or " "
        table = table.copy()
        table.insert(0, index, [str(label) for label in table.index], allow_duplicates=True)
    columns = {}
    for place, title in enumerate(table.columns):
        values = table.iloc[:, place].to_numpy()
        if values.dtype.kind not in "iuf":
            values = np.array([str(value) for value in values.tolist()], dtype=object)
        columns[f"c{place}"] = Column(str(title), values)
    source = ColumnDataSource({key: one.values for key, one in columns.items()})
    return sorting_table(columns, source, name, len(table))
