"""The report of a saved VAE: `python -m pyrovae report vae.safetensors data.npz --model module:function`.

A saved VAE is numbers. What builds the pair that they belong to is the user's code, and is named on the command line.
"""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pyrovae import plots
from pyrovae.plots.interactive.need import need_bokeh
from pyrovae.vae import VAE

ENDINGS = (".html", ".png")


def run(
    weights: Path,
    data: Path,
    model: str,
    *,
    out: Path,
    x: str | None = None,
    context: Sequence[str] = (),
    labels: str | None = None,
    history: Path | None = None,
    image_shape: tuple[int, ...] | None = None,
    num_samples: int = 500,
    title: str | None = None,
    seed: int = 0,
    calibration: bool = True,
) -> plots.Report:
    """Build the pair, load it, report on the rows and write the page or the sheet.

    Raises:
        ValueError, TypeError: arguments that fit neither each other nor the files; as `VAE.load` and `plots.report`.
        OSError: a file that is not there, or cannot be written.
        ModuleNotFoundError: no such module, or the page without Bokeh.

    """
    if out.suffix.lower() not in ENDINGS:
        raise ValueError(f"the report ends in '{out.suffix}': expected one of {', '.join(ENDINGS)}.")
    if out.suffix.lower() == ".html":
        need_bokeh(out.name)
    if not weights.is_file():
        raise FileNotFoundError(f"there is no file {weights}.")
    table = arrays_of(data)
    rows, others, known = chosen_arrays(table, data, x, context, labels)
    past = None if history is None else pd.read_csv(history)
    vae = built(model).load(weights)
    panels = None if calibration else plots.PANELS.keys() - {"Calibration"}
    report = plots.report(
        vae,
        rows,
        *others,
        history=past,
        labels=known,
        image_shape=image_shape,
        panels=panels,
        num_samples=num_samples,
        title=title or f"{weights.name} on {len(rows)} rows of {data.name}",
        seed=seed,
        progress=True,
    )
    report.save(out)
    return report


def built(name: str) -> VAE:
    """What `module:function` builds, with modules of the present folder within reach.

    Raises:
        ValueError: another form.
        ModuleNotFoundError, AttributeError: nothing of that name.
        TypeError: it gives no VAE.

    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"--model is {name!r}: expected module:function, such as pyrovae.demo:build.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: object = importlib.import_module(module)
    for part in function.split("."):
        found = getattr(found, part)
    vae = found if isinstance(found, VAE) or not callable(found) else found()
    if not isinstance(vae, VAE):
        raise TypeError(f"{name} gives a {type(vae).__name__}: expected a VAE, built as the saved one was.")
    return vae


def arrays_of(path: Path) -> dict[str, np.ndarray] | pd.DataFrame:
    """The arrays of a `.npz` or `.npy` file by name, or the table of a `.csv` file; nothing in it is executed.

    Raises:
        OSError: no such file.
        ValueError: another ending, or contents of another kind.

    """
    ending = path.suffix.lower()
    if ending == ".csv":
        return pd.read_csv(path)
    if ending not in (".npz", ".npy"):
        raise ValueError(f"{path} ends in '{ending}': expected .npz, .npy or .csv.")
    try:
        with np.load(path, allow_pickle=False) as found:
            return {"x": found} if isinstance(found, np.ndarray) else {key: found[key] for key in found.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no arrays of numbers: {error}") from error


def chosen_arrays(
    table: dict[str, np.ndarray] | pd.DataFrame,
    path: Path,
    x: str | None,
    context: Sequence[str],
    labels: str | None,
) -> tuple[np.ndarray | pd.DataFrame, list[np.ndarray], np.ndarray | None]:
    """Rows, what the pair takes beside them, and labels: of arrays by name, of a table its columns.

    Raises:
        ValueError: names that are not there, or several arrays of which none is named.

    """
    names = [str(name) for name in table]
    if lacking := [name for name in (x, *context, labels) if name is not None and name not in names]:
        raise ValueError(f"{path} has no {', '.join(map(repr, lacking))}: it has {names}.")
    others = [np.asarray(table[name]) for name in context]
    known = None if labels is None else np.asarray(table[labels])
    if isinstance(table, pd.DataFrame):
        if x is not None:
            raise ValueError(f"{path} is a table: all columns but --context and --labels are x.")
        return table.drop(columns=[*context, *([labels] if labels is not None else [])]), others, known
    left = [name for name in names if name not in context and name != labels]
    if x is None:
        x = "x" if "x" in left else left[0] if len(left) == 1 else None
    if x is None:
        raise ValueError(f"{path} has the arrays {left}: say which are the rows, with --x.")
    return table[x], others, known
