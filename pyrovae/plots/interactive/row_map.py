"""The latent map: points to zoom, hover, brush and colour, the table of those that are chosen, and the search."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np
from bokeh.models import (
    Button,
    CategoricalColorMapper,
    CategoricalMarkerMapper,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    HoverTool,
    Legend,
    LegendItem,
    LinearColorMapper,
    NumericInput,
    Select,
    Spinner,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from pyrovae.plots.interactive.columns import Column, classes_of, in_order
from pyrovae.plots.interactive.rows import PageRows
from pyrovae.plots.interactive.widgets import figure_style, sorting_table, style
from pyrovae.plots.style import BLUE, COLOURS

MARKERS = (
    *("circle", "square", "diamond", "triangle", "inverted_triangle"),
    *("hex", "star", "plus", "x", "asterisk"),
)
MOST_IN_TABLE = 24  # entries of a table's row, beside the row's figures
MOST_IN_TIP = 8
GREY_OF_NAN = "#8a8a8a"


@dataclass(frozen=True)
class RowMap:
    """Bokeh's models of the section on rows, and what the page's script needs of them, by name."""

    roots: dict[str, object]
    script: dict[str, object]


def row_map(rows: PageRows) -> RowMap:
    """The map, the picture of Pareto k, the table and the widgets over them; all show the same rows."""
    columns = {**rows.figures, **{f"v{j}": one for j, (one, _) in enumerate(rows.entries)}}
    source = ColumnDataSource(_data(rows, columns))
    mappers, markers, fields = _colours(columns, source)
    first = "label" if "label" in columns else "log_px"
    plot, of_k, renderers = _pictures(rows, source)
    legend = Legend(items=[])
    plot.add_layout(legend, "right")
    bar = ColorBar(color_mapper=next((m for m in mappers.values() if isinstance(m, LinearColorMapper)), None))
    plot.add_layout(bar, "right")
    marked = ColumnDataSource({"x": [], "y": []})
    marker = plot.scatter("x", "y", source=marked, size=20, fill_color=None, line_width=2.5, level="overlay")
    in_table = {
        key: one for key, one in columns.items() if not key.startswith("v") or int(key[1:]) < MOST_IN_TABLE
    }
    listed = ColumnDataSource({key: [] for key in in_table})
    table = sorting_table(in_table, listed, "rows", len(rows.places))
    controls = _controls(rows, columns, fields, first)
    _join(source, listed)
    script: dict[str, object] = {
        "rows": source,
        "listed": listed,
        "marked": marked,
        "marker": marker,
        "spinner": controls["row"],
        "renderers": renderers,
        "mappers": mappers,
        "markers": markers,
        "legend": legend,
        "keys": _keys(mappers, source, renderers[0]),
        "bar": bar,
        "titles": {key: one.title for key, one in columns.items()},
        "figures": [plot, of_k],
        "shown": {
            "size": list(rows.size) if rows.size else None,
            "figures": [[key, one.title] for key, one in rows.figures.items() if key != "row"],
            "entries": [[f"v{j}", f"m{j}", one.title] for j, (one, _) in enumerate(rows.entries)],
            "measures": _measures(rows.figures),
            "colour": fields[first],
        },
    }
    roots: dict[str, object] = {"map": plot, "of_k": of_k, "listing": table, **controls}
    return RowMap(roots, script)


def _data(rows: PageRows, columns: dict[str, Column]) -> dict[str, object]:
    data: dict[str, object] = {"x": rows.points[:, 0], "y": rows.points[:, 1]}
    data |= {key: _small(one.values) for key, one in columns.items()}
    data |= {f"m{j}": _small(mean.values) for j, (_, mean) in enumerate(rows.entries) if mean is not None}
    if rows.pictures is not None:
        data["picture"] = rows.pictures.addresses
    if rows.mean_pictures is not None:
        data["mean_picture"] = rows.mean_pictures.addresses
    return data


def _small(values: np.ndarray) -> np.ndarray | list[str]:
    """In fewer bytes, which is what people read of it."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    return values.astype(np.int32) if values.dtype.kind in "iu" else values.tolist()


def _colours(
    columns: dict[str, Column], source: ColumnDataSource
) -> tuple[dict[str, object], dict[str, CategoricalMarkerMapper], dict[str, str]]:
    """By field of the source, how its values are coloured and marked; and each column's field."""
    mappers: dict[str, object] = {}
    markers: dict[str, CategoricalMarkerMapper] = {}
    fields = {}
    for key, one in columns.items():
        if key == "row":
            continue
        if one.classes:
            fields[key] = f"of_{key}"
            classes = classes_of(one.values)
            source.data[fields[key]] = classes.tolist()
            names = in_order(classes)
            mappers[fields[key]] = CategoricalColorMapper(
                factors=names, palette=[COLOURS[place % len(COLOURS)] for place in range(len(names))]
            )
            markers[fields[key]] = CategoricalMarkerMapper(
                factors=names, markers=[MARKERS[place % len(MARKERS)] for place in range(len(names))]
            )
        else:
            fields[key] = key
            finite = one.values[np.isfinite(one.values)]
            low, high = np.quantile(finite, [0.01, 0.99]) if len(finite) else (0.0, 1.0)
            mappers[key] = LinearColorMapper(
                palette=Viridis256, low=float(low), high=float(max(high, low + 1e-9)), nan_color=GREY_OF_NAN
            )
    return mappers, markers, fields


