"""log p(x) that can be trusted row by row: what "auto" costs, and what plain importance sampling would need.

The model of `benchmarks.evidence` (networks 784-200-200-50 on statically binarized MNIST), rows of the test set, three
ways: the guide's weights at several numbers of draws, `method="auto"`, and long annealing as the reference on fewer
rows. Run: python -m benchmarks.evidence_rows; PYROVAE_DATA names the folder of data sets, --weights a file in which the
trained weights are kept between runs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import pyrovae as pv
from benchmarks import data, report
from benchmarks.evidence import EPOCHS, HIDDEN, D, K, _pair, trained

NUM_ROWS, REFERENCE_ROWS = 1000, 100
DRAWS = (50, 500, 5000)
MOST_DRAWS = 4000
TARGET = 0.15
CHAINS, LEAPFROG_STEPS = 16, 3


def model(weights: str | None) -> tuple[pv.VAE, Tensor]:
    """The trained pair and its test rows; trained once where the weights are kept."""
    if weights is not None and Path(weights).is_file():
        test = data.static_mnist()[2]
        return _pair().load(weights), test
    vae, test = trained(torch.device("cpu"))
    if weights is not None:
        vae.save(weights)
    return vae, test


def timed(run: Callable[[], pv.LogMarginal]) -> tuple[pv.LogMarginal, float]:
    """What it gives, and the seconds of a processor that it takes: they count nobody else's work."""
    start = time.process_time()
    return run(), time.process_time() - start


def line(name: str, result: pv.LogMarginal, seconds: float, reference: Tensor) -> dict[str, object]:
    """One line of the table; the difference is of the rows that have a reference."""
    trusted = ~result.unreliable & ~result.unknown
    gap = result.log_marginal[: len(reference)] - reference
    return {
        "what": name,
        "rows": len(result),
        "mean, nats": float(result.log_marginal.mean()),
        "less the reference": float(gap.mean()),
        "its error": float(gap.std() / len(gap) ** 0.5),
        "median std_error": float(result.std_error.median()),
        "k good, or bounds < 1 nat": float(trusted.double().mean()),
        "seconds of 1000 rows": seconds * 1000 / len(result),
    }


def needed(draws: Sequence[int], errors: Sequence[float], target: float) -> float:
    """Draws at which the bias would be the target, by the power law through the last two that were measured."""
    (a, b), (low, high) = errors[-2:], draws[-2:]
    slope = math.log(a / b) / math.log(high / low)
    return high * (b / target) ** (1 / slope)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--temperatures", type=int, default=10000)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of which the kept weights are")
    parser.add_argument("--reference-rows", type=int, default=REFERENCE_ROWS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    vae, test = model(given.weights)
    x = test[: given.rows]
    vae.rows(x)
    annealing = pv.AnnealedImportanceSampling(given.temperatures, LEAPFROG_STEPS)
    auto, seconds = timed(
        lambda: pv.log_marginal(vae, x, method=pv.EscalatingSampling(TARGET), num_samples=MOST_DRAWS, seed=0)
    )
    print(auto, f"{seconds:.0f} s", flush=True)
    plain = [timed(lambda S=S: pv.log_marginal(vae, x, num_samples=S, seed=0)) for S in DRAWS]
    long, seconds_of_long = timed(
        lambda: pv.log_marginal(vae, x[: given.reference_rows], method=annealing, num_samples=CHAINS, seed=1)
    )
    # Annealing errs low as well, by half its variance in the mean; that much is given back.
    reference = long.log_marginal - long.bias
    lines = [
        *(line(f"guide, {S} draws", *found, reference) for S, found in zip(DRAWS, plain, strict=True)),
        line('"auto"', auto, seconds, reference),
        line(
            f"annealing, {given.temperatures} temperatures, {CHAINS} chains", long, seconds_of_long, reference
        ),
    ]
    # The bias of the guide's weights, by the auto's estimates of the same rows.
    errors = [float((auto.log_marginal - auto.bias - found.log_marginal).mean()) for found, _ in plain]
    of_auto = max(-float(auto.bias.mean()), auto.total[1] / len(auto))
    draws = needed(DRAWS, errors, of_auto)
    seconds_of_draw = plain[-1][1] / DRAWS[-1]
    findings = (
        f"```\n{auto}\n```\n\nThe guide's weights err low by {', '.join(f'{e:.3f}' for e in errors)} nats with "
        f'{", ".join(map(str, DRAWS))} draws (against "auto"). By the power law through the last two they would need '
        f'{draws:.3g} draws for the error of "auto" in the mean, {of_auto:.4f} nats: {draws * seconds_of_draw:.3g} '
        f'seconds of a processor, {draws * seconds_of_draw / seconds:.3g} times those of "auto".'
    )
    settings = {
        "networks": f"{D}-{HIDDEN}-{HIDDEN}-{K}, {given.epochs} epochs of statically binarized MNIST",
        "rows": f"the first {given.rows} of the test set",
        "auto": f"target_error={TARGET}, at most {MOST_DRAWS} draws",
        "reference": f"{given.reference_rows} rows, {given.temperatures} temperatures of {LEAPFROG_STEPS} leapfrog "
        f"steps, {CHAINS} chains from the prior; its own bias, {float(long.bias.mean()):.3f}, given back",
        "threads": str(given.threads),
        "seconds": "of a processor (process_time)",
    }
    report.write(
        "evidence_rows", "log p(x) by rows that can be trusted", pd.DataFrame(lines), settings, findings
    )


if __name__ == "__main__":
    main()
