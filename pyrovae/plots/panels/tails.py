"""Tails: where does the guide put log p(x) too low?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.criticism.tails import TailCheck
from pyrovae.plots.style import BLUE, GREY, VERMILLION, as_array, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def tails(result: TailCheck, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """By how much wider draws find log p(x) higher than the guide's own, row by row, with the error of the difference.

    Args:
        result: from `pyrovae.tail_check`.
        title: of the picture; None says how many draws a row has.
        ax: to draw on; None makes a figure.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> tails(pv.tail_check(pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(9, 4))).get_xlabel()
        'row'

    """
    higher = as_array(result.wider - result.log_marginal)
    error = np.hypot(as_array(result.std_error), as_array(result.wider_error))
    light = as_array(result.too_light)
    ax = axes_or_new(ax)
    place = np.arange(len(higher))
    for chosen, colour, label in ((~light, BLUE, "nothing found"), (light, VERMILLION, "tails too light")):
        if chosen.any():
            ax.errorbar(
                place[chosen],
                higher[chosen],
                yerr=error[chosen],
                fmt="o",
                markersize=3,
                linewidth=0.7,
                color=colour,
                label=f"{label}: {chosen.mean():.1%} of rows",
            )
    ax.axhline(0.0, color=GREY, linewidth=1)
    title = f"Tails, {result.num_samples} draws a row" if title is None else title
    ax.set(xlabel="row", ylabel="log p(x) by wider draws less the guide's", title=title)
    ax.legend(frameon=False, fontsize="small")
    return ax
