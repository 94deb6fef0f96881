"""The rows on the page: which they are, and every figure of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from pyrovae.data import Rows
from pyrovae.evidence.results import LogMarginal
from pyrovae.exchange.cluster import cluster
from pyrovae.exchange.features import feature_names, features
from pyrovae.plots.decoded import shown_values
from pyrovae.plots.entries import as_written, context_by_row, shown_rows
from pyrovae.plots.interactive.columns import Column, column
from pyrovae.plots.interactive.looks import Look, labels_by_code, look_of
from pyrovae.plots.interactive.thumbnails import Thumbnails
from pyrovae.plots.panels.latent_space import MOST_CLASSES, in_the_plane
from pyrovae.plots.style import as_array
from pyrovae.plots.subject import Subject

MOST_ROWS, STRANGE = 2000, 100
PICTURE_BYTES = 850_000  # of rows, and as much of their reconstructions
CLUSTERS, FEWEST_CLUSTERED = 8, 20


@dataclass(frozen=True)
class PageRows:
    """The rows on the page.

    Attributes:
        places: which rows of the data, in their order, [n].
        of: how many rows the data have.
        points: where they lie on the map, [n, 2].
        axes: what the map's axes are.
        figures: by key, what is known of each row.
        entries: of a table, a row's entries and what they are reconstructed as.
        look: how rows are drawn.
        pictures: of rows that are no table.
        mean_pictures: of their reconstructions, if p(x|z) has a mean.
        size: of a picture on the page.
        notes: what is left out, and why.

    """

    places: np.ndarray
    of: int
    points: np.ndarray
    axes: tuple[str, str]
    figures: dict[str, Column]
    entries: list[tuple[Column, Column | None]]
    look: Look
    pictures: Thumbnails | None
    mean_pictures: Thumbnails | None
    size: tuple[int, int] | None
    notes: tuple[str, ...]


def page_rows(subject: Subject) -> PageRows:
    """Choose the rows and gather their figures."""
    quality, notes = subject.diagnosis.quality, []
    places = chosen_places(quality)
    some = subject.data[torch.as_tensor(places)]
    rows = shown_rows(subject.vae, some, subject.site)
    means: np.ndarray | None = None
    try:
        means = as_array(shown_values(subject.vae.reconstruct(some), subject.vae, subject.site))
    except ValueError as error:
        notes.append(f"Reconstructions. {error}")
    look = look_of(subject, rows)
    points, axes, why = _map(subject, places)
    figures = _figures(subject, places, rows, means)
    groups, why_not = _clusters(subject, some)
    if groups is not None:
        figures["cluster"] = column("cluster", groups)
    notes += [note for note in (why, why_not) if note]
    if len(places) < len(subject.data):
        notes.append(
            f"{len(subject.data) - len(places)} of {len(subject.data)} rows: the page has the {STRANGE} of lowest "
            f"log p(x), the {STRANGE} of largest Pareto k, and others evenly spaced."
        )
    entries, pictures, mean_pictures = [], None, None
    if look.kind == "table":
        entries = _entries(subject, places, rows, means)
    else:
        pictures = look.pictures(rows, PICTURE_BYTES)
        mean_pictures = None if means is None else look.pictures(look.as_long_as(rows, means), PICTURE_BYTES)
        if not pictures.exact or (mean_pictures is not None and not mean_pictures.exact):
            notes.append("some detail of the pictures, which are compressed to keep the page small.")
    return PageRows(
        places,
        len(subject.data),
        points,
        axes,
        figures,
        entries,
        look,
        pictures,
        mean_pictures,
        look.size(rows),
        tuple(notes),
    )


def chosen_places(quality: LogMarginal) -> np.ndarray:
    """All rows; of very many the strangest, and others evenly spaced."""
    count = len(quality)
    if count <= MOST_ROWS:
        return np.arange(count)
    worst = quality.khat.nan_to_num(nan=-torch.inf).numpy()
    strange = np.union1d(
        np.argsort(quality.log_marginal.numpy(), kind="stable")[:STRANGE],
        np.argsort(-worst, kind="stable")[:STRANGE],
    )
    others = np.setdiff1d(np.arange(count), strange)
    evenly = others[np.linspace(0, len(others) - 1, MOST_ROWS - len(strange)).astype(int)]
    return np.union1d(strange, evenly)


def _map(subject: Subject, places: np.ndarray) -> tuple[np.ndarray, tuple[str, str], str]:
    """Posterior means in the plane; where latents have none, log p(x) by row, and why."""
    try:
        means = features(subject.vae, subject.data)
    except ValueError as error:
        log_px = subject.diagnosis.quality.log_marginal.numpy()
        return np.column_stack([places, log_px[places]]), ("row", "log p(x)"), f"Latent map. {error}"
    points, names = in_the_plane(as_array(means).astype(float), feature_names(subject.vae))
    return points[places], (names[0], names[1] or "(at random, to keep points apart)"), ""


def _figures(
    subject: Subject, places: np.ndarray, rows: np.ndarray, means: np.ndarray | None
) -> dict[str, Column]:
    quality = subject.diagnosis.quality
    figures = {"row": Column("row", places.astype(np.int32))}
    if subject.labels is not None:
        figures["label"] = column("label", as_array(subject.labels)[places])
    log_px = quality.log_marginal.numpy()[places]
    figures["log_px"] = Column("log p(x)", log_px, "lowest")
    figures["error"] = Column("± Monte Carlo", quality.std_error.numpy()[places], "highest")
    observed = (~np.isnan(rows.reshape(len(rows), -1).astype(float))).sum(1)
    if len(np.unique(observed)) > 1:  # rows of different lengths, or with holes
        figures["observed"] = Column("entries observed", observed.astype(np.int32))
        figures["per_entry"] = Column("log p(x) per entry", log_px / np.maximum(observed, 1), "lowest")
    figures["khat"] = Column("Pareto k", quality.khat.numpy()[places], "highest")
    if means is not None:
        figures["distance"] = Column("distance to E[x|z]", _distance(rows, means), "highest")
    for number, (name, values) in enumerate(context_by_row(subject.vae, subject.data).items()):
        figures[f"context{number}"] = column(name, values[places])
    known = set(subject.names or ())
    frame = pd.DataFrame() if subject.frame is None else subject.frame.iloc[places]
    for number, name in enumerate(frame.columns):
        if str(name) not in known:
            figures[f"column{number}"] = column(str(name), as_written(frame.iloc[:, number]))
    return figures


def _distance(rows: np.ndarray, means: np.ndarray) -> np.ndarray:
    """From rows to their reconstructions, root mean square over entries, in units of each entry's spread over rows."""
    x = rows.reshape(len(rows), -1).astype(float)
    known = ~np.isnan(x)
    filled = np.where(known, x, 0.0)
    count = np.maximum(known.sum(0), 1)
    variance = np.where(known, (filled - filled.sum(0) / count) ** 2, 0.0).sum(0) / count
    # Entries that hardly vary would count for more than all the others.
    scale = np.maximum(variance, 0.01 * max(float(variance.mean()), np.finfo(float).tiny))
    squares = np.where(known, (filled - means.reshape(x.shape)) ** 2 / scale, 0.0)
    return np.sqrt(squares.sum(1) / np.maximum(known.sum(1), 1))


