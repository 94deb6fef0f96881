"""Run every tutorial as a notebook, one on each core at a time, and keep it with its outputs for the pages."""

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


def execute(path: Path) -> tuple[float, str]:
    """Run one in an empty folder; returns the seconds that it took and what went wrong, or nothing."""
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
    return time.perf_counter() - started, error


def main() -> int:
    """All tutorials, or those whose names begin as given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("begin", nargs="*", default=[""], help="only these, such as 03 or 1")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time: as many as cores"
    )
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's bars are text here
    OUT.mkdir(exist_ok=True)
    chosen = [path for path in sorted(TUTORIALS.glob("*.py")) if path.name.startswith(tuple(given.begin))]
    started, errors = time.perf_counter(), {}
    with ThreadPoolExecutor(given.jobs) as pool:
        for path, (seconds, error) in zip(chosen, pool.map(execute, chosen), strict=True):
            print(f"{'FAILED' if error else 'ok':>6} {seconds:6.1f} s  {path.name}", flush=True)
            if error:
                errors[path.name] = error
    print("\n\n".join(errors.values()), file=sys.stderr)
    passed, seconds = len(chosen) - len(errors), time.perf_counter() - started
    named = f": {', '.join(errors)}" if errors else ""
    print(f"tutorials: {passed} passed, {len(errors)} failed in {seconds:.0f} s{named}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
