"""TARP: do balls around random points hold the truth as often as they should?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.criticism.calibration import Calibration
from pyrovae.criticism.quantities import DISTANCE
from pyrovae.criticism.simulated_ranks import NO_RANK
from pyrovae.criticism.uniformity import envelope, nulls_for
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, GREY, axes_or_new
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def tarp_coverage(result: Calibration, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Expected coverage of balls around random points, at each credibility level.

    "Sampling-Based Accuracy Testing of Posterior Estimators for General Inference" (Lemos, Coogan, Hezaveh,
    Perreault-Levasseur, 2023), https://arxiv.org/abs/2302.03026. The band is that of `calibrate`'s test: the curve
    leaves it if and only if the p-value of the distance is below the false alarm rate divided by the number of
    quantities.

    Args:
        result: `pyrovae.calibrate(..., tarp=True)`.
        title: of the picture; None says how many simulations there are.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: a calibration without `tarp=True`.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model), example=torch.zeros(5, 4))
        >>> tarp_coverage(pv.calibrate(vae, num_simulations=50, num_draws=9, tarp=True, seed=0)).get_xlabel()
        'credibility level'

    """
    ranks = _ranks(result)
    L = result.num_draws
    levels = np.concatenate([[0.0], (np.arange(L + 1) + 1) / (L + 1)])
    covered = np.concatenate([[0.0], np.bincount(ranks, minlength=L + 1).cumsum() / len(ranks)])
    rate = result.false_alarm_rate
    num_null = nulls_for(result.num_tested, rate)
    least, greatest = (
        np.concatenate([[0], count, [len(ranks)]]) / len(ranks)
        for count in envelope(len(ranks), L, rate / result.num_tested, num_null)
    )
    ax = axes_or_new(ax)
    name = f"{1 - rate:.0%} band, for {result.num_tested} quantities"
    ax.fill_between(levels, least, greatest, color=GREY, alpha=0.25, linewidth=0, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    ax.plot(levels, covered, color=BLUE, label="the guide")
    title = f"TARP: {len(ranks)} simulations" if title is None else title
    ax.set(xlabel="credibility level", ylabel="expected coverage", title=title)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax


def _ranks(result: Calibration) -> np.ndarray:
    if DISTANCE not in result.quantities:
        raise ValueError("this calibration has no distances to random points: calibrate(..., tarp=True) has.")
    ranks = result.ranks[:, result.quantities.index(DISTANCE)].numpy()
    return ranks[ranks != NO_RANK]


def of_tarp(result: Calibration) -> Content:
    """Do regions of all latents at once hold the truth as often as they should?"""
    line = result.to_frame().loc[DISTANCE]
    sentence = (
        "Balls of all latents at once hold the truth as often as they should, as far as these simulations tell"
        if line["verdict"] == "nothing against it"
        else "Balls of all latents at once do NOT hold the truth as often as they should: single latents may look "
        "right where their correlations are not"
    )
    table = result.coverage[result.coverage["quantity"] == DISTANCE].set_index("level")
    return Content(
        lambda ax: tarp_coverage(result, ax=ax),
        f"{sentence} (p = {line['guide']:.2g}).",
        table[["coverage", "std_error"]],
        f"{len(_ranks(result))} rows simulated from the model, {result.num_draws} draws each",
    )


def tarp_panel(subject: Subject) -> Content | None:
    """If the page has simulations with it."""
    result = subject.calibration() if subject.calibrates else None
    return None if result is None or DISTANCE not in result.quantities else of_tarp(result)
