"""The rate of each latent dimension: which of them carry something?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyrovae.criticism.activity import DRAWS
from pyrovae.criticism.diagnosis import Diagnosis
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, GREY, SKY, VERMILLION, axes_or_new, columns_of
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LABELS = 24
# What `pyrovae.diagnose` says of a dimension, and how its bar looks.
VERDICTS = {
    "active": (BLUE, ""),
    "collapsed": (GREY, "//"),
    "constant": (VERMILLION, ".."),
    "unknown": (SKY, "\\\\"),
}


def rate_per_dimension(rates: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """The rate KL(q(z_k|x) || p(z_k)) of each latent dimension, from the greatest to the least, in nats per row.

    Args:
        rates: columns `site, dimension, rate, verdict`, one row a latent dimension (which is "" for a site of one
            number), as `Diagnosis.rates` has them.
        title: of the picture; "Rate by latent dimension" if None.
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
    ax.set(ylabel="rate, nats per row", title="Rate by latent dimension" if title is None else title)
    ax.set_ylim(top=1.25 * max(ax.get_ylim()[1], 1e-6))  # room for the legend
    ax.legend(frameon=False, loc="upper right", fontsize="small")
    return ax


def of_rates(diagnosis: Diagnosis) -> Content:
    """Which dimensions carry something?"""
    rates, verdicts = diagnosis.rates, diagnosis.rates["verdict"]
    total = float(diagnosis.summary["value"]["rate"])
    sentence = (
        f"{(verdicts == 'active').sum()} of {len(rates)} latent dimensions are active; the rate is {total:.2f} nats in "
        "all"
    )
    if rates["rate"].notna().any():
        sentence += f", {rates['rate'].max():.2f} in the dimension that carries most"
    sentence += "."
    if (verdicts == "collapsed").all():
        sentence += " The posterior has collapsed onto the prior: z says nothing of x."
    for verdict in ("constant", "unknown"):
        if count := int((verdicts == verdict).sum()):
            sentence += f" {verdict.capitalize()}: {count}."
    shown = rates_shown(diagnosis)
    table = rates.sort_values("rate", ascending=False).head(20).set_index("site")
    of = f"{len(diagnosis.quality)} rows, {DRAWS} draws a row where there is no closed form"
    return Content(lambda ax: rate_per_dimension(shown, ax=ax), sentence, table, of)


def rates_shown(diagnosis: Diagnosis) -> pd.DataFrame:
    """The rates by dimension, and of sites as a whole where there are none by dimension."""
    rates, lines = diagnosis.rates, []
    for site, rate in zip(diagnosis.sites["site"], diagnosis.sites["rate"], strict=True):
        verdicts = rates.loc[rates["site"] == site, "verdict"]
        if rates.loc[rates["site"] == site, "rate"].isna().all() and not np.isnan(rate):
            verdict = next(v for v in ("active", "unknown", "constant", "collapsed") if v in set(verdicts))
            lines.append({"site": site, "dimension": "all", "rate": rate, "verdict": verdict})
    shown = (
        pd.concat([rates[rates["rate"].notna()], pd.DataFrame(lines)], ignore_index=True) if lines else rates
    )
    shown = shown[shown["rate"].notna()]
    if not len(shown):
        raise ValueError("no latent has a rate of its own: see the notes of the diagnosis.")
    return shown


def rates_panel(subject: Subject) -> Content | None:
    """If the guide has latents."""
    return of_rates(subject.diagnosis) if len(subject.diagnosis.rates) else None