def _clusters(subject: Subject, some: Rows) -> tuple[np.ndarray | None, str]:
    """k-means of the posterior means, with as many clusters as there are classes; and why there are none."""
    labels = None if subject.labels is None else np.unique(as_array(subject.labels))
    count = len(labels) if labels is not None and 2 <= len(labels) <= MOST_CLASSES else CLUSTERS
    if len(some) < FEWEST_CLUSTERED:
        return None, ""
    try:
        return as_array(cluster(subject.vae, some, num_clusters=count).labels), ""
    except (ValueError, ModuleNotFoundError) as error:
        return None, f"Clusters. {error}"


def _entries(
    subject: Subject, places: np.ndarray, rows: np.ndarray, means: np.ndarray | None
) -> list[tuple[Column, Column | None]]:
    flat = rows.reshape(len(rows), -1)
    names = subject.names or [f"x[{place}]" for place in range(flat.shape[1])]
    frame = pd.DataFrame() if subject.frame is None else subject.frame.iloc[places]
    codes = labels_by_code(subject)
    found = []
    for place, name in enumerate(names):
        own = as_written(frame[name]) if name in frame else flat[:, place]
        mean = None
        if means is not None:
            decoded = means.reshape(flat.shape)[:, place]
            if place in codes:
                decoded = np.array(
                    [codes[place].get(float(code), str(code)) for code in decoded], dtype=object
                )
            mean = column(f"E[{name}|z]", decoded)
        found.append((column(name, own), mean))
    return found
