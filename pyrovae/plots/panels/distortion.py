"""Distortion against rate: what does a nat of rate buy?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, GREEN, axes_or_new, columns_of
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rate_distortion(curve: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Distortion -E_q[log p(x|z)] against rate, one point for each beta, in nats per row.

    "Fixing a Broken ELBO" (Alemi, Poole, Fischer, Dillon, Saurous, Murphy, 2018), https://arxiv.org/abs/1711.00464.
    Along the dotted line through the point of beta = 1 (or the best, if there is none) the ELBO is the same.

    Args:
        curve: columns `beta, rate, distortion`; errors are drawn from `rate_error` and `distortion_error`,
            if there.
        title: of the picture; "Rate and distortion" if None.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: a table without these columns.

    Example:
        >>> import pandas as pd
        >>> curve = pd.DataFrame({"beta": [0.5, 1.0, 2.0], "rate": [9.0, 7.0, 4.0], "distortion": [8.0, 9.0, 13.0]})
        >>> rate_distortion(curve).get_xlabel()
        'rate, nats per row'

    """
    columns_of(curve, ("beta", "rate", "distortion"), "pyrovae's rate-distortion curve")
    ax = axes_or_new(ax)
    ordered = curve.sort_values("rate", kind="stable")
    errors = [ordered.get(f"{name}_error") for name in ("rate", "distortion")]
    errors = [error if error is not None and error.notna().all() else None for error in errors]
    ax.errorbar(
        ordered["rate"],
        ordered["distortion"],
        xerr=errors[0],
        yerr=errors[1],
        color=BLUE,
        marker="o",
        capsize=2,
    )
    for beta, rate, distortion in ordered[["beta", "rate", "distortion"]].itertuples(index=False):
        ax.annotate(f"β = {beta:g}", (rate, distortion), xytext=(6, 5), textcoords="offset points")
    total = (ordered["rate"] + ordered["distortion"]).to_numpy()
    at_one = ordered["beta"].to_numpy() == 1
    bound = float(total[at_one][0] if at_one.any() else total.min())
    ends = np.array([ordered["rate"].min(), ordered["rate"].max()])
    ax.plot(ends, bound - ends, color=GREEN, linestyle=":", label=f"ELBO {-bound:.2f}")
    ax.margins(x=0.25, y=0.15)  # room for the labels
    title = "Rate and distortion" if title is None else title
    ax.set(xlabel="rate, nats per row", ylabel="distortion, nats per row", title=title)
    ax.legend(frameon=False, loc="upper right")
    return ax


def of_rate_distortion(curve: pd.DataFrame) -> Content:
    """What a nat of rate buys."""
    bound = -(curve["rate"] + curve["distortion"])
    best = curve.iloc[int(bound.to_numpy().argmax())]
    low, high = (
        curve.iloc[int(place)]
        for place in (curve["beta"].to_numpy().argmin(), curve["beta"].to_numpy().argmax())
    )
    sentence = (
        f"As beta goes from {low['beta']:g} to {high['beta']:g} the rate goes from {low['rate']:.2f} to "
        f"{high['rate']:.2f} nats; the "
        f"ELBO is best, {bound.max():.2f}, at beta = {best['beta']:g}."
    )
    of = f"{len(curve)} models, one for each beta; rows and draws are those that the table was made of"
    return Content(lambda ax: rate_distortion(curve, ax=ax), sentence, curve.set_index("beta"), of)


def rate_distortion_panel(subject: Subject) -> Content | None:
    """If there is a curve."""
    return None if subject.rate_distortion is None else of_rate_distortion(subject.rate_distortion)
