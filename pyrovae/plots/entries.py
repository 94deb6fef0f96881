"""What stands beside rows: the names of their entries, and the context that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.arrays import ARRAYS
from pyrovae.data import Rows
from pyrovae.pair.programs import argument_names
from pyrovae.plots.decoded import observed_rows, shown_values, sites_shown
from pyrovae.plots.style import as_array
from pyrovae.vae import VAE

ROWS_TO_COMPARE = 500
MOST_SAID = 16  # contexts, in words


def entry_names(
    vae: VAE, data: Rows, site: str | None = None, given: Sequence[str] | None = None
) -> list[str] | None:
    """The names of the entries that are shown of a row; None where there are none.

    Those of the columns of `x`, each beside the entry that holds its values: a model of a table may observe its columns
    in another order, and by several sites. Entries that are no column of `x` are named by their site.

    Args:
        vae: the pair.
        data: the rows, [N, D] where columns have names.
        site: see `pyrovae.plots.decoded.sites_shown`.
        given: names of the columns of `x`; a data frame's own if None.

    Raises:
        ValueError: names of another number.

    """
    sites = sites_shown(vae, site)
    layouts = [vae.layout.observed[name] for name in sites]
    total = sum(layout.numel for layout in layouts)
    own = data.columns[0]
    names = list(given) if given is not None else None if own is None else [str(name) for name in own]
    if names is None:
        return _by_site(vae, sites) if len(sites) > 1 else None
    width = data.x.shape[1] if len(data.x.shape) == 2 else total
    if len(names) not in (width, total):
        raise ValueError(f"columns has {len(names)} names: a row has {total} entries.")
    if len(names) == width and (width != total or len(sites) > 1):
        return _matched(vae, data, sites, names)
    return names


def _by_site(vae: VAE, sites: Iterable[str]) -> list[str]:
    found = []
    for name in sites:
        count = vae.layout.observed[name].numel
        found += [name] if count == 1 else [f"{name}[{place}]" for place in range(count)]
    return found


def _matched(vae: VAE, data: Rows, sites: tuple[str, ...], names: list[str]) -> list[str]:
    """Each entry's name: that of the first column of x, not yet taken, that holds the same numbers."""
    few = data[:ROWS_TO_COMPARE]
    observed = observed_rows(vae, few)
    shown = torch.cat([observed[name].reshape(len(few), -1).double().cpu() for name in sites], 1)
    columns = few.take(slice(None)).x.double().cpu()
    left = list(range(columns.shape[1]))
    found = _by_site(vae, sites)
    for place, entry in enumerate(shown.T):
        same = (torch.isclose(entry[:, None], columns[:, left], equal_nan=True)).all(0)
        if bool(same.any()):
            found[place] = names[left.pop(int(same.nonzero()[0, 0]))]
    return found


def as_written(column: pd.Series) -> np.ndarray:
    """A column of a frame: numbers as they are, all else as text, as the frame writes it."""
    return column.to_numpy() if pd.api.types.is_numeric_dtype(column) else column.astype(str).to_numpy(object)


def codes_in(entry: np.ndarray, column: pd.Series) -> dict[float, str]:
    """Which label each code of an entry [N] stands for in a column of text; empty where one stands for several."""
    pairs = set(zip(entry.tolist(), as_written(column).tolist(), strict=True))
    found = dict(pairs)
    return {} if pd.api.types.is_numeric_dtype(column) or len(found) < len(pairs) else found


def context_by_row(vae: VAE, data: Rows) -> dict[str, np.ndarray]:
    """Context that is one number a row, or one of several options marked by a 1: [N], by the model's argument."""
    names = argument_names(vae.model)
    found: dict[str, np.ndarray] = {}
    for place, argument in enumerate(data.arguments[1:], 1):
        if not isinstance(argument, ARRAYS):
            continue
        values = argument[:] if not isinstance(argument, Tensor) else argument
        number = _one_number(values)
        if number is not None:
            found[names[place] if place < len(names) else f"context {place}"] = as_array(number)
    return found


def _one_number(values: Tensor) -> Tensor | None:
    if values.dim() == 1 or values.shape[1:].numel() == 1:
        return values.reshape(-1)
    if values.dim() == 2 and bool(((values == 0) | (values == 1)).all() & (values.sum(1) == 1).all()):
        return values.argmax(1)
    return None


def in_context(vae: VAE, data: Rows, places: Sequence[int]) -> str:
    """In which context some rows are, in words: "label 3, 5, 8"; empty where the pair takes none but `x`."""
    known = context_by_row(vae, data)
    said = [
        f"{name} {', '.join(f'{values[place]:g}' for place in places[:MOST_SAID])}"
        + (", …" if len(places) > MOST_SAID else "")
        for name, values in known.items()
    ]
    others = sum(isinstance(argument, ARRAYS) for argument in data.arguments[1:]) - len(known)
    if others:
        said.append("their own context" if len(places) > 1 else "its own context")
    return "; ".join(said)


def rows_in_words(first: int, count: int) -> str:
    """Which rows: "rows 0 to 15"."""
    return f"row {first}" if count == 1 else f"rows {first} to {first + count - 1}"


def shown_rows(vae: VAE, data: Rows, site: str | None) -> np.ndarray:
    """Rows as they are observed, of the sites that are shown: [N, ...], NaN where an entry is absent."""
    return as_array(shown_values(observed_rows(vae, data), vae, site))
