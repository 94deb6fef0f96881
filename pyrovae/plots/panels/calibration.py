"""Ranks of simulations: are the guide's draws such as the posterior's?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.criticism.calibration import Calibration
from pyrovae.criticism.uniformity import envelope, nulls_for
from pyrovae.plots.panel import Content
from pyrovae.plots.style import BLUE, COLOURS, GREY, Values, as_array, axes_or_new
from pyrovae.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANKS_SHOWN = 6  # curves that can be told apart


def calibration_ranks(
    ranks: Values,
    num_draws: int,
    names: Sequence[str] | None = None,
    *,
    chosen_from: int | None = None,
    false_alarm_rate: float = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Ranks of the truth among posterior draws, as their distribution function less the uniform one.

    Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration" (2018), https://arxiv.org/abs/1804.06788. The band is that of `calibrate`'s test: a curve leaves it if
    and only if its p-value is below the false alarm rate divided by the number of quantities, so that all curves of
    right posteriors stay within with probability 95% at least. Curves of other numbers of ranks have bands of their
    own. A guide that is too narrow rises left of the middle and falls right of it; too wide, the other way round; a
    curve above zero throughout: its draws are too high.

    Args:
        ranks: whole numbers from 0 to `num_draws`, [num_simulations, num_quantities]; -1 where a simulation has none.
        num_draws: how many draws the truth was ranked among.
        names: of the quantities.
        chosen_from: how many quantities there were, if these are the worst of more.
        false_alarm_rate: how often some curve of right posteriors may leave the band.
        title: of the picture; None says how many simulations and quantities there are.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: ranks of another shape or outside their range; names of another number; chosen from fewer.

    Example:
        >>> ranks = torch.randint(0, 101, (200, 2))
        >>> calibration_ranks(ranks, 100, ["z[0]", "z[1]"]).get_xlabel()
        'rank of the truth, as a share'

    """
    values = as_array(ranks)
    _check_ranks(values, num_draws, names, chosen_from)
    num_quantities = values.shape[1] if chosen_from is None else chosen_from
    ax = axes_or_new(ax)
    held = "a whole curve" if num_quantities == 1 else f"all {num_quantities} curves"
    name_of_band = f"{1 - false_alarm_rate:.0%} band for {held}"
    highest = 0.0
    counts = np.unique((values >= 0).sum(0))
    for count in counts:  # the widest band first
        share, least, greatest = _band(int(count), num_draws, num_quantities, false_alarm_rate)
        of_count = f"{name_of_band}, {count} ranks" if len(counts) > 1 else name_of_band
        ax.fill_between(share, least, greatest, color=GREY, alpha=0.25, linewidth=0, label=of_count)
        highest = max(highest, float(np.abs([least, greatest]).max()))
    few = values.shape[1] <= len(COLOURS)
    for quantity in range(values.shape[1]):
        share, difference = _less_uniform(values[:, quantity], num_draws)
        highest = max(highest, float(np.abs(difference).max()))
        label = (f"quantity {quantity}" if names is None else names[quantity]) if few else None
        colour = COLOURS[quantity] if few else BLUE
        # Beside colour, so that curves are told apart without it.
        style = ("-", "--", "-.", ":")[quantity % 4] if few else "-"
        ax.plot(share, difference, color=colour, linestyle=style, label=label, alpha=1.0 if few else 0.4)
    ax.axhline(0.0, color=GREY, linewidth=1)
    ax.set_ylim(
        -1.15 * highest, (1.5 + 0.1 * (values.shape[1] if few else 0)) * highest
    )  # room for the legend
    ax.set(
        xlabel="rank of the truth, as a share",
        ylabel="ECDF of ranks less uniform",
        title=f"Calibration: {len(values)} simulations, {values.shape[1]} quantities"
        if title is None
        else title,
    )
    ax.legend(frameon=False, fontsize="small", ncols=2, loc="upper center")
    return ax


def _check_ranks(
    values: np.ndarray, num_draws: int, names: Sequence[str] | None, chosen_from: int | None
) -> None:
    if values.ndim != 2 or not len(values):
        raise ValueError(f"ranks has shape {list(values.shape)}: expected [num_simulations, num_quantities].")
    if values.min() < -1 or values.max() > num_draws or (values < 0).all(0).any():
        raise ValueError(
            f"ranks go from {values.min()} to {values.max()}: expected 0 to num_draws = {num_draws}."
        )
    if names is not None and len(names) != values.shape[1]:
        raise ValueError(f"got {len(names)} names for {values.shape[1]} quantities.")
    if chosen_from is not None and chosen_from < values.shape[1]:
        raise ValueError(
            f"chosen_from is {chosen_from}: expected at least {values.shape[1]}, the columns of ranks."
        )


def _band(
    num_ranks: int, num_draws: int, num_quantities: int, false_alarm_rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which values a right curve stays, at the shares from 0 to 1."""
    num_null = nulls_for(num_quantities, false_alarm_rate)
    counts = envelope(num_ranks, num_draws, false_alarm_rate / num_quantities, num_null)
    uniform = (np.arange(num_draws + 1) + 1) / (num_draws + 1)
    least, greatest = (
        np.concatenate([[0.0], np.append(count, num_ranks) / num_ranks - uniform]) for count in counts
    )
    return np.concatenate([[0.0], uniform]), least, greatest


def _less_uniform(ranks: np.ndarray, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The ranks' distribution function less the uniform one, at the shares from 0 to 1; -1 is no rank."""
    known = ranks[ranks >= 0].astype(int)
    uniform = (np.arange(num_draws + 1) + 1) / (num_draws + 1)
    difference = np.bincount(known, minlength=num_draws + 1).cumsum() / len(known) - uniform
    return np.concatenate([[0.0], uniform]), np.concatenate([[0.0], difference])


def of_calibration(result: Calibration) -> Content:
    """Are the guide's draws such as the posterior's?"""
    M, Q = len(result.ranks), result.num_tested
    frame = result.worst_first()
    sentence = f"Ranks of the truth among the guide's draws in {M} simulations from the model. "
    if result.passed:
        sentence += f"Nothing speaks against the guide in any of {Q} quantities."
    else:
        worst = frame.iloc[0]
        sentence += (
            f"The guide fails: {worst.name}, {worst['verdict']} (p = {worst['guide']:.2g}). Its draws "
            + (
                "weighted by importance pass: trust those and log_marginal, not the guide's own spread."
                if result.corrected_passed
                else "weighted by importance fail too: trust neither."
            )
        )
    names = [str(name) for name in frame.index[: min(RANKS_SHOWN, Q)]]
    columns = [result.quantities.index(name) for name in names]

    def draw(ax: Axes) -> Axes:
        rate = result.false_alarm_rate
        title = f"Calibration: {M} simulations, the {len(names)} worst of {Q} quantities"
        return calibration_ranks(
            result.ranks[:, columns],
            result.num_draws,
            names,
            chosen_from=Q,
            false_alarm_rate=rate,
            title=title,
            ax=ax,
        )

    of = f"{M} rows simulated from the model, {result.num_draws} draws each"
    return Content(draw, sentence, frame.head(10), of)


def calibration_panel(subject: Subject) -> Content:
    """If rows can be simulated."""
    content = of_calibration(subject.calibration())
    if len(subject.data.arguments) > 1:
        content = content._replace(of=f"{content.of}, in the context of rows of the data")
    return content
