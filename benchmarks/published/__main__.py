"""`python -m benchmarks.published [entries]`: trains, evaluates, writes the tables, and docs/published.md from them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.published import page
from benchmarks.published.training import Run

# The short ones first.
ENTRIES = ("prodlda", "bits_back", "miwae", "binary_sets", "m2", "vampprior", "chorales")
ON_A_GPU = ("iwae",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run entries, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("entries", nargs="*", metavar="entry", help=f"of {', '.join(ENTRIES + ON_A_GPU)}")
    parser.add_argument("--folder", type=Path, default=Run.folder, help="of checkpoints, to go on from")
    parser.add_argument("--epochs", type=int, help="of each training, instead of the recipe's")
    parser.add_argument(
        "--minutes", type=float, help="after which a training is stopped and evaluated as it is"
    )
    parser.add_argument("--seeds", type=int, help="at most so many of an entry's")
    given = parser.parse_args(arguments)
    unknown = set(given.entries) - set(ENTRIES + ON_A_GPU)
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: no such entry. There are {', '.join(ENTRIES + ON_A_GPU)}.")
    torch.set_num_threads(1)
    run = Run(given.folder, given.epochs, given.minutes, given.seeds)
    for name in given.entries or ENTRIES:
        print(f"{name} ...", flush=True)
        importlib.import_module(f"benchmarks.published.{name}").main(run)
        page.write()


if __name__ == "__main__":
    main()
