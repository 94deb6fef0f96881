"""log p(x) - ELBO, and what of it is the guide's family's and what its encoder's."""

from __future__ import annotations

import math

import pandas as pd
import torch

from pyrovae.activity import mean_over_rows
from pyrovae.evidence import log_marginal, seeds_from
from pyrovae.layout import Arguments
from pyrovae.psis import GOOD_K
from pyrovae.refinement import refine
from pyrovae.vae import VAE

GAPS = ["approximation", "amortization", "inference"]
COLUMNS = ["gap", "std_error", "mc_error"]


def inference_gap(
    vae: VAE, arguments: Arguments, num_samples: int, seed: int, *, progress: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The inference gap of some rows and its two parts, with what is to be said of it."""
    seeds = seeds_from(seed)
    notes = []
    try:
        refined = refine(
            vae, *arguments, seed=next(seeds), num_samples=max(2, num_samples), progress=progress
        )
    except ValueError as error:
        empty = pd.DataFrame(math.nan, index=GAPS, columns=COLUMNS)
        return empty, [f"no gaps: {error}"]
    best = log_marginal(refined.vae, *arguments, num_samples=num_samples, seed=next(seeds))
    if not refined.converged:
        notes.append(
            "refining did not converge: the amortization gap is at least what is said, the other at most."
        )
    bad = int(best.unreliable.sum())
    if bad:
        notes.append(
            f"Pareto k of the refined guide is not below {GOOD_K} for {bad} of {len(best)} rows: log p(x), and with it "
            "the approximation gap, may be too low."
        )
    found = refined.elbo_after.where(~refined.kept, refined.elbo_before + refined.gain)
    of_best = best.variance.sqrt()
    values = {
        "approximation": (best.log_marginal - found, of_best, refined.std_error_after),
        "amortization": (refined.gain, refined.std_error_gain, torch.zeros(len(best))),
        "inference": (best.log_marginal - refined.elbo_before, of_best, refined.std_error_before),
    }
    lines = {
        name: (*mean_over_rows(gap), float((a**2 + b**2).sum().sqrt()) / len(gap))
        for name, (gap, a, b) in values.items()
    }
    return pd.DataFrame.from_dict(lines, orient="index", columns=COLUMNS), notes
