"""Whether to believe it: Pareto k, predictive checks, calibration ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyrovae.plots.style import BLACK, BLUE, COLOURS, GREY, SKY, VERMILLION, as_array, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrovae.evidence.marginal import LogMarginal

Statistic = Callable[[np.ndarray], np.ndarray]
Group = Literal["posterior_predictive", "prior_predictive"]


def khat(result: LogMarginal, *, ax: Axes | None = None) -> Axes:
    """Pareto k of every row's importance weights; not below `LogMarginal.good_k` a row's figures are not to be trusted.

    "Pareto Smoothed Importance Sampling" (Vehtari et al., 2024), https://jmlr.org/papers/v25/19-556.html.
    The picture of `arviz.plot_khat`, the same under both generations of ArviZ; figures that are not finite are
    drawn at the upper or lower edge.

    Args:
        result: from `pyrovae.log_marginal`.
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
    for chosen, colour, marker, label in (
        (~bad & ~unknown, BLUE, "o", f"below {limit:.2f}"),
        (bad, VERMILLION, "x", f"{limit:.2f} or above"),
        (unknown, GREY, "+", "unknown"),
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
                label=f"{label}: {chosen.mean():.1%} of rows",
            )
    ax.axhline(limit, color=GREY, linestyle="--", linewidth=1)
    ax.set_ylim(low - 0.05, high + 0.25 * (high - low))  # room for the legend
    ax.set(xlabel="row", ylabel="Pareto k", title=f"Importance weights, {result.num_samples} a row")
    ax.legend(frameon=False, loc="upper center", ncols=2, fontsize="small")
    return ax


def row_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a row's entries: [N, ...] to [N]."""
    return values.reshape(len(values), -1).mean(1)


def predictive_check(
    tree: Any,
    *,
    group: Group = "posterior_predictive",
    site: str | None = None,
    statistic: Statistic = row_mean,
    num_draws: int = 50,
    ax: Axes | None = None,
) -> Axes:
    """How a statistic of the rows is distributed: in the data, and in data sets that the model draws.

    One empirical distribution function for the data and one for each replicated data set. Gelman, Meng, Stern,
    "Posterior Predictive Assessment of Model Fitness via Realized Discrepancies" (1996). Posterior predictive
    draws know the row that they are compared with, through its latents; prior predictive draws do not, and show
    whether the model *generates* such data.

    Args:
        tree: from `pyrovae.to_arviz`.
        group: which draws.
        site: the observed site; None where there is one.
        statistic: from rows [N, *event] to [N]; their means over entries if left out.
        num_draws: how many replicated data sets are drawn at most.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: a site or group that is not there, or a statistic that does not give one number a row.

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
    name = "mean of a row's entries" if statistic is row_mean else getattr(statistic, "__name__", "statistic")
    kind = "Posterior" if group == "posterior_predictive" else "Prior"
    ax.set(xlabel=name, ylabel="share of rows", title=f"{kind} predictive check of {site}")
    ax.legend(frameon=False, loc="lower right")
    return ax


def statistics_of(
    tree: Any, group: Group, site: str, statistic: Statistic, num_draws: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A statistic of the observed rows [N], and of some replicated data sets, [N] each."""
    observed = np.asarray(statistic(np.asarray(tree.observed_data[site])))
    draws = np.asarray(getattr(tree, group)[site])
    draws = draws.reshape(-1, *draws.shape[2:])
    chosen = np.unique(np.linspace(0, len(draws) - 1, num_draws).round().astype(int))
    replicated = [np.asarray(statistic(one)) for one in draws[chosen]]
    if observed.shape != (len(draws[0]),):
        raise ValueError(
            f"the statistic gave shape {list(observed.shape)} for {len(draws[0])} rows: expected one number a row."
        )
    return observed, replicated


def calibration_ranks(
    ranks: Any,
    num_draws: int,
    names: Sequence[str] | None = None,
    *,
    chosen_from: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Ranks of the truth among posterior draws, as their distribution function less the uniform one.

    Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration" (2018), https://arxiv.org/abs/1804.06788. Right posteriors stay within the band, which holds all
    curves with probability 95% at least (Massart, "The Tight Constant in the Dvoretzky-Kiefer-Wolfowitz Inequality",
    1990, at 5% divided by their number). A guide that is too narrow rises left of the middle and falls right of it;
    too wide, the other way round; a curve above zero throughout: its draws are too high.

    Args:
        ranks: whole numbers from 0 to `num_draws`, [num_simulations, num_quantities]; -1 where a simulation has none.
        num_draws: how many draws the truth was ranked among.
        names: of the quantities.
        chosen_from: how many quantities there were, if these are the worst of more.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: ranks of another shape or outside their range; names of another number; chosen from fewer.

    Example:
        >>> ranks = torch.randint(0, 101, (200, 2))
        >>> calibration_ranks(ranks, 100, ["z[0]", "z[1]"]).get_xlabel()
        'rank of the truth, as a share'

    """
    values = as_array(ranks)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"ranks has shape {list(values.shape)}: expected [num_simulations, num_quantities].")
    if values.min() < -1 or values.max() > num_draws or (values < 0).all(0).any():
        raise ValueError(
            f"ranks go from {values.min()} to {values.max()}: expected 0 to num_draws = {num_draws}."
        )
    if names is not None and len(names) != values.shape[1]:
        raise ValueError(f"got {len(names)} names for {values.shape[1]} quantities.")
    num_quantities = values.shape[1] if chosen_from is None else chosen_from
    if num_quantities < values.shape[1]:
        raise ValueError(
            f"chosen_from is {chosen_from}: expected at least {values.shape[1]}, the columns of ranks."
        )
    ax = axes_or_new(ax)
    places = np.arange(num_draws + 1)
    uniform = (places + 1) / (num_draws + 1)
    fewest = int((values >= 0).sum(0).min())
    band = math.sqrt(math.log(2 * num_quantities / 0.05) / (2 * fewest))
    held = "a whole curve" if num_quantities == 1 else f"all {num_quantities} curves"
    ax.fill_between([0, 1], -band, band, color=GREY, alpha=0.25, linewidth=0, label=f"95% band for {held}")
    few = values.shape[1] <= len(COLOURS)
    highest = band
    for quantity in range(values.shape[1]):
        known = values[values[:, quantity] >= 0, quantity].astype(int)
        difference = np.bincount(known, minlength=num_draws + 1).cumsum() / len(known) - uniform
        highest = max(highest, float(np.abs(difference).max()))
        label = (f"quantity {quantity}" if names is None else names[quantity]) if few else None
        colour = COLOURS[quantity] if few else BLUE
        # Beside colour, so that curves are told apart without it.
        style = ("-", "--", "-.", ":")[quantity % 4] if few else "-"
        share = np.concatenate([[0.0], uniform])
        curve = np.concatenate([[0.0], difference])
        ax.plot(share, curve, color=colour, linestyle=style, label=label, alpha=1.0 if few else 0.4)
    ax.axhline(0.0, color=GREY, linewidth=1)
    ax.set_ylim(
        -1.15 * highest, (1.5 + 0.1 * (values.shape[1] if few else 0)) * highest
    )  # room for the legend
    ax.set(
        xlabel="rank of the truth, as a share",
        ylabel="ECDF of ranks less uniform",
        title=f"Calibration: {len(values)} simulations, {values.shape[1]} quantities",
    )
    ax.legend(frameon=False, fontsize="small", ncols=2, loc="upper center")
    return ax
