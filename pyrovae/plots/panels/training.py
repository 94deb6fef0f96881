"""Training: has it converged, and has it gone too far?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, VERMILLION, axes_or_new, columns_of
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_history(history: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """ELBO by epoch, in nats per row: training rows (while trained on) and validation rows, if logged.

    Args:
        history: what `pyrovae.fit` returned.
        title: of the picture; "Training" if None.
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
    ax.set(xlabel="epoch", ylabel="ELBO, nats per row", title="Training" if title is None else title)
    # The first epochs fall far below the rest and would flatten the curve.
    settled = history["elbo"].iloc[len(history) // 20 :].replace([np.inf, -np.inf], np.nan).min()
    if len(history) > 1 and np.isfinite(settled):
        ax.set_ylim(bottom=float(settled))
    ax.legend(frameon=False, loc="lower right")
    return ax


def of_history(history: pd.DataFrame) -> Content:
    """Has training converged, and has it gone too far?"""
    first, last = history.iloc[0], history.iloc[-1]
    chosen = {"first": first, "last": last}
    sentence = f"After {len(history)} epochs the training rows' ELBO is {last.elbo:.2f} nats."
    if history["elbo_valid"].notna().any():
        smooth = history["elbo_valid"].rolling(max(1, len(history) // 20), min_periods=1).mean()
        best = history.iloc[int(smooth.to_numpy().argmax())]
        chosen["best, smoothed"] = best
        lost = float(smooth.max() - smooth.iloc[-1])
        gap = last.elbo - last.elbo_valid
        sentence += f" The validation rows' is {last.elbo_valid:.2f}, {abs(gap):.2f} {'below' if gap > 0 else 'above'}."
        if best.epoch > 0.9 * last.epoch:
            sentence += " Smoothed, it was best in the last tenth of the epochs: more may help."
        else:
            sentence += f" Smoothed, it was best at epoch {best.epoch:.0f}, and has lost {lost:.2f} since."
    table = pd.DataFrame(chosen).T[["epoch", "elbo", "reconstruction", "rate", "elbo_valid"]]
    of = f"{len(history)} epochs; training rows while they were trained on, validation rows after each, one draw a row"
    return Content(lambda ax: training_history(history, ax=ax), sentence, table, of)


def training_panel(subject: Subject) -> Content | None:
    """If there is a history."""
    return None if subject.history is None else of_history(subject.history)
