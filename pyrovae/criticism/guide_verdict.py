"""What is said of a guide: by Pareto k of the rows at hand, and by rows that the model has made."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pyrovae.evidence.results import SMALL_GAP, LogMarginal
from pyrovae.evidence.reverse_check import ReverseCheck

Verdict: TypeAlias = Literal["good", "tails", "poor", "unknown"]


def guide_verdict(quality: LogMarginal, reverse: ReverseCheck | None) -> Verdict:
    """The verdict on the weights of the rows, unless simulated rows know better (see `Diagnosis.verdict`)."""
    if reverse is None:
        return quality.verdict
    if reverse.poor:
        return "poor"
    acquitted = quality.verdict != "unknown" and reverse.harmless and _like_simulated(quality, reverse)
    return "good" if acquitted else quality.verdict


def _like_simulated(quality: LogMarginal, reverse: ReverseCheck) -> bool:
    """Whether the rows' log p(x) - ELBO is about that of simulated rows, which the reverse check is of."""
    here = (quality.log_marginal - quality.elbo).mean()
    there = (reverse.log_marginal - reverse.elbo).mean()
    return bool(here < 2 * there + SMALL_GAP)


def guide_in_words(quality: LogMarginal, reverse: ReverseCheck | None) -> str:
    """The verdict, what it is from, and what the reverse check says."""
    verdict = guide_verdict(quality, reverse)
    ess = f"the weights' effective sample size is {float(quality.ess.mean()) / quality.num_samples:.1%} of "
    ess += f"{quality.num_samples} draws"
    known = ~quality.unknown
    N = int(known.sum())
    checked = (
        f"\n  {reverse}" if reverse is not None else "\n  Pareto k cannot see modes that the guide misses."
    )
    if not N:
        said = "POOR" if verdict == "poor" else "unknown"
        return f"{said}. {quality.reliability}; {ess}{checked}"
    where = "" if len(quality) == N else f" where it is known, unknown for {len(quality) - N}"
    gap = float((quality.log_marginal - quality.elbo).mean())
    text = (
        f"Pareto k is not below {quality.good_k:.2f} for {int(quality.unreliable.sum())} of {N} rows{where}, "
        f"the median k is {float(quality.khat[known].nanmedian()):.2f}; {ess}; "
        f"log p(x) - ELBO is {gap:.3f} nats on average"
    )
    if verdict == "tails":
        checked = (
            f"\n  The tails of these rows' weights are heavier than {quality.num_samples} draws can tell: their "
            f"log p(x) may err low.{checked}"
        )
    elif quality.verdict == "poor" and verdict == "poor":
        checked = f"\n  With so many bad rows the others are no better.{checked}"
    elif verdict == "good" and reverse is not None and not reverse.passed:
        checked = (
            "\n  Good is said of weighted draws, which give log p(x). Draws and means of the guide alone are not the "
            f"posterior's: log p(x) - ELBO, {gap:.3f} nats, is their KL from it.{checked}"
        )
    if reverse is None and quality.near_limit:
        checked = f"\n  That is near the limit: other rows could turn the verdict.{checked}"
    said = {"poor": "POOR", "tails": "good but for tails"}.get(verdict, "good")
    if verdict == "good" and reverse is not None and not reverse.passed:
        said = "good for importance weights"
    return f"{said}. {text}{checked}"
