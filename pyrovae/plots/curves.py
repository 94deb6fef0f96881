"""Curves and bars from tables: training, rate per dimension, rate against distortion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.plots.style import BLUE, GREEN, GREY, SKY, VERMILLION, axes_or_new, columns_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_LABELS = 24
# What `pyrovae.diagnose` says of a dimension, and how its bar looks.
VERDICTS = {
    "active": (BLUE, ""),
    "collapsed": (GREY, "//"),
    "constant": (VERMILLION, ".."),
    "unknown": (SKY, "\\\\"),
}


def training_history(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ELBO by epoch, in nats per row: training rows (while trained on) and validation rows, if logged.

    Args:
        history: what `pyrovae.fit` returned.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: a table without the columns of `fit`.

    Example:
        >>> import pandas as pd
        >>> history = pd.DataFrame({"epoch": [1, 2], "elbo": [-9.0, -8.0], "elbo_valid": [-9.0, -8.5]})
        >>> training_history(history).get_ylabel()
        'ELBO, nats per row'

    """
    columns_of(history, ("epoch", "elbo", "elbo_valid"), "pyrovae.fit()")
    ax = axes_or_new(ax)
    marker = "o" if len(history) == 1 else None
    ax.plot(history["epoch"], history["elbo"], color=BLUE, marker=marker, label="training")
    if history["elbo_valid"].notna().any():
        valid = history["elbo_valid"]
        ax.plot(history["epoch"], valid, color=VERMILLION, linestyle="--", marker=marker, label="validation")
    ax.set(xlabel="epoch", ylabel="ELBO, nats per row", title="Training")
    # The first epochs fall far below the rest and would flatten the curve.
    settled = history["elbo"].iloc[len(history) // 20 :].replace([np.inf, -np.inf], np.nan).min()
    if len(history) > 1 and np.isfinite(settled):
        ax.set_ylim(bottom=float(settled))
    ax.legend(frameon=False, loc="lower right")
    return ax


def rate_per_dimension(rates: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The rate KL(q(z_k|x) || p(z_k)) of each latent dimension, from the greatest to the least, in nats per row.

    Args:
        rates: columns `site, dimension, rate, verdict`, one row a latent dimension (which is "" for a site of one
            number), as `Diagnosis.rates` has them.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: a table without these columns.

    Example:
        >>> import pandas as pd
        >>> carries = {"site": "z", "dimension": 0, "rate": 1.2, "verdict": "active"}
        >>> empty = {"site": "z", "dimension": 1, "rate": 0.0, "verdict": "collapsed"}
        >>> len(rate_per_dimension(pd.DataFrame([carries, empty])).patches)
        2

    """
    columns_of(rates, ("site", "dimension", "rate", "verdict"), "pyrovae.diagnose()")
    ax = axes_or_new(ax)
    ordered = rates.sort_values("rate", ascending=False, kind="stable").reset_index(drop=True)
    for verdict, (colour, hatch) in VERDICTS.items():
        chosen = ordered[ordered["verdict"] == verdict]
        if len(chosen):
            ax.bar(chosen.index, chosen["rate"], color=colour, hatch=hatch, edgecolor="white", label=verdict)
    if len(ordered) < 4:
        middle = (len(ordered) - 1) / 2
        ax.set_xlim(middle - 2, middle + 2)  # few bars need not be broad
    if len(ordered) <= MOST_LABELS:
        names = [
            f"{site}[{place}]" if place != "" else str(site)
            for site, place in zip(ordered["site"], ordered["dimension"], strict=True)
        ]
        crowded = len(ordered) > 8 or max(map(len, names)) > 6
        ax.set_xticks(range(len(ordered)), names, rotation=90 if crowded else 0)
        ax.set_xlabel("latent dimension")
    else:
        ax.set_xlabel("latent dimension, ordered by rate")
    ax.set(ylabel="rate, nats per row", title="Rate by latent dimension")
    ax.set_ylim(top=1.25 * max(ax.get_ylim()[1], 1e-6))  # room for the legend
    ax.legend(frameon=False, loc="upper right", fontsize="small")
    return ax


def rate_distortion(curve: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Distortion -E_q[log p(x|z)] against rate, one point for each beta, in nats per row.

    "Fixing a Broken ELBO" (Alemi, Poole, Fischer, Dillon, Saurous, Murphy, 2018), https://arxiv.org/abs/1711.00464.
    Along the dotted line through the point of beta = 1 (or the best, if there is none) the ELBO is the same.

    Args:
        curve: columns `beta, rate, distortion`; errors are drawn from `rate_error` and `distortion_error`,
            if there.
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
    ax.set(xlabel="rate, nats per row", ylabel="distortion, nats per row", title="Rate and distortion")
    ax.legend(frameon=False, loc="upper right")
    return ax
