"""How fast training is, against hand-written PyTorch, Pyro, Pyro in Lightning and pythae: ratios by pair in one run.

`python -m benchmarks.training` (`make bench`); `--write` keeps the tables in benchmarks/results/. Rounds of one
short epoch of each rival in turn; a ratio is the median over rounds of two epochs of the same round. That all
train the same model is checked first. Lightning and pythae take part where they are installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import report
from benchmarks.rivals import RIVALS
from benchmarks.rivals.epochs import RATE, AbsentError, Epoch, Rival
from benchmarks.training_tasks import TASKS, Task, check_same

ROUNDS, WARM_UP = 11, 2
LONGER_ON_A_GPU = 50
PAGES = tuple(Path(__file__).parents[1] / name for name in ("docs/training.md", "README.md"))

# What is divided by what.
RATIOS = [
    ("compiled", "by hand"),
    ("compiled", "by hand, torch.compile"),
    ("traced", "by hand"),
    ("compiled", "by hand, CUDA graph"),
    ("compiled", "pyro.infer.SVI"),
    ("compiled", "SVI without validation"),
    ("traced", "pyro.infer.SVI"),
    ("traced", "SVI without validation"),
    ("plain", "pyro.infer.SVI"),
    ("compiled", "Pyro in Lightning"),
    ("compiled", "pythae"),
    ("compiled", "pythae, fused Adam"),
    ("compiled", "NumPyro"),
]


@dataclass(frozen=True)
class Measured:
    """Seconds a step of each rival by round, and why others are not there."""

    task: Task
    seconds: pd.DataFrame
    absent: Mapping[str, str]

    def milliseconds(self) -> dict[str, Any]:
        """A line of the table of times."""
        medians = self.seconds.median() * 1e3
        return {"model": self.task.name, "batch": self.task.batch, **medians.to_dict()}

    def ratios(self, device: torch.device) -> list[dict[str, Any]]:
        """The lines of the table of ratios."""
        lines = []
        for ours, other in RATIOS:
            if not {ours, other} <= set(self.seconds):
                continue
            by_round = self.seconds[ours] / self.seconds[other]
            most = target(self.task, ours, other, device)
            lines.append(
                {
                    "model": self.task.name,
                    "batch": self.task.batch,
                    "ratio": f"{ours} / {other}",
                    "median": float(by_round.median()),
                    "quartiles": f"{by_round.quantile(0.25):.3f} to {by_round.quantile(0.75):.3f}",
                    "target": most,
                    "met": None if most is None else "yes" if by_round.median() <= most else "no",
                }
            )
        return lines


def target(task: Task, ours: str, other: str, device: torch.device) -> float | None:
    """The most that a ratio shall be; None where there is no such aim."""
    if device.type == "cuda":
        aims = {"by hand, CUDA graph": 1.15, "by hand": 0.3 if task.batch == 128 else None}
        return aims.get(other) if ours == "compiled" else None
    if (ours, other) == ("compiled", "by hand"):
        return 0.85 if task.batch == 20 else 1.0
    if (ours, other) == ("compiled", "by hand, torch.compile"):
        return 1.0
    if (ours, other) == ("traced", "pyro.infer.SVI"):
        return 0.65 if task.batch == 20 else None
    return 0.6 if ours == "compiled" and other.startswith("pythae") else None


def measure(task: Task, device: torch.device, rounds: int, rivals: Mapping[str, Rival]) -> Measured:
    """Time the rivals in turn; who begins moves on from round to round."""
    if device.type == "cuda":  # so that steps are measured and not what begins and ends an epoch
        task = dataclasses.replace(task, steps=LONGER_ON_A_GPU * task.steps)
    check_same(task, device)
    rows = task.rows(device)
    epochs: dict[str, Epoch] = {}
    absent: dict[str, str] = {}
    for name, prepare in rivals.items():
        try:
            epochs[name] = prepare(task, rows, device)
        except AbsentError as reason:
            absent[name] = str(reason)
        except Exception as error:  # of one rival: the others are measured all the same
            absent[name] = f"failed, {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    names = list(epochs)
    taken: list[dict[str, float]] = []
    for turn in range(WARM_UP + rounds):
        first = turn % len(names)
        taken.append({name: epochs[name]() / task.steps for name in names[first:] + names[:first]})
    seconds = pd.DataFrame(taken[WARM_UP:], columns=names)
    return Measured(task, seconds, absent)


def findings(measured: Sequence[Measured]) -> str:
    """The times, and who is missing."""
    times = pd.DataFrame([m.milliseconds() for m in measured])
    missing: dict[tuple[str, str], list[str]] = {}
    for m in measured:
        for absent in m.absent.items():
            missing.setdefault(absent, []).append(f"{m.task.name} ({m.task.batch})")
    return "\n".join(
        [
            "Milliseconds a step, medians of the same rounds:",
            "",
            report.markdown(times),
            "",
            NOTE,
            "",
            "Not measured:",
            "",
            *(f"- {name}: {reason}: {', '.join(tasks)}" for (name, reason), tasks in missing.items()),
        ]
    )


def short(table: pd.DataFrame) -> str:
    """The compiled steps' ratios as README shows them, from the long table; who is not in it is left out."""
    others = {"by hand": "by hand in PyTorch", "by hand, torch.compile": "by hand, `torch.compile`"}
    others |= {"pyro.infer.SVI": "`pyro.infer.SVI`", "SVI without validation": "SVI without argument checks"}
    others |= {name: name for name in ("Pyro in Lightning", "pythae, fused Adam", "NumPyro")}
    medians = table.set_index(["model", "batch", "ratio"])["median"]
    lines = []
    for model, batch in table[["model", "batch"]].drop_duplicates().itertuples(index=False):
        line: dict[str, Any] = {"compiled step / step of": f"{model}, batch {batch}"}
        for other, title in others.items():
            found = medians.get((model, batch, f"compiled / {other}"))
            line[title] = None if found is None else f"{found:.2f}"
        lines.append(line)
    return report.markdown(pd.DataFrame(lines).dropna(axis=1, how="all"))


