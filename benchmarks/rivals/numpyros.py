"""NumPyro, in a process of its own (`benchmarks.in_numpyro`)."""

from __future__ import annotations

import os
import subprocess
import tempfile

import numpy as np
import torch

from benchmarks import in_numpyro
from benchmarks.rivals.epochs import RATE, AbsentError, Epoch, Rows
from benchmarks.training_tasks import HIDDEN, K, Task


def numpyro(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """The same perceptrons in NumPyro, an epoch of steps as one call compiled by XLA, in a process of its own.

    PYROVAE_NUMPYRO names a Python that has NumPyro; weights and draws are its own.
    """
    python = os.environ.get("PYROVAE_NUMPYRO")
    if not task.in_pythae or rows[0].dim() != 2:
        raise AbsentError("measured with perceptrons only")
    if not python:
        raise AbsentError("PYROVAE_NUMPYRO names no Python that has NumPyro")
    if device.type != "cpu":
        raise AbsentError("measured on the CPU only")
    threads = torch.get_num_threads()
    flags = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}"
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.npy")
        np.save(path, rows[0].numpy())
        served = subprocess.Popen(
            [python, in_numpyro.__file__, path, str(task.batch), str(HIDDEN), str(K), str(RATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            preexec_fn=None if threads > 1 else _on_one_core,
        )
        assert served.stdin is not None
        assert served.stdout is not None
        asked, answers = served.stdin, served.stdout
        if answers.readline().strip() != "ready":
            raise AbsentError("NumPyro did not start; its messages are above")

    def epoch() -> float:
        print(file=asked, flush=True)
        return float(answers.readline().split()[0])

    return epoch


def _on_one_core() -> None:
    """XLA takes as many threads as there are cores, whatever it is told."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
