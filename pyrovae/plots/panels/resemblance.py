"""Resemblance: are these rows like the model's own?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.criticism.resemblance import Resemblance, resembles
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLACK, SKY, axes_or_new
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40


def resemblance(result: Resemblance, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """How unlike the model's own rows are, by the features that differ most: the data's, and the model's.

    Args:
        result: from `pyrovae.resembles`.
        title: of the picture; None says which features these are.
        ax: to draw on; None makes a figure.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model))
        >>> resemblance(pv.resembles(vae, torch.randn(50, 4), seed=0)).get_ylabel()
        'rows'

    """
    data, drawn = result.unlikeness.numpy(), result.unlikeness_of_drawn.numpy()
    bins = np.histogram_bin_edges(np.concatenate([data, drawn]), BINS).tolist()
    ax = axes_or_new(ax)
    ax.hist(drawn, bins=bins, color=SKY, alpha=0.7, label="drawn by the model")
    ax.hist(data, bins=bins, histtype="step", color=BLACK, linewidth=1.5, label="data")
    title = f"Resemblance by {result.most_different}, p = {result.p_value:.2g}" if title is None else title
    ax.set(xlabel="unlike the model's own", ylabel="rows", title=title)
    ax.legend(frameon=False, fontsize="small")
    return ax


def of_resemblance(result: Resemblance) -> Content:
    """Are these rows like the model's own?"""
    of = f"{len(result.places)} rows, and as many that the model draws in their place"
    return Content(lambda ax: resemblance(result, ax=ax), result.sentence, result.features, of)


def resemblance_panel(subject: Subject) -> Content:
    """If rows can be simulated."""
    return of_resemblance(resembles(subject.vae, subject.few, seed=subject.seed))
