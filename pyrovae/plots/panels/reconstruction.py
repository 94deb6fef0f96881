"""Reconstructions: what the latents keep of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.checks import check_count
from pyrovae.plots.decoded import label_entries, shown_values, sites_shown
from pyrovae.plots.entries import entry_names, in_context, rows_in_words, shown_rows
from pyrovae.plots.grids import ImageShape, by_column, image_grid, is_strips
from pyrovae.plots.panel import Content
from pyrovae.plots.style import Values, as_array
from pyrovae.plots.subject import Subject
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reconstructions(
    vae: VAE,
    x: object,
    *context: object,
    image_shape: ImageShape | None = None,
    site: str | None = None,
    num_columns: int = 8,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    cmap: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The first rows over their reconstructions, means of p(x|z) at the posterior means of z.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        image_shape: see `image_grid`.
        site: the observed site; None where there is one.
        num_columns: rows in a line; two lines are drawn if there are that many.
        columns: names of a row's entries; a data frame's own if None.
        title: of the picture; None says what it shows.
        cmap: matplotlib's name of the colours, see `image_grid`.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: as `VAE.reconstruct`; a site that is not there.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> ax = reconstructions(pv.VAE(model, pv.guides.ExactGuide(model)), torch.rand(9, 4))

    """
    check_count("num_columns", num_columns)
    shown = vae.rows(x, *context)[: 2 * num_columns]
    means = as_array(shown_values(vae.reconstruct(shown), vae, site))
    originals = shown_rows(vae, shown, site).reshape(means.shape)
    lines = []
    whole = max(1, len(means) // num_columns)
    across = min(num_columns, len(means))
    for first in range(0, whole * across, across):
        lines += [originals[first : first + across], means[first : first + across]]
    labels = ["x", "E[x|z]"] * whole
    if is_strips(lines[0], image_shape):
        labels = ["x", "E[x|z]"]
        lines = [originals[:across], means[:across]]
    if len(sites_shown(vae, site)) > 1:
        lines = by_column(lines)
    title = "Rows and their reconstructions" if title is None else title
    columns = entry_names(vae, shown, site, columns)
    return image_grid(lines, image_shape, labels=labels, columns=columns, title=title, cmap=cmap, ax=ax)


def of_reconstructions(
    originals: Values, means: Values, reconstruction: float, draw: Callable[[Axes], Axes]
) -> Content:
    """What the latents keep of a row."""
    x, mean = as_array(originals).astype(float), as_array(means).astype(float)
    known = ~np.isnan(x)  # a mask leaves the others out
    x, mean = x.reshape(len(x), -1), np.where(known, mean.reshape(x.shape), 0.0).reshape(len(x), -1)
    known = known.reshape(x.shape)
    x = np.where(known, x, 0.0)
    average = x.sum(0) / np.maximum(known.sum(0), 1)
    error, spread = ((x - mean) ** 2).sum(), ((x - average)[known] ** 2).sum()
    sentence = (
        f"E[x|z] at the posterior means leaves {error / spread:.0%} of the variance of the entries unexplained; "
        f"E_q[log p(x|z)] is {reconstruction:.2f} nats."
        if spread > 0
        else f"E_q[log p(x|z)] is {reconstruction:.2f} nats."
    )
    return Content(draw, sentence)


def reconstructions_panel(subject: Subject) -> Content:
    """If p(x|z) has a mean."""
    vae, site = subject.vae, subject.site
    found = vae.reconstruct(subject.few)
    means = as_array(shown_values(found, vae, site))
    originals = shown_rows(vae, subject.few, site)
    reconstruction = float(subject.diagnosis.summary["value"]["reconstruction"])
    strips = is_strips(means[:1], subject.image_shape)
    shown = rows_drawn(len(means), strips)
    said = in_context(vae, subject.data, range(shown))
    of = f"{rows_in_words(0, shown)}, E[x|z] at their posterior means" + (f" ({said})" if said else "")
    of_labels = ""
    if subject.by_column:
        of += "; each column from its least number, white, to its greatest"
        labels = label_entries(found, vae, site)
        of_labels = _of_labels(originals[:, labels], means[:, labels])
        # Columns have units of their own, and shares of variance would be those of the largest.
        originals, means = by_column([originals[:, ~labels], means[:, ~labels]])
    content = of_reconstructions(
        originals,
        means,
        reconstruction,
        lambda ax: reconstructions(vae, subject.data, site=site, **subject.grid, ax=ax),
    )
    figures = (
        f"The former is of {rows_in_words(0, len(means))}, the latter"
        if "; " in content.sentence
        else "It is"
    )
    figures += f" of all {len(subject.data)} rows, {subject.draws_of_rates} draws each."
    return content._replace(sentence=f"{content.sentence} {figures}{of_labels}", of=of)


def _of_labels(originals: np.ndarray, means: np.ndarray) -> str:
    known = ~np.isnan(originals)
    if not known.any():
        return ""
    return (
        f" The most probable option is the row's own for {(originals == means)[known].mean():.0%} of labels."
    )


def rows_drawn(count: int, strips: bool, num_columns: int = 8) -> int:
    """How many of so many rows are drawn: whole lines of images, or one line's worth of strips."""
    across = min(num_columns, count)
    return across if strips else max(1, min(count, 2 * num_columns) // num_columns) * across