def _keys(mappers: dict[str, object], source: ColumnDataSource, dots: object) -> dict[str, list[LegendItem]]:
    """By field, what the legend says of its classes, each by the looks of its first row."""
    found = {}
    for key, mapper in mappers.items():
        if isinstance(mapper, CategoricalColorMapper):
            values = source.data[key]
            found[key] = [
                LegendItem(label={"value": name}, renderers=[dots], index=values.index(name))
                for name in mapper.factors
            ]
    return found


def _pictures(rows: PageRows, source: ColumnDataSource) -> tuple[figure, figure, list[object]]:
    tools = "pan,wheel_zoom,box_zoom,box_select,lasso_select,tap,reset,save"
    fewer = "xpan,xwheel_zoom,box_select,tap,reset"
    plot = figure(
        height=560,
        sizing_mode="stretch_width",
        stylesheets=figure_style(),
        tools=tools,
        active_scroll="wheel_zoom",
        name="map",
    )
    of_k = figure(
        height=260,
        sizing_mode="stretch_width",
        stylesheets=figure_style(),
        tools=fewer,
        active_scroll="xwheel_zoom",
        name="of_k",
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = rows.axes
    of_k.xaxis.axis_label, of_k.yaxis.axis_label = "row", "Pareto k"
    renderers = []
    for one, x, y in ((plot, "x", "y"), (of_k, "row", "khat")):
        dots = one.scatter(
            x,
            y,
            source=source,
            size=7,
            fill_color=BLUE,
            line_color=BLUE,
            fill_alpha=0.75,
            line_alpha=0.75,
            selection_fill_alpha=0.95,
            nonselection_fill_alpha=0.15,
            nonselection_line_alpha=0.15,
        )
        one.add_tools(HoverTool(renderers=[dots], tooltips=_tip(rows), attachment="horizontal"))
        one.toolbar.logo = None
        renderers.append(dots)
    return plot, of_k, renderers


def _tip(rows: PageRows) -> str:
    """What stands beside the pointer: Bokeh puts values in the places of @names, and escapes them."""
    look = "max-width:340px;margin:-5px;padding:8px;color:var(--text);background:var(--paper)"
    lines = [f"<div style='{look}'><div><b>row @row</b></div>"]
    if rows.size is not None and rows.pictures is not None:
        width, height = rows.size
        for key, name in (("picture", "x"), ("mean_picture", "E[x|z]")):
            if key == "picture" or rows.mean_pictures is not None:
                lines.append(
                    f"<figure style='display:inline-block;margin:2px'><img src='@{key}' alt='{name}' width='{width}' "
                    f"height='{height}' style='image-rendering:pixelated'><figcaption>{name}</figcaption></figure>"
                )
    for key, one in rows.figures.items():
        if key in ("row", "error"):
            continue
        value = f"@{key}" if one.text else f"@{key}{{{one.format}}}"
        error = " ± @error{0.000}" if key == "log_px" else ""
        lines.append(f"<div>{_as_it_is(one.title)}: {value}{error}</div>")
    for place, (one, mean) in enumerate(rows.entries[:MOST_IN_TIP]):
        value = f"@v{place}" if one.text else f"@v{place}{{{one.format}}}"
        of_mean = "" if mean is None else f" (E[x|z]: @m{place}{{0.[000]}})"
        lines.append(f"<div>{_as_it_is(one.title)}: {value}{of_mean}</div>")
    if len(rows.entries) > MOST_IN_TIP:
        lines.append(f"<div>and {len(rows.entries) - MOST_IN_TIP} entries more: click</div>")
    return "\n".join([*lines, "</div>"])


def _as_it_is(title: str) -> str:
    """A title as HTML in which Bokeh finds no @name and no $name to replace."""
    return html.escape(title).replace("@", "&#64;").replace("$", "&#36;").replace("{", "&#123;")


def _measures(figures: dict[str, Column]) -> list[list[object]]:
    """Key, whether the largest are strange, and in words."""
    return [
        [key, one.strange == "highest", f"{one.strange} {one.title}"]
        for key, one in figures.items()
        if one.strange
    ]


def _controls(
    rows: PageRows, columns: dict[str, Column], fields: dict[str, str], first: str
) -> dict[str, object]:
    colour = Select(
        title="Colour by",
        value=fields[first],
        options=[(fields[key], one.title) for key, one in columns.items() if key in fields],
        stylesheets=style(),
        name="colour",
    )
    colour.js_on_change("value", CustomJS(code="pyrovae.colourBy(cb_obj.value)"))
    row = NumericInput(
        title="Show row",
        value=int(rows.places[0]),
        low=0,
        high=rows.of - 1,
        width=90,
        stylesheets=style(),
        name="row",
    )
    row.js_on_change("value", CustomJS(code="pyrovae.goTo(cb_obj.value)"))
    measure = Select(
        title="The strangest rows, by",
        value="0",
        options=[(str(n), str(words)) for n, (_, _, words) in enumerate(_measures(rows.figures))],
        stylesheets=style(),
        name="measure",
    )
    count = Spinner(
        title="How many", low=1, high=len(rows.places), value=min(10, len(rows.places)), step=1, width=80
    )
    count.stylesheets = style()
    search = Button(label="Find", stylesheets=style(), name="search", width=70)
    search.js_on_click(
        CustomJS(
            args={"measure": measure, "count": count},
            code="pyrovae.find(Number(measure.value), count.value)",
        )
    )
    return {"colour": colour, "row": row, "measure": measure, "count": count, "search": search}


def _join(source: ColumnDataSource, listed: ColumnDataSource) -> None:
    source.selected.js_on_change("indices", CustomJS(code="pyrovae.brushed(Array.from(cb_obj.indices))"))
    listed.selected.js_on_change("indices", CustomJS(code="pyrovae.picked(Array.from(cb_obj.indices))"))
