"""Whether `compile="auto"` chooses well: whole trainings of seconds to minutes, traced, compiled, and as it chooses.

`python -m benchmarks.auto_choice`, hours on a quiet machine; `--write` keeps the table, `--most 2000` leaves longer
ones out. Each training has a process of its own, with a cache of the compiler that is empty, or that holds its graph.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pandas as pd
import torch

from benchmarks import report, training_tasks
from benchmarks.training import machine
from benchmarks.whole_fits import ROWS, TASKS, Task, whole_fit

STEPS = (2000, 10000, 40000)
MOST = 1.1
LARGER = Task(training_tasks.perceptrons, lambda: training_tasks.digits(ROWS))
CHOSEN = {name: TASKS[name] for name in ("tiny perceptrons", "images", "GRU, 16 steps", "chain of 5")}
CHOSEN |= {"784-400-20": LARGER}


def compared(name: str, steps: int, cache: str) -> dict[str, Any]:
    """A line: seconds by the clock of one training each."""
    task, before = CHOSEN[name], "this graph" if os.listdir(cache) else "nothing"
    with mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        auto = whole_fit(task, steps, "auto") if before == "this graph" else _in_a_copy(task, steps)
        with mock.patch("pyrovae.traced.traced.pays_off", return_value=False):
            traced = whole_fit(task, steps, "auto")
        compiled = whole_fit(task, steps, True)
    better = min(traced["clock"], compiled["clock"])
    return {
        "model": name,
        "steps": steps,
        "compiled before": before,
        "traced, s": traced["clock"],
        "compiled, s": compiled["clock"],
        "auto, s": auto["clock"],
        "auto ran": auto["engine"].split(" (")[0],
        "auto / the better": auto["clock"] / better,
        f"at most {MOST:g}": "yes" if auto["clock"] <= MOST * better else "no",
        "losses differ by": f"{abs(auto['loss'] / traced['loss'] - 1):.0e}",
    }


def _in_a_copy(task: Task, steps: int) -> dict[str, Any]:
    """With an empty cache of its own, so that what it leaves helps nobody."""
    with TemporaryDirectory() as own, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=own):
        return whole_fit(task, steps, "auto")


def main(arguments: Sequence[str] | None = None) -> None:
    """All, in turn; the table is written anew after each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=max(STEPS), help="steps of the longest training")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = {
        "device": machine(torch.device("cpu")),
        "load of the machine": "{:.0f}, {:.0f}, {:.0f}".format(*os.getloadavg()),
        "threads": 1,
        "torch": torch.__version__,
        "seconds": "by the clock, of `pv.fit` in a process in which nothing was traced before",
    }
    lines: list[dict[str, Any]] = []
    for name in CHOSEN:
        for steps in (steps for steps in STEPS if steps <= given.most):
            with TemporaryDirectory() as cache:
                for _ in ("nothing", "this graph"):
                    lines.append(compared(name, steps, cache))
                    print(lines[-1], flush=True)
        if given.write:
            report.write("auto_choice", TITLE, pd.DataFrame(lines), settings)


TITLE = 'What compile="auto" chooses, against the better of traced and compiled'

if __name__ == "__main__":
    main()
