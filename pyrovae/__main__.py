"""The command line: `python -m pyrovae demo --out DIR`."""

from __future__ import annotations

import argparse
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
    demo.add_argument("--epochs", type=int, default=None, help="passes over the training rows")
    chosen = parser.parse_args(arguments)
    try:
        from pyrovae import demo as job

        job.run(chosen.out, **({} if chosen.epochs is None else {"epochs": chosen.epochs}))
    except ModuleNotFoundError as error:
        print(f"pyrovae demo needs {error.name}: pip install 'pyrovae[demo]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
