"""JSB chorales: a saved deep Markov model by sequential Monte Carlo beside its ELBO.

`PYROVAE_DATA=folder python -m benchmarks.chorales_evidence model.safetensors [--build module:function]`
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor

import pyrovae as pv
from benchmarks import data, report

SEED, SAMPLES, PARTICLES = 0, 50, 1000


def evaluated(vae: pv.VAE, rows: tuple[Tensor, Tensor], particles: int) -> pd.DataFrame:
    """Nats a step of all sequences over all their steps: the bound, and log p(x) by both methods."""
    steps = float(rows[1].sum())
    bound = pv.elbo(vae, *rows, num_samples=SAMPLES, seed=SEED)
    lines: list[dict[str, Any]] = [
        {
            "by": f"ELBO, {SAMPLES} draws",
            "nats a step": -float(bound.elbo.sum()) / steps,
            "Monte Carlo error": float((bound.std_error**2).sum().sqrt()) / steps,
        }
    ]
    for name, method in (
        ("importance sampling", pv.ImportanceSampling()),
        ("sequential Monte Carlo, lookahead", pv.SequentialMonteCarlo(transition_share=0.3, lookahead=True)),
    ):
        result = pv.log_marginal(vae, *rows, num_samples=particles, method=method, seed=SEED)
        total, error = result.total
        lines.append(
            {
                "by": f"{name}, {particles} draws",
                "nats a step": -total / steps,
                "Monte Carlo error": error / steps,
                "errs high by at least": -result.total_bias / steps,
                "verdict": result.verdict,
            }
        )
    return pd.DataFrame(lines)


def main() -> None:
    """Evaluate one file on the test chorales."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what VAE.save wrote")
    parser.add_argument(
        "--build", default="benchmarks.deep_markov:deep_markov", help="makes the VAE that was saved"
    )
    parser.add_argument("--particles", type=int, default=PARTICLES)
    parser.add_argument("--write", metavar="NAME", help="keep the table in results/NAME.md and .csv")
    given = parser.parse_args()
    module, _, function = given.build.partition(":")
    build = cast("Callable[[], pv.VAE]", getattr(importlib.import_module(module), function))
    vae = build().load(given.file)
    table = evaluated(vae, data.jsb_chorales("test"), given.particles)
    settings = {"model": given.build, "data": "JSB chorales, test, 77 sequences", "seed": SEED, "threads": 1}
    if given.write:
        report.write(given.write, "A deep Markov model by its evidence", table, settings)
    else:
        print(report.text("A deep Markov model by its evidence", table, settings))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
