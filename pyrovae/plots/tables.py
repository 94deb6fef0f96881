"""Panels on the VAE of a table: its columns, how they go together, what it imputes, and what it finds odd."""

from __future__ import annotations

import functools
import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from pyrovae.plots.panel import Panel
from pyrovae.plots.style import BLACK, BLUE, GREY, VERMILLION, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.tables.columns import Column
    from pyrovae.tables.estimator import TabularVAE
    from pyrovae.tables.schema import Schema

_MOST_COLUMNS = 12
_MOST_PAIRS = 300
_MOST_ROWS = 1000
_HIDDEN = 0.1  # of the entries
_STRANGEST = 12


def table_panels(
    table: TabularVAE, frame: pd.DataFrame, *, num_rows: int = 1000, seed: int = 0
) -> list[Panel]:
    """What a page on a table has beside a VAE's: for `pyrovae.plots.report(..., extra=table_panels(table, frame))`.

    Args:
        table: fitted.
        frame: rows that it has not seen; at most 1000 of them are used.
        num_rows: rows that it draws.
        seed: of the entries that are hidden and imputed.

    Raises:
        ValueError, TypeError: as `TabularVAE.impute`.

    """
    few = frame.iloc[:_MOST_ROWS]
    synthetic = table.sample(num_rows)
    schema = table.schema_
    panels = [_marginals_panel(few, synthetic, schema), _pairs_panel(few, synthetic, schema)]
    panels += _intervals_panel(table, few, seed)
    return panels + _strange_panel(table, few)


def marginals(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema, ax: Axes | None = None) -> Axes:
    """Columns of real and of synthetic rows, side by side: the first twelve.

    Args:
        real: rows, as the schema has them.
        synthetic: rows that a model drew.
        schema: what their columns hold.
        ax: to draw on; None makes a figure.

    """
    ax = axes_or_new(ax, (9.0, 6.0))
    columns = schema.modelled[:_MOST_COLUMNS]
    wide = min(4, len(columns))
    high = math.ceil(len(columns) / wide)
    ax.axis("off")
    for number, column in enumerate(columns):
        left, top = number % wide, number // wide
        inset = ax.inset_axes((left / wide, 1 - (top + 0.86) / high, 0.86 / wide, 0.6 / high))
        inset.set_title(str(column.name)[:20], fontsize=7)
        inset.tick_params(labelsize=5)
        inset.set_yticks([])
        own, drawn = (column.encode(frame[column.name]) for frame in (real, synthetic))
        _two_histograms(inset, column, own[~np.isnan(own)], drawn)
    return ax


def _two_histograms(ax: Axes, column: Column, real: np.ndarray, synthetic: np.ndarray) -> None:
    if column.is_label:
        places = np.arange(column.options)
        for shift, values, colour in ((-0.2, real, BLUE), (0.2, synthetic, VERMILLION)):
            shares = np.bincount(values.astype(int), minlength=column.options) / max(1, len(values))
            ax.bar(places + shift, shares, 0.4, color=colour)
        few = column.options <= 4
        ax.set_xticks(places if few else [], [str(level)[:8] for level in column.levels or ()] if few else [])
        return
    first, last = (float(end) for end in np.quantile(real, [0.005, 0.995]))
    edges = np.linspace(first, last, 25)
    if not edges[0] < edges[-1]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, 25)
    for values, colour in ((real, BLUE), (synthetic, VERMILLION)):
        ax.hist(values.clip(edges[0], edges[-1]), edges.tolist(), density=True, color=colour, alpha=0.5)
    if column.origin is not None:
        ends = column.numbers(edges[[0, -1]]).astype(str)
        ax.set_xticks(edges[[0, -1]], [end[:10] for end in ends])


def dependence(frame: pd.DataFrame, schema: Schema) -> pd.Series:
    """How strongly each two columns go together, 0 to 1, by pair.

    Of numbers the size of Spearman's correlation, of labels Cramer's V, of a label and a number the correlation ratio
    of ranks.
    """
    columns = schema.modelled
    encoded = {column.name: column.encode(frame[column.name]) for column in columns}
    ranks = {name: pd.Series(values).rank().to_numpy() for name, values in encoded.items()}
    found = {}
    for a, b in list(combinations(columns, 2))[:_MOST_PAIRS]:
        there = ~np.isnan(encoded[a.name]) & ~np.isnan(encoded[b.name])
        one, other = ((encoded if column.is_label else ranks)[column.name][there] for column in (a, b))
        found[a.name, b.name] = (
            _association(one, other, a.is_label, b.is_label) if there.sum() > 2 else np.nan
        )
    return pd.Series(found)


def _association(one: np.ndarray, other: np.ndarray, is_label: bool, other_is_label: bool) -> float:
    if is_label and other_is_label:
        counts = pd.crosstab(one, other).to_numpy(float)
        expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
        least = min(counts.shape) - 1
        return (
            float(np.sqrt(((counts - expected) ** 2 / expected).sum() / counts.sum() / least))
            if least
            else 0.0
        )
    if is_label or other_is_label:
        label, number = (one, other) if is_label else (other, one)
        means = pd.Series(number).groupby(label).transform("mean")
        return float(np.sqrt(means.var(ddof=0) / number.var())) if number.var() > 0 else 0.0
    return float(abs(np.corrcoef(one, other)[0, 1])) if one.var() > 0 and other.var() > 0 else 0.0


