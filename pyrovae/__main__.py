"""The command line: `python -m pyrovae demo --out DIR`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pyrovae._version import __version__


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="pyrovae", description="Variational autoencoders declared as Pyro programs."
    )
    parser.add_argument("--version", action="version", version=f"pyrovae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train, check and show a VAE of scikit-learn's digits")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the report (default: demo)")
    demo.add_argument("--epochs", type=_count, default=None, help="passes over the training rows")
    chosen = parser.parse_args(arguments)
    if problem := _no_folder(chosen.out):
        parser.error(problem)
    try:
        from pyrovae import demo as job

        job.run(chosen.out, **({} if chosen.epochs is None else {"epochs": chosen.epochs}))
    except ModuleNotFoundError as error:
        print(f"pyrovae demo needs {error.name}: pip install 'pyrovae[demo]'", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, above all
        print(f"pyrovae demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyrovae demo: interrupted", file=sys.stderr)
        return 130
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _no_folder(path: Path) -> str:
    """Why a folder cannot be made, or written into; "" if it can."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists() or p == p.parent)
    if not there.is_dir():
        return f"argument --out: {there} is a file, and a folder is expected"
    if not os.access(there, os.W_OK):
        return f"argument --out: {there} cannot be written into"
    return ""


if __name__ == "__main__":
    sys.exit(main())
