"""Training curves with toggles, and the rate of each latent dimension."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from bokeh.models import CheckboxGroup, ColumnDataSource, CustomJS, FactorRange, HoverTool, Span
from bokeh.plotting import figure

from pyrovae.plots.interactive.widgets import figure_style, style
from pyrovae.plots.panels.rates import VERDICTS
from pyrovae.plots.style import COLOURS

DASHES = ("solid", "dashed", "dotdash", "dotted", "dashdot")
SHOWN = ("elbo", "elbo_valid")
NO_CURVES = ("epoch", "seconds")


@dataclass(frozen=True)
class Curves:
    """The picture of a training, its toggles, and what the page's script needs."""

    roots: dict[str, object]
    script: dict[str, object]


def training_curves(history: pd.DataFrame) -> Curves:
    """Every figure of the history by epoch; the bound's to begin with, less the first epochs, which lie far off."""
    known = [
        str(name)
        for name in history.columns
        if name not in NO_CURVES and history[name].dtype.kind in "if" and history[name].notna().any()
    ]
    data = {name: history[name].astype("float64").to_numpy() for name in ["epoch", *known]}
    whole, source = ColumnDataSource(data), ColumnDataSource(data)
    plot = figure(
        height=340,
        sizing_mode="stretch_width",
        stylesheets=figure_style(),
        tools="pan,wheel_zoom,box_zoom,reset,save",
        name="training",
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = "epoch", "nats per row"
    plot.y_range.only_visible = True
    plot.toolbar.logo = None
    lines = _lines(plot, source, known)
    plot.legend.location = "bottom_right"
    toggles = CheckboxGroup(
        labels=known,
        active=[known.index(name) for name in SHOWN if name in known],
        stylesheets=style(),
        name="toggles",
    )
    early = CheckboxGroup(
        labels=["with the first twentieth of the epochs"], active=[], stylesheets=style(), name="early"
    )
    changed = CustomJS(
        args={"toggles": toggles, "early": early},
        code="pyrovae.curves(toggles.active, early.active.length > 0)",
    )
    toggles.js_on_change("active", changed)
    early.js_on_change("active", changed)
    script: dict[str, object] = {
        "history": source,
        "history_all": whole,
        "curves": lines,
        "toggles": toggles,
        "early": early,
    }
    return Curves({"training": plot, "toggles": toggles, "early": early}, script)


def _lines(plot: figure, source: ColumnDataSource, names: list[str]) -> list[object]:
    """A curve for each figure, told apart by colour and by dashes."""
    lines = []
    for place, name in enumerate(names):
        line = plot.line(
            "epoch",
            name,
            source=source,
            color=COLOURS[place % len(COLOURS)],
            line_dash=DASHES[place % len(DASHES)],
            line_width=2,
            legend_label=name,
            visible=name in SHOWN,
        )
        plot.add_tools(
            HoverTool(renderers=[line], tooltips=[("epoch", "@epoch{0}"), (name, f"@{{{name}}}{{0.000}}")])
        )
        lines.append(line)
    return lines


def rate_bars(rates: pd.DataFrame) -> figure:
    """The rate of each latent dimension, from the greatest to the least."""
    ordered = rates[rates["rate"].notna()].sort_values("rate", ascending=False, kind="stable")
    names = [
        f"{site}[{place}]" if place != "" else str(site)
        for site, place in zip(ordered["site"], ordered["dimension"], strict=True)
    ]
    source = ColumnDataSource(
        {
            "name": names,
            "rate": ordered["rate"].astype("float64").to_numpy(),
            "verdict": ordered["verdict"].astype(str).tolist(),
            "colour": [VERDICTS[verdict][0] for verdict in ordered["verdict"]],
        }
    )
    plot = figure(
        x_range=FactorRange(factors=names),
        height=300,
        sizing_mode="stretch_width",
        stylesheets=figure_style(),
        max_width=max(320, 110 * len(names)),
        tools="xpan,xwheel_zoom,reset,save",
        name="rates",
    )
    bars = plot.vbar("name", top="rate", width=0.8, source=source, fill_color="colour", line_color="colour")
    said = [("latent", "@name"), ("rate", "@rate{0.000}"), ("verdict", "@verdict")]
    plot.add_tools(HoverTool(renderers=[bars], tooltips=said))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "latent dimension", "rate, nats per row"
    plot.xaxis.major_label_orientation = 1.2
    if len(names) > 60:
        plot.xaxis.major_label_text_font_size = "0px"
    plot.y_range.start = min(0.0, float(ordered["rate"].min()))
    plot.toolbar.logo = None
    return plot


def limit_of_k(limit: float) -> Span:
    """The line below which nothing speaks against a row."""
    return Span(location=limit, dimension="width", line_dash="dashed", line_width=1)
