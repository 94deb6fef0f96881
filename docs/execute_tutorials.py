"""Run every tutorial as a notebook, two at a time, and keep it with its outputs for the pages."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TUTORIALS = Path(__file__).parent.parent / "tutorials"
OUT = Path(__file__).parent / "tutorials"
TIMEOUT = 600  # seconds a cell


def execute(path: Path) -> str:
    """Run one in an empty folder; returns what went wrong, or nothing."""
    started = time.perf_counter()
    notebook = jupytext.read(path)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        try:
            client.execute()
            error = ""
        except CellExecutionError as raised:
            error = f"{path.name}: {raised}"
    nbformat.write(notebook, OUT / f"{path.stem}.ipynb")
    print(f"{'FAILED' if error else 'ok':>6} {time.perf_counter() - started:6.1f} s  {path.name}", flush=True)
    return error


def main() -> int:
    """All tutorials, or those whose names begin as given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("begin", nargs="*", default=[""], help="only these, such as 03 or 1")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's bars are text here
    OUT.mkdir(exist_ok=True)
    chosen = [path for path in sorted(TUTORIALS.glob("*.py")) if path.name.startswith(tuple(given.begin))]
    started = time.perf_counter()
    with ThreadPoolExecutor(given.jobs) as pool:
        errors = [error for error in pool.map(execute, chosen) if error]
    print("\n\n".join(errors), file=sys.stderr)
    failed = len(errors)
    print(
        f"tutorials: {len(chosen) - failed} passed, {failed} failed in {time.perf_counter() - started:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
