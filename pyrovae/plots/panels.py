"""The panels of a report: a picture, a sentence that says what it shows in these numbers, and the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyrovae.plots.checks import Group, calibration_ranks, khat, predictive_check, row_mean, statistics_of
from pyrovae.plots.curves import rate_distortion, rate_per_dimension, training_history
from pyrovae.plots.latents import latent_map, principal_shares
from pyrovae.plots.style import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.criticism.calibration import Calibration
    from pyrovae.criticism.diagnosis import Diagnosis
    from pyrovae.evidence.marginal import LogMarginal

RANKS_SHOWN = 6  # curves that can be told apart
FALSE_ALARMS = 0.05  # of a panel whose model is right


@dataclass(frozen=True)
class Panel:
    """One panel: `draw(ax)` draws the picture; a table is shown on the HTML page.

    Example:
        >>> panel = Panel("A line", lambda ax: ax.plot([0, 1]) and ax, "It rises.")

    """

    title: str
    draw: Callable[[Axes], Axes]
    sentence: str
    table: pd.DataFrame | None = None


def of_history(history: pd.DataFrame) -> Panel:
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
    return Panel("Training", lambda ax: training_history(history, ax=ax), sentence, table)


def of_latents(means: Any, labels: Any, names: list[str]) -> Panel:
    """How the rows lie."""
    shares = principal_shares(means)
    sentence = f"Posterior means of {len(means)} rows in {means.shape[1]} dimensions"
    if not shares.any():
        sentence += ", of which none differs from row to row."
    else:
        sentence += f"; the plane shown holds {shares[:2].sum():.0%} of their variance."
    if shares.any() and shares[:2].sum() < 0.5:
        sentence += " Classes that overlap here may lie apart in the others: probe() and cluster() tell."
    table = pd.DataFrame(
        {"share of variance": shares}, index=[f"component {i + 1}" for i in range(len(shares))]
    )
    return Panel(
        "Latent map", lambda ax: latent_map(means, labels, names=names, ax=ax), sentence, table.head(10)
    )


def of_weights(result: LogMarginal) -> Panel:
    """Can log p(x) be believed?"""
    verdict = {
        "unknown": "take more samples to see whether log p(x) can be relied on.",
        "good": "log p(x) and its error can be relied on.",
        "tails": "log p(x) and its error can be relied on but for the others, where it may err low, usually little: "
        "the weights' tails are heavier than so many draws can tell.",
        "poor": "for the others log p(x) is more likely too low than too high: take a richer guide, refine() it, or "
        "more samples.",
    }[result.verdict]
    sentence = f"{result.reliability}; {verdict}"
    # An infinite k (too few draws to tell) would make every mean infinite; its rows count in the sentence.
    table = (
        result.to_frame()
        .replace([np.inf, -np.inf], np.nan)
        .describe()
        .loc[["mean", "min", "25%", "50%", "75%", "max"]]
    )
    return Panel("Importance weights", lambda ax: khat(result, ax=ax), sentence, table)


def of_predictive(tree: Any, site: str) -> Panel:
    """Does the model generate data like these?"""
    group: Group = "prior_predictive"
    observed, drawn = statistics_of(tree, group, site, row_mean, 200)
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
    sentence = (
        f"Data sets drawn from the prior against {len(observed)} rows, by the mean of a row's entries. "
    )
    sentence += (
        f"The model misses the statistic's {' and '.join(odd)}: few data sets that it draws have one so extreme."
        if odd
        else "Mean and spread over rows are such as the model draws."
    )
    return Panel(
        "Predictive check", lambda ax: predictive_check(tree, group=group, site=site, ax=ax), sentence, table
    )


def _share_above(drawn: np.ndarray, observed: float, rounding: float) -> float:
    """How many of the figures drawn lie above the observed one; of those equal to it, half."""
    equal = np.abs(drawn - observed) <= rounding
    return float(((drawn > observed) & ~equal).mean() + equal.mean() / 2)


def of_rates(diagnosis: Diagnosis) -> Panel:
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
    shown = _with_whole_sites(diagnosis)
    table = rates.sort_values("rate", ascending=False).head(20).set_index("site")
    return Panel("Rate by latent dimension", lambda ax: rate_per_dimension(shown, ax=ax), sentence, table)


def _with_whole_sites(diagnosis: Diagnosis) -> pd.DataFrame:
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


def of_calibration(result: Calibration) -> Panel:
    """Are the guide's draws such as the posterior's?"""
    M, Q = result.ranks.shape
    sentence = f"Ranks of the truth among the guide's draws in {M} simulations from the model. "
    if result.passed:
        sentence += f"Nothing speaks against the guide in any of {Q} quantities."
    else:
        worst = result.to_frame().sort_values("guide", kind="stable").iloc[0]
        sentence += (
            f"The guide fails: {worst.name}, {worst['verdict']} (p = {worst['guide']:.2g}). Its draws "
            + (
                "weighted by importance pass: trust those and log_marginal, not the guide's own spread."
                if result.corrected_passed
                else "weighted by importance fail too: trust neither."
            )
        )
    names = [str(name) for name in result.to_frame().sort_values("guide", kind="stable").index[:RANKS_SHOWN]]
    columns = [result.quantities.index(name) for name in names]

    def draw(ax: Axes) -> Axes:
        calibration_ranks(result.ranks[:, columns], result.num_draws, names, chosen_from=Q, ax=ax)
        ax.set_title(f"Calibration: {M} simulations, the {len(names)} worst of {Q} quantities")
        return ax

    return Panel(
        "Calibration",
        draw,
        sentence,
        result.to_frame().sort_values("guide", kind="stable").head(10),
    )


def of_rate_distortion(curve: pd.DataFrame) -> Panel:
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
    return Panel(
        "Rate and distortion", lambda ax: rate_distortion(curve, ax=ax), sentence, curve.set_index("beta")
    )


def of_reconstructions(
    originals: Any, means: Any, reconstruction: float, draw: Callable[[Axes], Axes]
) -> Panel:
    """What the latents keep of a row."""
    x, mean = as_array(originals).astype(float), as_array(means).astype(float)
    error, spread = ((x - mean) ** 2).mean(), ((x - x.mean(0)) ** 2).mean()
    sentence = (
        f"E[x|z] at the posterior means leaves {error / spread:.0%} of the variance of the entries unexplained; "
        f"E_q[log p(x|z)] is {reconstruction:.2f} nats."
        if spread > 0
        else f"E_q[log p(x|z)] is {reconstruction:.2f} nats."
    )
    return Panel("Reconstructions", draw, sentence)
