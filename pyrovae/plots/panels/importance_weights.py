"""Importance weights: can log p(x) be believed?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.criticism.guide_verdict import guide_verdict
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.reverse_check import ReverseCheck
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, GREY, VERMILLION, as_array, axes_or_new
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def khat(result: LogMarginal, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Pareto k of every row's importance weights; not below `LogMarginal.good_k` a row's figures are not to be trusted.

    "Pareto Smoothed Importance Sampling" (Vehtari et al., 2024), https://jmlr.org/papers/v25/19-556.html.
    The picture of `arviz.plot_khat`, the same under both generations of ArviZ; figures that are not finite are
    drawn at the upper or lower edge.

    Args:
        result: from `pyrovae.log_marginal`.
        title: of the picture; None says how many weights a row has.
        ax: to draw on; None makes a figure.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(4, (2, 2)))))
        >>> khat(pv.log_marginal(vae, torch.zeros(5, 4), num_samples=100)).get_ylabel()
        'Pareto k'

    """
    values, limit = as_array(result.khat), result.good_k
    unknown, bad = as_array(result.unknown), as_array(result.unreliable)
    finite = values[np.isfinite(values)]
    low = min(-0.2, float(finite.min(initial=0.0)) - 0.1)
    high = max(1.1, float(finite.max(initial=0.0)) + 0.1)
    shown = np.where(np.isnan(values), high, np.clip(values, low, high))
    ax = axes_or_new(ax)
    place = np.arange(len(values))
    known = max(1, len(values) - int(unknown.sum()))
    # The shares that `LogMarginal.share_good` and the tables beside the picture have.
    rows = "of rows" if not unknown.any() else f"of {known} known"
    for chosen, colour, marker, label in (
        (~bad & ~unknown, BLUE, "o", f"below {limit:.2f}: {(~bad & ~unknown).sum() / known:.1%} {rows}"),
        (bad, VERMILLION, "x", f"{limit:.2f} or above: {bad.sum() / known:.1%} {rows}"),
        (unknown, GREY, "+", f"unknown: {unknown.sum()} of {len(values)} rows"),
    ):
        if chosen.any():
            round_one = marker == "o"
            ax.scatter(
                place[chosen],
                shown[chosen],
                s=14 if round_one else 26,
                c=colour,
                marker=marker,
                linewidths=0 if round_one else 1.5,
                label=label,
            )
    ax.axhline(limit, color=GREY, linestyle="--", linewidth=1)
    ax.set_ylim(low - 0.05, high + 0.25 * (high - low))  # room for the legend
    title = f"Importance weights, {result.num_samples} a row" if title is None else title
    ax.set(xlabel="row", ylabel="Pareto k", title=title)
    ax.legend(frameon=False, loc="upper center", ncols=2, fontsize="small")
    return ax


def of_weights(result: LogMarginal, reverse: ReverseCheck | None = None) -> Content:
    """Can log p(x) be believed?"""
    verdict = {
        "unknown": "take more samples to see whether log p(x) can be relied on.",
        "good": "as far as these draws can tell, log p(x) and its error can be relied on.",
        "tails": "log p(x) may err low: the weights' tails are heavier than so many draws can tell.",
        "poor": "log p(x) is more likely too low than too high: take a richer guide, refine() it, or more samples.",
    }[guide_verdict(result, reverse)]
    sentence = f"{result.reliability}; {verdict}"
    if reverse is None:
        sentence += " What a guide never visits its draws cannot show."
    else:
        sentence += f" {reverse}."
    # An infinite k (too few draws to tell) would make every mean infinite; its rows count in the sentence.
    table = (
        result.to_frame()
        .replace([np.inf, -np.inf], np.nan)
        .describe()
        .loc[["mean", "min", "25%", "50%", "75%", "max"]]
    )
    of = f"{len(result)} rows, {result.num_samples} draws each"
    return Content(lambda ax: khat(result, ax=ax), sentence, table, of)


def weights_panel(subject: Subject) -> Content:
    """Those of the diagnosis."""
    return of_weights(subject.diagnosis.quality, subject.diagnosis.reverse)
