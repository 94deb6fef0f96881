"""A slider for each latent dimension: what the decoder makes of a row while one dimension moves, decoded beforehand.

Grids and no decoder that runs in the browser: they are what `VAE.decode` gives, for any program, whatever its networks
and operations are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

from pyrovae.exchange.features import feature_names
from pyrovae.plots.decoded import context_of_row, decoded, posterior_means, summed_out
from pyrovae.plots.entries import in_context, shown_rows
from pyrovae.plots.interactive.looks import Look, labels_by_code
from pyrovae.plots.panels.latent_space import MOST_CLASSES
from pyrovae.plots.style import as_array
from pyrovae.plots.subject import Subject

MOST_DIMENSIONS, STEPS = 12, 15
MOST_BASES = 10
BYTES = 600_000  # of all pictures
ENDS = 0.01, 0.99  # quantiles of posterior draws

Codes: TypeAlias = Mapping[int, Mapping[float, str]]
"""Labels by the place of a table's entry and by their code."""


class Base(TypedDict):
    """A row from which sliders start: where each dimension stands, where it can go, and what is decoded there."""

    said: str
    start: list[int]
    points: list[list[float]]
    own: object
    shown: list[list[object]]


class Walks(TypedDict):
    """What the page's script needs: dimensions by name, rows to start from, and the size of a picture."""

    dimensions: list[str]
    bases: list[Base]
    size: tuple[int, int] | None
    entries: list[str]


@dataclass(frozen=True)
class _Latents:
    """Posterior means of some rows and the ends of each dimension, over all latent sites side by side."""

    sites: Mapping[str, Tensor]  # [n, ...]
    means: Tensor  # [n, K]
    low: Tensor  # [K]
    high: Tensor

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """From [n, K] to sites."""
        sizes = [site[0].numel() for site in self.sites.values()]
        parts = flat.split(sizes, 1)
        return {
            name: part.reshape(len(flat), *site.shape[1:]).to(site.dtype)
            for (name, site), part in zip(self.sites.items(), parts, strict=True)
        }


def walks_of(subject: Subject, look: Look) -> Walks:
    """Decode the grids.

    Raises:
        ValueError: latents or observations that have no mean.

    """
    vae, data = subject.vae, subject.data
    means = posterior_means(vae, data)
    flat = torch.cat([site.reshape(len(site), -1) for site in means.values()], 1).double().cpu()
    draws = vae.sample_posterior(data)
    drawn = torch.cat([draws[name][0].reshape(len(flat), -1) for name in means], 1).double().cpu()
    low, high = torch.quantile(drawn, torch.tensor(ENDS, dtype=torch.float64), dim=0)
    order = flat.var(0, correction=0).argsort(descending=True, stable=True)
    dimensions = sorted(order[:MOST_DIMENSIONS].tolist())
    names = feature_names(vae)
    walks: Walks = {
        "dimensions": [names[k] for k in dimensions],
        "bases": [],
        "size": None,
        "entries": [],
    }
    latents, used = _Latents(means, flat, low, high), 0
    codes = labels_by_code(subject) if look.kind == "table" else {}
    for row in _rows_to_start_from(subject):
        base, size = _walk(subject, look, latents, row, dimensions, codes)
        if walks["bases"] and used + size > BYTES:
            break
        walks["bases"].append(base)
        used += size
    rows = shown_rows(vae, data[:1], subject.site)
    walks["size"] = look.size(rows)
    if walks["size"] is None:
        walks["entries"] = subject.names or [f"x[{place}]" for place in range(rows[0].size)]
    return walks


def as_json(walks: Walks) -> str:
    """For a script element: no tag can begin within."""
    return json.dumps(walks, separators=(",", ":")).replace("<", "\\u003c")


def _rows_to_start_from(subject: Subject) -> list[int]:
    """The first row of each class, or rows evenly spaced."""
    count = len(subject.data)
    if subject.labels is not None:
        _, first = np.unique(as_array(subject.labels), return_index=True)
        if len(first) <= MOST_CLASSES:
            return [int(place) for place in first[:MOST_BASES]]
    return np.unique(np.linspace(0, count - 1, min(MOST_BASES, count)).astype(int)).tolist()


def _walk(
    subject: Subject, look: Look, latents: _Latents, row: int, dimensions: list[int], codes: Codes
) -> tuple[Base, int]:
    """What is decoded from one row, and how many bytes it takes."""
    mean = latents.means[row]
    grids = [_points(float(mean[k]), float(latents.low[k]), float(latents.high[k])) for k in dimensions]
    flat = mean.repeat(sum(len(points) for points, _ in grids), 1)
    place = 0
    for k, (points, _) in zip(dimensions, grids, strict=True):
        flat[place : place + len(points), k] = torch.tensor(points, dtype=flat.dtype)
        place += len(points)
    some = subject.data[row : row + 1]
    given = {name: value.to(subject.vae.device) for name, value in latents.split(flat).items()}
    given |= {
        name: value.expand(-1, len(flat), *value.shape[2:])
        for name, value in summed_out(subject.vae, some).items()
    }
    context = context_of_row(subject.data, row, len(flat))
    found = decoded(subject.vae, given, context, subject.site)
    own = shown_rows(subject.vae, some, subject.site)
    shown, picture, size = _drawn(look, found, own.reshape(1, *found.shape[1:]), codes)
    ends = np.cumsum([len(points) for points, _ in grids])
    base: Base = {
        "said": _said(subject, row),
        "start": [start for _, start in grids],
        "points": [points for points, _ in grids],
        "own": picture,
        "shown": [shown[first:last] for first, last in pairwise([0, *ends.tolist()])],
    }
    return base, size


def _drawn(look: Look, found: np.ndarray, own: np.ndarray, codes: Codes) -> tuple[list[object], object, int]:
    """Pictures, or numbers of a table; those of the row itself; and their bytes."""
    if look.kind == "table":
        numbers = found.reshape(len(found), -1).astype(float).round(6)
        rows: list[object] = [_written(row, codes) for row in numbers]
        return rows, _written(own.reshape(-1).astype(float), codes), 8 * numbers.size
    pictures = look.pictures(look.as_long_as(own, found), BYTES)
    (picture,) = look.pictures(own, BYTES).addresses
    return list(pictures.addresses), picture, pictures.num_bytes


def _written(row: np.ndarray, codes: Codes) -> list[object]:
    """The numbers of a table's row for JSON, which has no NaN; labels where the frame has them."""
    return [
        codes.get(place, {}).get(number, None if np.isnan(number) else number)
        for place, number in enumerate(row.tolist())
    ]


def _points(mean: float, low: float, high: float) -> tuple[list[float], int]:
    """Steps from one end to the other, the row's own mean among them; and which it is."""
    low, high = min(low, mean), max(high, mean)
    if high - low <= 0:
        return [mean], 0
    below = round((STEPS - 1) * (mean - low) / (high - low))
    before = np.linspace(low, mean, below + 1)[:-1] if below else np.empty(0)
    after = np.linspace(mean, high, STEPS - below) if below < STEPS - 1 else np.array([mean])
    return [*before.tolist(), mean, *after[1:].tolist()], len(before)


def _said(subject: Subject, row: int) -> str:
    said = f"row {row}"
    if subject.labels is not None:
        said += f", label {as_array(subject.labels)[row]}"
    context = in_context(subject.vae, subject.data, [row])
    return f"{said}, {context}" if context else said