def _marginals_panel(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> Panel:
    shown = min(_MOST_COLUMNS, len(schema.modelled))
    sentence = (
        f"{shown} of {len(schema.modelled)} columns: of {len(real)} real rows (blue) and {len(synthetic)} that the "
        "model drew (red)."
    )
    return Panel("Columns", functools.partial(marginals, real, synthetic, schema), sentence)


def _pairs_panel(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> Panel:
    pairs = pd.DataFrame(
        {"real": dependence(real, schema), "synthetic": dependence(synthetic, schema)}
    ).dropna()
    error = (pairs["real"] - pairs["synthetic"]).abs()

    def draw(ax: Axes) -> Axes:
        ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
        ax.plot(pairs["real"], pairs["synthetic"], ".", color=BLUE)
        ax.set(xlabel="real rows", ylabel="synthetic rows", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        return ax

    sentence = (
        f"How strongly {len(pairs)} pairs of columns go together (0: not at all, 1: wholly), in real rows and in drawn "
        f"ones: off by {error.mean():.2f} in the mean."
    )
    worst = pairs.assign(difference=pairs["synthetic"] - pairs["real"]).loc[
        error.sort_values().index[::-1][:5]
    ]
    return Panel("Pairs of columns", draw, sentence, worst)


def _intervals_panel(table: TabularVAE, frame: pd.DataFrame, seed: int) -> list[Panel]:
    """Entries that were there are hidden and imputed."""
    schema = table.schema_
    numeric = [place for place, column in enumerate(schema.modelled) if not column.is_label]
    values = schema.to_tensor(frame)
    hidden = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) < _HIDDEN
    hidden &= ~values.isnan()
    hidden[:, 0] &= ~(hidden | values.isnan()).all(1)
    if not numeric or not bool(hidden[:, numeric].any()):
        return []
    holes = frame.astype(
        {c.name: "object" for c in schema.modelled if c.dtype != "category" and c.origin is None}
    )
    for place, column in enumerate(schema.modelled):
        holes[column.name] = holes[column.name].mask(hidden[:, place].numpy())
    found = table.impute(holes, num_samples=200, num_draws=0)
    low, high = (
        np.stack(
            [
                c.encode(end[c.name]) if c.origin is not None else end[c.name].to_numpy(float)
                for c in _at(schema, numeric)
            ],
            1,
        )
        for end in (found.low, found.high)
    )
    truth, gone = values[:, numeric].numpy(), hidden[:, numeric].numpy()
    centre, size = np.nanmean(truth, 0), np.nanstd(truth, 0)
    units = np.where(size > 0, size, 1)
    low, high, truth = ((x - centre) / units for x in (low, high, truth))
    inside = ((low <= truth) & (truth <= high))[gone]
    order = np.argsort(truth[gone])[:: max(1, int(gone.sum()) // 200)]

    def draw(ax: Axes) -> Axes:
        ax.vlines(np.arange(len(order)), low[gone][order], high[gone][order], color=BLUE, alpha=0.5)
        ax.plot(truth[gone][order], ".", color=BLACK, markersize=3)
        ax.set(xlabel="hidden entries", ylabel="standard deviations of the column")
        return ax

    sentence = (
        f"{int(gone.sum())} numbers of these rows were hidden and imputed: {inside.mean():.0%} lie in their 90% "
        "intervals."
    )
    return [Panel("Imputed numbers", draw, sentence)]


def _at(schema: Schema, places: list[int]) -> list[Column]:
    return [schema.modelled[place] for place in places]


def _strange_panel(table: TabularVAE, frame: pd.DataFrame) -> list[Panel]:
    if not len(table.held_out_scores_):
        return []
    found = table.outliers(frame, look_into=1.0 if len(frame) <= _STRANGEST else 0.1)
    if not len(found.cell_p_values):
        return []
    order = found.rows.loc[found.cell_p_values.index].sort_values("score").index[:_STRANGEST]
    cells = found.cell_p_values.loc[order]

    def draw(ax: Axes) -> Axes:
        ax.imshow(-np.log10(cells.to_numpy(float)), aspect="auto", cmap="Reds", vmin=0)
        ax.set_xticks(
            range(cells.shape[1]), [str(name)[:12] for name in cells.columns], rotation=90, fontsize=6
        )
        ax.set_yticks(range(len(cells)), [str(label)[:12] for label in cells.index], fontsize=6)
        ax.set(ylabel="row")
        return ax

    sentence = (
        f"The {len(cells)} strangest of {len(frame)} rows: the darker an entry, the less probable it is given the "
        f"others of its row. {int((found.rows['p_value'] <= 0.05).sum())} rows have p-values of at most 0.05, "
        f"{0.05 * len(frame):.0f} were to be expected."
    )
    return [Panel("Strangest rows", draw, sentence, found.rows.loc[order])]
