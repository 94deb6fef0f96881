"""log p(x) - ELBO, and what of it is the guide's family's and what its encoder's."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    biject_to,
)

from pyrovae.criticism.activity import mean_over_rows
from pyrovae.criticism.simulated_checks import refined_misses
from pyrovae.data import Rows
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.refinement import Refinement, refine
from pyrovae.evidence.results import LogMarginal
from pyrovae.pair.running import run_guide
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

GAPS = ["approximation", "amortization", "inference"]
COLUMNS = ["gap", "std_error", "mc_error", "bound"]
# Verdicts on weights whose log p(x) may be far too low.
UNTRUSTED = ("poor", "unknown")


def inference_gap(
    vae: VAE, data: Rows, num_samples: int, seed: int, *, doubted: bool, progress: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The inference gap of some rows and its two parts, with what is to be said of it.

    ELBO* is that of the best normal of each row: with covariances where the guide's posterior is a
    `MultivariateNormal`, without where it is a diagonal one. Other families are moved as `refine` moves them, which
    need not reach their best, nor need a search that did not converge: the true gap is then at most (`bound` <=) or
    at least (>=) what is said.

    log p(x) is from a normal with all covariances for each row where that is better than ELBO*'s own draws: both err
    low. Where Pareto k of many rows is bad, or refining misses part of the posterior (looked for where the guide does:
    `doubted`), the gaps that have log p(x) in them are at least what is said; one that may be off either way is "~".
    """
    seeds = seeds_from(seed)
    with vae.evaluating(), fixed_seed(next(seeds), vae.device):
        drawn = run_guide(vae, data.take(slice(0, 1), vae.device), 1)
    normals = [_normal(site.distribution) for site in drawn.values()]
    full, is_known = normals == [MultivariateNormal], normals in ([MultivariateNormal], [Normal])
    try:
        refined = _refined(vae, data, num_samples, next(seeds), full=full, progress=progress)
    except ValueError as error:
        empty = pd.DataFrame(math.nan, index=GAPS, columns=COLUMNS).astype({"bound": object})
        return empty, [f"no gaps: {str(error).splitlines()[0]}"]  # the trace of a program may follow
    best = log_marginal(refined.vae, data, num_samples=num_samples, seed=next(seeds))
    why_not = ""
    if not full:
        richer, why_not = _with_covariances(vae, data, num_samples, next(seeds), progress=progress)
        best = _better(best, richer)
    found = refined.elbo_after.where(~refined.kept, refined.elbo_before + refined.gain)
    of_best = best.variance.sqrt()
    values = {
        "approximation": (best.log_marginal - found, of_best, refined.std_error_after),
        "amortization": (refined.gain, refined.std_error_gain, torch.zeros(len(best))),
        "inference": (best.log_marginal - refined.elbo_before, of_best, refined.std_error_before),
    }
    missed = doubted and refined_misses(vae, data, num_samples, next(seeds), progress=progress)
    low = missed or bool(why_not) or best.verdict in UNTRUSTED  # log p(x) is
    bounds = {"inference": ">="} if low else {}
    if not (is_known and refined.converged):
        bounds |= {"approximation": "~" if low else "<=", "amortization": ">="}
    elif low:
        bounds["approximation"] = ">="
    lines = {
        name: (
            *mean_over_rows(gap),
            float((a**2 + b**2).sum().sqrt()) / len(gap),
            bounds.get(name, "="),
        )
        for name, (gap, a, b) in values.items()
    }
    return pd.DataFrame.from_dict(lines, orient="index", columns=COLUMNS), [
        *(
            [f"log p(x) is from narrow posteriors, for those with covariances failed: {why_not}"]
            if why_not
            else []
        ),
        *_notes(refined, best, is_known, missed),
    ]


def _refined(vae: VAE, data: Rows, num_samples: int, seed: int, *, full: bool, progress: bool) -> Refinement:
    S = max(2, num_samples)  # a single sample has no error
    return refine(vae, data, full_covariance=full, seed=seed, num_samples=S, progress=progress)


def _with_covariances(
    vae: VAE, data: Rows, num_samples: int, seed: int, *, progress: bool
) -> tuple[LogMarginal | None, str]:
    """log p(x) from posteriors refined with all covariances, or why there is none: a diagonal one is narrow."""
    seeds = seeds_from(seed)
    try:
        refined = _refined(vae, data, num_samples, next(seeds), full=True, progress=progress)
        return log_marginal(refined.vae, data, num_samples=num_samples, seed=next(seeds)), ""
    except ValueError as error:
        return None, str(error).splitlines()[0]


def _better(one: LogMarginal, other: LogMarginal | None) -> LogMarginal:
    """Of two estimates that err low the one whose weights can be averaged; of like ones the higher, in total."""
    found = [one] if other is None else [one, other]
    return max(found, key=lambda result: (result.verdict not in UNTRUSTED, result.total[0]))


def _notes(refined: Refinement, best: LogMarginal, is_known: bool, missed: bool) -> list[str]:
    """Why a gap may be other than what is said."""
    notes = []
    if not is_known:
        notes.append(
            "ELBO* need not be the best of the guide's family, which is no single normal: what is said of the family "
            "is at most its share."
        )
    if not refined.converged:
        notes.append(
            "refining did not converge: the amortization gap is at least what is said, the other at most."
        )
    bad = int(best.unreliable.sum())
    if bad:
        notes.append(
            f"Pareto k of the refined guide is not below {best.good_k:.2f} for {bad} of {len(best)} rows: log p(x), "
            "and with it the approximation and the inference gap, may be too low."
        )
    if missed:
        notes.append(
            "the guide misses part of the posterior, and so does the refined one: log p(x), and with it the "
            "approximation and the inference gap, are at least what is said."
        )
    return notes


def _normal(distribution: Distribution) -> type[Distribution] | None:
    """Which normal a posterior is in unconstrained coordinates, if it is one: without covariances, or with all."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if isinstance(distribution, TransformedDistribution):
        if distribution.transforms != [biject_to(distribution.support)]:
            return None
        return _normal(distribution.base_dist)
    return next((kind for kind in (Normal, MultivariateNormal) if isinstance(distribution, kind)), None)
