"""Recovery and contraction: how much do rows tell of what made them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.criticism.recovery import Recovery
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, COLOURS, GREY, axes_or_new
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 4  # quantities whose points can be told apart


def recovery(
    result: Recovery, names: Sequence[str] | None = None, *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Posterior means against the truth in simulations, with the guide's standard deviations.

    Args:
        result: `pyrovae.calibrate(...).recovery`.
        names: of quantities, the first four if None.
        title: of the picture; None says how many simulations there are.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: a quantity that is not there.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model), example=torch.zeros(5, 4))
        >>> recovery(pv.calibrate(vae, num_simulations=50, num_draws=9, seed=0).recovery).get_xlabel()
        'truth'

    """
    names = result.quantities[:SHOWN] if names is None else names
    if unknown := sorted({*names} - {*result.quantities}):
        raise ValueError(f"names has {unknown}: the quantities are {list(result.quantities)}.")
    ax = axes_or_new(ax)
    for place, name in enumerate(names):
        column = result.quantities.index(name)
        truth, mean, spread = (f[:, column].numpy() for f in (result.truth, result.mean, result.spread))
        ax.errorbar(
            truth,
            mean,
            yerr=spread,
            fmt="osD^"[place % 4],
            markersize=3,
            linewidth=0.5,
            alpha=0.5,
            color=COLOURS[place % len(COLOURS)],
            label=name,
        )
    ends = np.array(ax.get_xlim())
    ax.plot(ends, ends, color=GREY, linewidth=1)
    title = f"Recovery in {len(result.truth)} simulations" if title is None else title
    ax.set(xlabel="truth", ylabel="mean ± standard deviation of the guide", title=title)
    ax.legend(frameon=False, fontsize="small")
    return ax


def contraction(result: Recovery, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Each quantity's mean contraction against the spread of its z-scores, which is 1 for an exact guide.

    "Calibrating Model-Based Inferences and Decisions" (Betancourt, 2018), https://arxiv.org/abs/1803.08393: right is
    informed, above the line is overconfident, below it too wide.

    Args:
        result: `pyrovae.calibrate(...).recovery`.
        title: of the picture; None says how many quantities there are.
        ax: to draw on; None makes a figure.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model), example=torch.zeros(5, 4))
        >>> contraction(pv.calibrate(vae, num_simulations=50, num_draws=9, seed=0).recovery).get_xlabel()
        'contraction'

    """
    frame = result.to_frame()
    ax = axes_or_new(ax)
    ax.scatter(frame["contraction"], frame["z_spread"], s=18, color=BLUE)
    if len(frame) <= 2 * SHOWN:
        for name, line in frame.iterrows():
            ax.annotate(
                str(name), (line["contraction"], line["z_spread"]), xytext=(5, 4), textcoords="offset points"
            )
    ax.axhline(1.0, color=GREY, linestyle="--", linewidth=1)
    ax.set_xlim(min(0.0, float(frame["contraction"].min())) - 0.05, 1.05)
    ax.set_ylim(0.0, 1.2 * max(1.5, float(frame["z_spread"].max())))
    title = f"Contraction of {len(frame)} quantities" if title is None else title
    ax.set(xlabel="contraction", ylabel="standard deviation of z-scores", title=title)
    return ax


def of_contraction(result: Recovery) -> Content:
    """How much do rows tell of the latents?"""
    frame = result.to_frame().sort_values("contraction", kind="stable")
    least, most = frame.iloc[0], frame.iloc[-1]
    sentence = (
        f"Rows tell most of {most.name}, whose variance they contract by {most['contraction']:.0%}"
        + (f", least of {least.name} ({least['contraction']:.0%})" if len(frame) > 1 else "")
        + ". That says nothing of whether the guide is right: z-scores of an exact one have spread 1."
    )
    of = f"{len(frame)} quantities, over the rows that calibration simulates from the model"
    return Content(lambda ax: contraction(result, ax=ax), sentence, frame.head(10), of)


def contraction_panel(subject: Subject) -> Content | None:
    """If the page has simulations, of latents that have means."""
    result = subject.calibration().recovery if subject.calibrates else None
    return None if result is None else of_contraction(result)