def show_in_docs(table: pd.DataFrame, pages: Sequence[Path] = PAGES) -> None:
    """Put the short table where the last one stands."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        start = text.index("| compiled step / step of")
        page.write_text(text[:start] + short(table) + text[text.index("\n\n", start) :], encoding="utf-8")


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {os.cpu_count()} cores"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=os.environ.get("PYROVAE_DEVICE", "cpu"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep the tables in benchmarks/results/, docs/training.md and README",
    )
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    torch.set_num_threads(given.threads)
    settings = {
        "device": machine(device),
        "threads": given.threads,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "measured": f"medians of {given.rounds} rounds of short epochs after {WARM_UP}, in turn, gathering included",
        "optimizer": f"Adam, {RATE:g}, fused",
    }
    measured: list[Measured] = []
    for task in TASKS:
        measured.append(measure(task, device, given.rounds, RIVALS))
        print(f"{report.markdown(pd.DataFrame(measured[-1].ratios(device)))}\n", flush=True)
    table = pd.DataFrame([line for m in measured for line in m.ratios(device)])
    title = "Training steps: ratios to other ways of training the same model"
    if given.write:
        name = "training" if given.threads == 1 else f"training_{given.threads}_threads"
        report.write(name, title, table, settings, findings(measured))
        if given.threads == 1:
            show_in_docs(table)
    else:
        print(report.text(title, table, settings, findings(measured)), flush=True)


NOTE = (
    "`compiled`, `traced` and `plain` are `pyrovae.fit` with `compile=True`, its traced operations as they are (on a "
    "GPU in a CUDA graph) and with `compile=False`; all else is in `benchmarks/rivals/` and `by_hand.py`. By hand "
    "the rate's closed forms are used where there are any; Pyro's objective samples it. `pyro.infer.SVI` and `plain` "
    "check arguments and supports, as Pyro does unless told not to."
)

if __name__ == "__main__":
    main()
