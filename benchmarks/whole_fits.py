"""What `compile="auto"` costs and gives over whole trainings, short and long: seconds of `fit` against plain Pyro's.

`python -m benchmarks.whole_fits`; each training has a process of its own, in which nothing was traced before.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import report
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.models import (
    Bernoulli,
    Categorical,
    LatentVariableModel,
    MixedTableModel,
    Normal,
    StandardNormal,
)
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder, MissingAsZero

ROWS, BATCH, SEED, MOST = 320, 32, 0, 1.1
ROUNDS = {20: 15, 200: 9, 600: 3, 2000: 1}  # by steps
STATE, K, CHANNELS, SHAPE = 64, 8, 8, (1, 28, 28)


class Recurrent(nn.Module):
    """GRUs over T steps: one reads x, one gives the means of p(x|z)."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.reads, self.to_latent = nn.GRU(CHANNELS, STATE, batch_first=True), nn.Linear(STATE, 2 * K)
        self.writes, self.to_means = nn.GRU(K, STATE, batch_first=True), nn.Linear(STATE, CHANNELS)

    def model(self, x: Tensor) -> None:
        """One latent a row."""
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(K), 1.0).to_event(1))
            states, _ = self.writes(z.unsqueeze(1).expand(-1, self.num_steps, -1))
            pyro.sample("x", dist.Normal(self.to_means(states), 1.0).to_event(2), obs=x)

    def guide(self, x: Tensor) -> None:
        """From the last state."""
        with pyro.plate("rows", len(x)):
            location, raw = self.to_latent(self.reads(x)[1][0]).chunk(2, -1)
            pyro.sample("z", dist.Normal(location, raw.exp()).to_event(1))


