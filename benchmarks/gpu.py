"""All that is to be known about a GPU: the test suite on it, training and log p(x) on it, in one page.

`make gpu`, or `python -m benchmarks.gpu`: writes benchmarks/results/gpu.md, with the device and the date. Each part
runs in a process of its own; one that fails is reported, and the others go on.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.training import machine

HOURS = 3600
LINES_OF_FAILURE = 40


def parts(device: str) -> dict[str, tuple[list[str], int]]:
    """The title of each part, its command after `python -m`, and how many of its last lines are kept (0: all)."""
    tests = ["pytest", "-q", "--tb=line", "-p", "no:cacheprovider"]
    full = ["--full"] if os.environ.get("PYROVAE_DATA") else []
    return {
        "Tests": (tests, 60),
        "Training": (["benchmarks.training", "--device", device], 0),
        "Estimates of log p(x)": (["benchmarks.evidence", "--device", device, *full], 0),
    }


def run_part(command: Sequence[str], keep: int, device: str, seconds: float) -> str:
    """What a part printed, or how it failed."""
    environment = {**os.environ, "PYROVAE_DEVICE": device}
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env=environment,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return f"Failed: {error}"
    shown = "\n".join(done.stdout.splitlines()[-keep:])
    if done.returncode == 0:
        return shown
    last = "\n".join(done.stderr.splitlines()[-LINES_OF_FAILURE:])
    return f"Failed with exit code {done.returncode}.\n\n```\n{shown}\n{last}\n```"


def page(device: str, found: Mapping[str, str]) -> str:
    """The parts under one title."""
    head = [
        f"# {machine(torch.device(device))}",
        "",
        f"torch {torch.__version__}, {datetime.date.today().isoformat()}. Written by `make gpu`.",
    ]
    body = [
        f"\n## {title}\n\n{text.replace('# ', '### ', 1) if text.startswith('# ') else text}"
        for title, text in found.items()
    ]
    return "\n".join([*head, *body]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all parts; the page is written anew after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=os.environ.get("PYROVAE_DEVICE", "cuda"))
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    given = parser.parse_args(arguments)
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: nothing was run. PYROVAE_DEVICE names another device.")
    found: dict[str, str] = {}
    for title, (command, keep) in parts(given.device).items():
        print(f"{title} ...", flush=True)
        found[title] = run_part(command, keep, given.device, HOURS)
        given.results.mkdir(exist_ok=True)
        (given.results / "gpu.md").write_text(page(given.device, found), encoding="utf-8")
        print(found[title], flush=True)


if __name__ == "__main__":
    main()
