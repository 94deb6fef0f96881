"""Processes that train together, of which one is given other things, stops, raises, hangs or is killed.

Each case forks two processes, tells them as torchrun does who they are, and looks at how they end. Run as
`python -m tests.robustness.ranks NUMBER` for so many endings at random places; prints them.
"""

import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch.utils.data import IterableDataset

import pyrovae as pv
from pyrovae.callbacks import Callback
from tests.pairs import binary_rows, composed

LIMIT = 30.0  # seconds in which all have ended
OF = 2


class At(Callback):
    """Does something in one process at one of its steps."""

    def __init__(self, rank, step, act):
        self.rank, self.step, self.act = rank, step, act

    def on_step(self, training):
        if training.processes.share.rank == self.rank and training.step == self.step:
            self.act(training)


def kill(training):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(training):
    raise ArithmeticError("a callback's own error")


def stop(training):
    training.stop()


def diverge(training):
    with torch.no_grad():
        for parameter in training.vae.parameters():
            parameter.fill_(torch.inf)


class Stream(IterableDataset):
    """Rows of which some processes have fewer than others, which no first batch shows."""

    def __init__(self, number):
        self.number = number

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(binary_rows(self.number))


def fit(data=None, **settings):
    torch.manual_seed(0)
    settings = {"epochs": 3, "batch_size": 8, "seed": 0, "compile": False, "timeout": 8.0} | settings
    data = binary_rows(32) if data is None else data
    return pv.fit(composed(), data, progress=False, device="cpu", **settings)


def outcome(train):
    """In words: how many epochs, or the error."""
    try:
        return f"{len(train())} epochs"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def together(*cases):
    """What came of each case in each process, one list by rank; a process that was killed has none.

    Cases are functions of the rank. Those after one in which a process ends have no company any more.
    """
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        children = [_started(rank, port, Path(folder), cases) for rank in range(OF)]
        deadline = time.monotonic() + LIMIT + 15 * len(cases)
        for pid in children:
            _waited_for(pid, children, deadline)
        return [
            path.read_text().split("\0")[:-1] if (path := Path(folder, str(rank))).exists() else []
            for rank in range(OF)
        ]


def _started(rank, port, folder, cases):
    pid = os.fork()
    if pid:
        return pid
    try:
        torch.set_num_threads(1)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "drill"}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
        os.environ |= {"WORLD_SIZE": str(OF), "LOCAL_WORLD_SIZE": str(OF)}
        with open(folder / str(rank), "w") as told:
            for case in cases:
                told.write(outcome(lambda case=case: case(rank)) + "\0")
                told.flush()
    finally:
        os._exit(0)


def _waited_for(pid, all_of_them, deadline):
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            for one in all_of_them:
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            raise TimeoutError("the processes had not ended")
        time.sleep(0.02)


ENDINGS = {"killed": kill, "raising": fail, "stopping": stop, "diverging": diverge}


def main(number):
    import lightning_fabric  # noqa: F401 - what is imported late is here for all children

    fit(timeout=None)
    rng = random.Random(0)
    for place in range(number):
        name = list(ENDINGS)[place % len(ENDINGS)]
        at = At(rng.randrange(OF), rng.randrange(1, 12), ENDINGS[name])
        started = time.monotonic()
        found = together(lambda rank, at=at: fit(callbacks=[at]))
        survivors = [told for rank, told in enumerate(found) if not (name == "killed" and rank == at.rank)]
        assert all(survivors), "a process ended without a word"
        print(place, name, at.rank, at.step, round(time.monotonic() - started, 1), found, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
