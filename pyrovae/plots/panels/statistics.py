"""Statistics of the data among those of data sets that the model draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.criticism.predictive import PredictiveCheck
from pyrovae.plots.style import GREY, SKY, VERMILLION, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def predictive_statistics(
    result: PredictiveCheck, *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Each statistic of the data among those drawn, in standard deviations of the latter from their mean.

    Args:
        result: from `pyrovae.predictive_check`.
        title: of the picture; None says how many data sets were drawn.
        ax: to draw on; None makes a figure.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae, x = pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(50, 4)
        >>> found = pv.predictive_check(vae, x, statistics={"mean": torch.mean}, num_draws=20, seed=0)
        >>> predictive_statistics(found).get_title()
        'Statistics of 20 data sets drawn'

    """
    frame = result.to_frame()
    scale = frame["spread"].where(frame["spread"] > 0, 1.0)
    drawn = ((result.drawn - frame["drawn"]) / scale).to_numpy()
    observed = ((frame["observed"] - frame["drawn"]) / scale).to_numpy()
    ax = axes_or_new(ax)
    places = np.arange(len(frame))
    for place in places:
        ax.scatter(drawn[:, place], np.full(len(drawn), place), s=12, color=SKY, alpha=0.3, linewidths=0)
    ax.scatter(observed, places, marker="D", s=30, color=VERMILLION, label="data", zorder=3)
    ax.axvline(0.0, color=GREY, linewidth=1)
    labels = [f"{name}, p = {p:.2g}" for name, p in frame["p_value"].items()]
    ax.set_yticks(places, labels)
    ax.set_ylim(-0.5, len(frame) - 0.5)
    title = f"Statistics of {len(drawn)} data sets drawn" if title is None else title
    ax.set(xlabel="standard deviations from the mean of those drawn", title=title)
    ax.legend(frameon=False, fontsize="small")
    return ax
