"""The command line: `python -m pyrovae demo --out DIR`, `python -m pyrovae report WEIGHTS DATA --model M:F`."""

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
    _add_report(commands)
    chosen = parser.parse_args(arguments)
    if problem := _no_folder(chosen.out if chosen.command == "demo" else chosen.out.absolute().parent):
        parser.error(problem)
    try:
        return _report(chosen) if chosen.command == "report" else _demo(chosen)
    except OSError as error:  # a full disk, above all
        print(f"pyrovae {chosen.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pyrovae {chosen.command}: interrupted", file=sys.stderr)
        return 130


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="a page, or a printable sheet, on a saved VAE and some rows",
        description="A page on a saved VAE and some rows, to look at in a browser; or a printable sheet, as .png.",
    )
    report.add_argument("weights", type=Path, help="what VAE.save wrote, or a checkpoint of fit")
    report.add_argument("data", type=Path, help="rows: .npz, .npy or .csv")
    report.add_argument(
        "--model",
        required=True,
        metavar="MODULE:FUNCTION",
        help="builds the VAE as the saved one was built, such as pyrovae.demo:build; it is imported and called",
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), help="report.html or report.png")
    report.add_argument("--x", help="name of the rows in a .npz file (default: x, or the only one)")
    report.add_argument(
        "--context", nargs="+", default=[], help="names of what the pair takes beside x, in its order"
    )
    report.add_argument("--labels", help="name of the rows' labels")
    report.add_argument("--history", type=Path, help="what fit returned, as .csv")
    report.add_argument("--image-shape", type=_shape, help="of a row, such as 8x8 or 3x32x32")
    report.add_argument(
        "--num-samples", type=_count, default=500, help="draws a row for log p(x) (default: 500)"
    )
    report.add_argument("--title", help="of the page")
    report.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    report.add_argument(
        "--no-calibration", action="store_true", help="leave out the panel that takes longest"
    )


def _demo(chosen: argparse.Namespace) -> int:
    try:
        from pyrovae import demo as job

        job.run(chosen.out, **({} if chosen.epochs is None else {"epochs": chosen.epochs}))
    except ModuleNotFoundError as error:
        print(f"pyrovae demo needs {error.name}: pip install 'pyrovae[demo]'", file=sys.stderr)
        return 1
    return 0


def _report(chosen: argparse.Namespace) -> int:
    try:
        from pyrovae import saved_report as job

        job.run(
            chosen.weights,
            chosen.data,
            chosen.model,
            out=chosen.out,
            x=chosen.x,
            context=chosen.context,
            labels=chosen.labels,
            history=chosen.history,
            image_shape=chosen.image_shape,
            num_samples=chosen.num_samples,
            title=chosen.title,
            seed=chosen.seed,
            calibration=not chosen.no_calibration,
        )
    except (ValueError, TypeError, AttributeError, ModuleNotFoundError) as error:
        print(f"pyrovae report: {error}", file=sys.stderr)
        return 1
    print(f"Wrote {chosen.out}")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape of an image, such as 8x8 or 3x32x32")
    return tuple(map(int, parts))


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