class Chain(nn.Module):
    """A latent for each of T steps, each a site of its own."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.moves, self.to_means = MLP(K, (K, K), [32]), nn.Linear(K, CHANNELS)
        self.reads = nn.GRU(CHANNELS, 32, batch_first=True)
        self.to_latent = MLP(K + 32, (K, K), [32])

    def model(self, x: Tensor) -> None:
        """Each step from the one before."""
        with pyro.plate("rows", len(x)):
            z = x.new_zeros(len(x), K)
            for step in range(self.num_steps):
                location, raw = self.moves(z)
                z = pyro.sample(f"z{step}", dist.Normal(location, raw.exp()).to_event(1))
                pyro.sample(f"x{step}", dist.Normal(self.to_means(z), 1.0).to_event(1), obs=x[:, step])

    def guide(self, x: Tensor) -> None:
        """From past observations and the step before."""
        with pyro.plate("rows", len(x)):
            states, z = self.reads(x)[0], x.new_zeros(len(x), K)
            for step in range(self.num_steps):
                location, raw = self.to_latent(torch.cat([z, states[:, step]], -1))
                z = pyro.sample(f"z{step}", dist.Normal(location, raw.exp()).to_event(1))


def table() -> pv.VAE:
    """Columns of three kinds."""
    parts = [
        (range(6), Normal(MLP(K, (6, 6), [32]))),
        ([6, 7], Bernoulli(MLP(K, 2, [32]))),
        ([8, 9], Categorical(MLP(K, 6, [32]), num_options=3)),
    ]
    model = MixedTableModel(StandardNormal(K), [(list(columns), part) for columns, part in parts])
    return pv.VAE(model, AmortizedGuide(DiagonalNormal(MissingAsZero(MLP(20, (K, K), [32])))))


def images() -> pv.VAE:
    """Convolutions."""
    model = LatentVariableModel(StandardNormal(K), Bernoulli(ConvDecoder(K, SHAPE, (8, 16))))
    return pv.VAE(model, AmortizedGuide(DiagonalNormal(ConvEncoder(SHAPE, (K, K), (8, 16)))))


def columns() -> tuple[Tensor, ...]:
    """Rows for `table`, a tenth of their entries absent."""
    whole = [torch.randn(ROWS, 6), torch.randint(2, (ROWS, 2)), torch.randint(3, (ROWS, 2))]
    rows = torch.cat([part.float() for part in whole], 1)
    return (rows.where(torch.rand(ROWS, 10) > 0.1, torch.nan),)


def _bits(*shape: int) -> tuple[Tensor, ...]:
    return (torch.bernoulli(torch.full((ROWS, *shape), 0.3)),)


def _pair(programs: Recurrent | Chain) -> pv.VAE:
    return pv.VAE(programs.model, programs.guide)


@dataclass(frozen=True)
class Task:
    """What is trained, for how many steps and in how many rounds at most."""

    declare: Callable[[], pv.VAE]
    data: Callable[[], tuple[Tensor, ...]]
    most_steps: int = max(ROUNDS)
    most_rounds: int = max(ROUNDS.values())


def _series(steps: int) -> tuple[Tensor, ...]:
    return (torch.randn(ROWS, steps, CHANNELS),)


TASKS = {
    "tiny perceptrons": Task(
        lambda: pv.VAE(LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 64, [32])))), lambda: _bits(64)
    ),
    "table": Task(table, columns),
    "images": Task(images, lambda: _bits(*SHAPE)),
    "GRU, 16 steps": Task(lambda: _pair(Recurrent(16)), lambda: _series(16)),
    "GRU, 32 steps": Task(lambda: _pair(Recurrent(32)), lambda: _series(32), 600, 3),
    "GRU, 120 steps": Task(lambda: _pair(Recurrent(120)), lambda: _series(120), 200, 3),
    "chain of 5": Task(lambda: _pair(Chain(5)), lambda: _series(5)),
    "chain of 60": Task(lambda: _pair(Chain(60)), lambda: _series(60), 200, 3),
    "chain of 120": Task(lambda: _pair(Chain(120)), lambda: _series(120), 20, 3),
}


def whole_fit(task: Task, steps: int, compile: Any) -> dict[str, Any]:
    """One training in a fork of this process: its seconds, of the processor and by the clock, and its engine."""
    with TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        child = os.fork()
        if child == 0:
            try:
                told.write_text(json.dumps(_train(task, steps, compile)), encoding="utf-8")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        found: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return found


def _train(task: Task, steps: int, compile: Any) -> dict[str, Any]:
    torch.manual_seed(SEED)
    vae, data = task.declare(), task.data()
    vae.rows(*data)
    given = {"epochs": steps // (ROWS // BATCH), "batch_size": BATCH, "seed": SEED, "progress": False}
    by_clock, by_processor = time.perf_counter(), time.process_time()
    history = pv.fit(vae, data, compile=compile, **given)
    return {
        "processor": time.process_time() - by_processor,
        "clock": time.perf_counter() - by_clock,
        "engine": history.attrs["engine"],
        "loss": float(history["loss"].iloc[-1]),
    }


def lines(taken: pd.DataFrame) -> list[dict[str, Any]]:
    """Medians over the rounds, and the quickest of each."""
    found = []
    for (name, steps), rounds in taken.groupby(["model", "steps"], sort=False):
        auto, plain = (
            rounds[rounds["compile"] == engine].reset_index(drop=True) for engine in ("auto", "False")
        )
        by_pair = float((auto["processor"] / plain["processor"]).median())
        quickest = float(auto["processor"].min() / plain["processor"].min())
        found.append(
            {
                "model": name,
                "steps": steps,
                "rounds": len(auto),
                "auto ran": auto["engine"].iloc[0].split(" (")[0],
                "plain, s": float(plain["processor"].median()),
                "auto, s": float(auto["processor"].median()),
                "auto / plain, by pair": by_pair,
                "of the quickest": quickest,
                f"at most {MOST:g}": "yes" if by_pair <= MOST else "no",
                "losses differ by": f"{abs(auto['loss'].iloc[0] / plain['loss'].iloc[0] - 1):.0e}",
            }
        )
    return found


def main() -> None:
    """Train all in turn, write the table."""
    _train(TASKS["tiny perceptrons"], 20, False)  # what torch's optimizer imports
    taken: list[dict[str, Any]] = []
    for turn in range(max(ROUNDS.values())):
        engines = ["auto", False] if turn % 2 else [False, "auto"]
        for name, task in TASKS.items():
            for steps, rounds in ROUNDS.items():
                if turn < min(rounds, task.most_rounds) and steps <= task.most_steps:
                    for compile in engines:
                        found = whole_fit(task, steps, compile)
                        taken.append({"model": name, "steps": steps, "compile": str(compile)} | found)
                    print(*taken[-2:], sep="\n", flush=True)
    write(pd.DataFrame(taken))


def write(taken: pd.DataFrame) -> None:
    """The table of trainings, a line each."""
    order = {name: place for place, name in enumerate(TASKS)}
    by_task = sorted(lines(taken), key=lambda line: (order[line["model"]], line["steps"]))
    settings = {
        "data": f"{ROWS} random rows; batch {BATCH}; sequences of {CHANNELS} channels",
        "measured": "`pv.fit` with compile='auto' and compile=False in turn, each in a process in which nothing was "
        "traced before; a ratio is the median over the rounds",
        "seconds": "of the process's own processor time",
        "load of the machine": "{:.0f}, {:.0f}, {:.0f}".format(*os.getloadavg()),
        "threads": 1,
        "torch": torch.__version__,
        "seed": SEED,
    }
    report.write("whole_fits", TITLE, pd.DataFrame(by_task), settings, NOTE)


TITLE = 'Whole trainings with compile="auto" against compile=False'
NOTE = (
    "Whether a trace pays is decided by the operations of a step and the number of steps to come, whether compiling "
    "does also by what was compiled before, and neither by a clock. Where auto ran plain Pyro it did what plain did, "
    "but for one counted call from 200 steps on, which takes as long as two or three steps. Losses agree to what "
    "rounding grows to."
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
