"""The latent map: where rows lie in latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import Tensor

from pyrovae.exchange.features import feature_names, features
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, COLOURS, GREY, Values, as_array, axes_or_new
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES, LONGEST_NAME = 20, 20
MOST_LARGEST = MOST_CLASSES - 1  # of more classes than these, that are told apart
MARKERS = "osD^vP*X<>"


def latent_map(
    means: Values,
    labels: Values | None = None,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    cmap: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Posterior means [N, K], on their first two principal components where K > 2.

    Args:
        means: [N, K], from `VAE.encode` or `pyrovae.features`.
        labels: [N], classes (one glyph each) or numbers (one colour each, if there are more than 20 different). Of
            more than 20 classes with names of several letters the largest 19 are told apart, the others are grey.
        names: of the K columns; z[0], z[1] and so on if None.
        title: of the picture; "Latent map" if None.
        cmap: matplotlib's name of the colours of numbers; "viridis" if None.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: means of another shape, or labels or names of another number.

    Example:
        >>> latent_map(torch.randn(10, 2), labels=[0, 1] * 5).get_xlabel()
        'E[z[0]|x]'

    """
    points = as_array(means).astype(float)
    if points.ndim != 2:
        raise ValueError(f"means has shape {list(points.shape)}: expected [N, K].")
    classes = None if labels is None else as_array(labels)
    if classes is not None and len(classes) != len(points):
        raise ValueError(f"got {len(classes)} labels for {len(points)} rows.")
    if names is None:
        names = [f"z[{k}]" for k in range(points.shape[1])]
    if len(names) != points.shape[1]:
        raise ValueError(f"got {len(names)} names for {points.shape[1]} columns.")
    ax = axes_or_new(ax)
    points, axis_names = in_the_plane(points, names)
    if classes is None:
        ax.scatter(points[:, 0], points[:, 1], s=12, color=BLUE, alpha=0.7, linewidths=0)
    else:
        _by_label(ax, points, classes, cmap or "viridis")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], title="Latent map" if title is None else title)
    if not axis_names[1]:
        ax.set_yticks([])
    return ax


def principal_shares(means: Values) -> np.ndarray:
    """The share of the variance along each principal component of some means [N, K]."""
    points = as_array(means).astype(float)
    singular = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return singular**2 / max((singular**2).sum(), np.finfo(float).tiny)


def in_the_plane(points: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Posterior means [N, K] as two numbers a row, and what these are: principal components where K > 2."""
    if points.shape[1] == 1:
        height = np.random.default_rng(0).uniform(size=len(points))  # so that rows do not hide each other
        return np.column_stack([points[:, 0], height]), [f"E[{names[0]}|x]", ""]
    if points.shape[1] == 2 or len(points) == 1:  # one row has no principal components
        return points[:, :2], [f"E[{name}|x]" for name in names[:2]]
    shares = principal_shares(points)
    centred = points - points.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2]
    # The sign of a singular vector is arbitrary; the same picture on every machine needs one.
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    axis_names = [f"principal component {i + 1} of E[z|x] ({shares[i]:.0%})" for i in range(2)]
    return centred @ directions[:2].T, axis_names


def _by_label(ax: Axes, points: np.ndarray, labels: np.ndarray, cmap: str) -> None:
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) > MOST_CLASSES and labels.dtype.kind in "iuf":
        drawn = ax.scatter(points[:, 0], points[:, 1], s=12, c=labels, cmap=cmap, linewidths=0)
        ax.figure.colorbar(drawn, ax=ax, label="label")
        return
    short = all(len(str(label)) == 1 for label in classes)
    if len(classes) > MOST_CLASSES and not short:
        largest = np.sort(np.argsort(-sizes, kind="stable")[:MOST_LARGEST])
        others = points[~np.isin(labels, classes[largest])]
        said = f"{len(classes) - len(largest)} others"
        ax.scatter(others[:, 0], others[:, 1], s=8, color=GREY, alpha=0.6, linewidths=0, label=said)
        classes = classes[largest]
    for place, label in enumerate(classes):
        glyph = f"${label}$" if short else MARKERS[place % len(MARKERS)]
        chosen = points[labels == label]
        ax.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=26 if short else 14,
            marker=glyph,
            color=COLOURS[place % len(COLOURS)],
            linewidths=0.3,
            label=_short(str(label)),
        )
    if not short:
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def of_latents(means: Tensor, labels: Values | None, names: list[str]) -> Content:
    """How the rows lie."""
    shares = principal_shares(means)
    sentence = f"Posterior means of {len(means)} rows in {means.shape[1]} dimensions"
    if not shares.any():
        sentence += ", of which none differs from row to row."
    else:
        sentence += f"; the plane shown holds {shares[:2].sum():.0%} of their variance."
    if shares.any() and shares[:2].sum() < 0.5:
        sentence += " Classes that overlap here may lie apart in the others: probe() and cluster() tell."
    table = pd.DataFrame(
        {"share of variance": shares}, index=[f"component {i + 1}" for i in range(len(shares))]
    )
    of = f"{len(means)} rows, posterior means (over 100 draws a row where there is no closed form)"
    return Content(lambda ax: latent_map(means, labels, names=names, ax=ax), sentence, table.head(10), of)


def latent_map_panel(subject: Subject) -> Content:
    """If latents have means."""
    means = features(subject.vae, subject.data)
    return of_latents(means, subject.labels, feature_names(subject.vae))
