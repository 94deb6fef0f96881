"""Predictive checks: does the model generate data like these?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from pyrovae.exchange.arviz_bridge import Tree
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLACK, SKY, axes_or_new
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FALSE_ALARMS = 0.05  # of a panel whose model is right
MOST_NAMED = 3  # columns, beside the axis
MOST_DATA_SETS = 200  # of the panel, for its figures

Statistic = Callable[[np.ndarray], np.ndarray]
Group = Literal["posterior_predictive", "prior_predictive"]


def row_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a row's entries, [N, ...] to [N]; of those that are not NaN, and NaN where all are."""
    rows = values.reshape(len(values), -1)
    absent = np.isnan(rows)
    if not absent.any():
        return rows.mean(1)
    with np.errstate(invalid="ignore"):
        return np.where(absent, 0, rows).sum(1) / (~absent).sum(1)


def predictive_check(
    tree: Tree,
    *,
    group: Group = "posterior_predictive",
    site: str | None = None,
    statistic: Statistic = row_mean,
    num_draws: int = 50,
    name: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How a statistic of the rows is distributed: in the data, and in data sets that the model draws.

    One empirical distribution function for the data and one for each replicated data set. Gelman, Meng, Stern,
    "Posterior Predictive Assessment of Model Fitness via Realized Discrepancies" (1996). Posterior predictive
    draws know the row that they are compared with, through its latents; prior predictive draws do not, and show
    whether the model *generates* such data. Rows of which nothing is observed are left out.

    Args:
        tree: from `pyrovae.to_arviz`.
        group: which draws.
        site: the observed site; None where there is one.
        statistic: from rows [N, *event] to [N]; their means over entries if left out. Entries that a mask or a row's
            length leaves out are NaN; rows for which it gives NaN are left out.
        num_draws: how many replicated data sets are drawn at most.
        name: of the statistic; that of the function if None.
        title: of the picture; None says what it shows.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: a site or group that is not there, or a statistic that does not give one number a row, or gives
            NaN for all rows or for a draw alone.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> tree = pv.to_arviz(pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(9, 4), num_samples=20)
        >>> predictive_check(tree, group="prior_predictive").get_title()
        'Prior predictive check of x'

    """
    if group not in ("posterior_predictive", "prior_predictive"):
        raise ValueError(f"group is {group!r}: expected 'posterior_predictive' or 'prior_predictive'.")
    names = [str(name) for name in tree.observed_data.data_vars]
    if site is None and len(names) != 1:
        raise ValueError(f"the model observes {names}: say which, with site=.")
    site = names[0] if site is None else site
    if site not in names:
        raise ValueError(f"site is '{site}': the model observes {names}.")
    observed, replicated = statistics_of(tree, group, site, statistic, num_draws)
    ax = axes_or_new(ax)
    for place, one in enumerate(replicated):
        ax.ecdf(one, color=SKY, linewidth=0.8, alpha=0.5, label="drawn" if place == 0 else None)
    ax.ecdf(observed, color=BLACK, linewidth=2, label="observed")
    kind = "Posterior" if group == "posterior_predictive" else "Prior"
    ax.set(
        xlabel=_named(statistic) if name is None else name,
        ylabel="share of rows",
        title=f"{kind} predictive check of {site}" if title is None else title,
    )
    ax.legend(frameon=False, loc="lower right")
    return ax


def _named(statistic: Statistic) -> str:
    """What a statistic is called, if it has a name."""
    if statistic is row_mean:
        return "mean of a row's entries"
    while isinstance(statistic, functools.partial):
        statistic = statistic.func
    name = getattr(statistic, "__name__", "<none>")
    return "statistic of a row, see name=" if name.startswith("<") else name


def statistics_of(
    tree: Tree, group: Group, site: str, statistic: Statistic, num_draws: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A statistic of the observed rows, and of some replicated data sets: [N] each, less rows where it is NaN."""
    data, draws = np.asarray(tree.observed_data[site]), np.asarray(getattr(tree, group)[site])
    seen = ~np.isnan(data).reshape(len(data), -1).all(1)
    data, draws = data[seen], draws.reshape(-1, *draws.shape[2:])[:, seen]
    observed = np.asarray(statistic(data))
    chosen = np.unique(np.linspace(0, len(draws) - 1, num_draws).round().astype(int))
    replicated = [np.asarray(statistic(one)) for one in draws[chosen]]
    if observed.shape != (len(data),):
        raise ValueError(
            f"the statistic gave shape {list(observed.shape)} for {len(data)} rows: expected one number a row."
        )
    known = ~np.isnan(observed)
    replicated = [one[known] for one in replicated]
    if not known.any() or any(np.isnan(one).any() for one in replicated):
        raise ValueError(
            "the statistic is NaN for every row or for some that are drawn: entries that are not observed are NaN. Use "
            "one that leaves them out, such as np.nanmean."
        )
    return observed[known], replicated


def of_predictive(tree: Tree, site: str, name: str | None = None) -> Content:
    """Does the model generate data like these? `name` is that of the statistic, the mean of a row's entries."""
    group: Group = "prior_predictive"
    observed, drawn = statistics_of(tree, group, site, row_mean, MOST_DATA_SETS)
    means, spreads = np.array([one.mean() for one in drawn]), np.array([one.std() for one in drawn])
    pairs = (observed.mean(), means), (observed.std(), spreads)
    rounding = 1e-6 * (abs(observed.mean()) + observed.std())
    above = [_share_above(drawn_figures, figure, rounding) for figure, drawn_figures in pairs]
    table = pd.DataFrame(
        {
            "observed": [figure for figure, _ in pairs],
            "drawn": [drawn_figures.mean() for _, drawn_figures in pairs],
            "share of data sets drawn above": above,
        },
        index=["mean over rows", "standard deviation over rows"],
    )
    # The observed data set is as extreme as one of n + 1; two figures, each on two sides.
    tail = np.minimum(above, 1 - np.array(above)) * len(drawn)
    odd = [str(name) for name in table.index[(tail + 1) / (len(drawn) + 1) <= FALSE_ALARMS / 4]]
    said = "the mean of a row's entries" if name is None else name
    sentence = f"Data sets drawn from the prior against {len(observed)} rows, by {said}. "
    sentence += (
        f"The model misses the statistic's {' and '.join(odd)}: few data sets that it draws have one so extreme."
        if odd
        else "Mean and spread over rows are such as the model draws."
    )
    of = f"{len(observed)} rows, {len(drawn)} data sets of as many drawn from the model, {min(50, len(drawn))} shown"
    return Content(
        lambda ax: predictive_check(tree, group=group, site=site, name=name, ax=ax), sentence, table, of
    )


def _share_above(drawn: np.ndarray, observed: float, rounding: float) -> float:
    """How many of the figures drawn lie above the observed one; of those equal to it, half."""
    equal = np.abs(drawn - observed) <= rounding
    return float(((drawn > observed) & ~equal).mean() + equal.mean() / 2)


def predictive_panel(subject: Subject) -> Content:
    """Of a site, by data sets drawn from the prior."""
    tree = subject.tree()
    names = [str(name) for name in tree.observed_data.data_vars]
    # ArviZ has other names for sites with a slash in theirs.
    site = names[0] if subject.site is None else subject.site.replace("/", ".")
    content = of_predictive(tree, site, _of_columns(subject.names if subject.site is not None else None))
    if len(subject.data) > len(subject.few):
        content = content._replace(of=f"the first {content.of}")
    return content


def _of_columns(names: Sequence[str] | None) -> str | None:
    """What the mean over a site's columns is called; None where they have no names."""
    if names is None:
        return None
    if len(names) == 1:
        return names[0]
    return f"mean of {', '.join(names)}" if len(names) <= MOST_NAMED else f"mean of {len(names)} columns"
