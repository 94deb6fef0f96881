"""What rows a VAE takes, known from its first batch or from its file: dtype, shape and names of columns by argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyrovae.arrays import ARRAYS
from pyrovae.data import Batch, Rows
from pyrovae.frames import Columns, in_words
from pyrovae.pair.dtype_advice import as_float


class RowSpec(NamedTuple):
    """Of an argument that has rows."""

    dtype: torch.dtype
    shape: torch.Size
    columns: Columns | None = None
    """Of the data frame that it was first; None if it was none."""
    lacking: bool = False
    """Whether rows lacked entries when the guide was built from them."""


RowSpecs: TypeAlias = list[RowSpec | None]


def check_specs(arguments: tuple[object, ...], specs: RowSpecs) -> None:
    """Raise ValueError or TypeError unless rows have these dtypes and shapes."""
    if len(arguments) != len(specs):
        raise ValueError(
            f"got {len(arguments)} data arguments: this VAE takes {len(specs)} (x and {len(specs) - 1} of context)."
            + " Leave out what it does not take: of a Dataset of (x, label) the label, by "
            "fit(..., transform=lambda x, label: (x,)), or by x, label = pyrovae.stacked(dataset)."
            * (len(arguments) > len(specs))
        )
    for place, (argument, spec) in enumerate(zip(arguments, specs, strict=True)):
        name = _name(place)
        if isinstance(argument, ARRAYS) != (spec is not None):
            raise ValueError(f"{name} is {type(argument).__name__}, unlike in this VAE's first batch.")
        if spec is None or not isinstance(argument, ARRAYS):
            continue
        dtype, shape = spec.dtype, spec.shape
        if argument.shape[1:] != shape:
            raise ValueError(
                f"{name} has rows of shape {list(argument.shape[1:])}: this VAE takes rows of shape {list(shape)}."
            )
        if argument.dtype != dtype:
            from_integers = dtype.is_floating_point and not argument.is_floating_point()
            hint = as_float(argument[:1]) if from_integers else f".to({dtype})"
            if dtype.is_floating_point and argument.dtype.is_floating_point:
                hint += f"; or the VAE, vae.to({argument.dtype})"
            raise TypeError(f"{name} is {argument.dtype}: this VAE takes {dtype}. Convert it, e.g. {hint}.")


def specs_of(rows: Rows, lacking: Sequence[int]) -> RowSpecs:
    """What rows are like; `lacking` are the places of the arguments of which the guide has seen holes."""
    return [
        RowSpec(a.dtype, a.shape[1:], columns, place in lacking) if isinstance(a, ARRAYS) else None
        for place, (a, columns) in enumerate(zip(rows.arguments, rows.columns, strict=True))
    ]


def with_columns(specs: RowSpecs, given: RowSpecs) -> RowSpecs:
    """These, with the given columns where they have none; given rows of another shape have not the same columns."""
    if len(specs) != len(given):  # of a transform that leaves arguments out
        return specs
    return [
        spec._replace(columns=other.columns)
        if spec is not None and spec.columns is None and other is not None and other.shape == spec.shape
        else spec
        for spec, other in zip(specs, given, strict=True)
    ]


def with_steps(specs: RowSpecs, arguments: tuple[object, ...]) -> RowSpecs | None:
    """These specs for sequences of another number of steps, where the arguments differ from them in nothing else.

    Steps lie along the first dimension of a row; arguments that have as many as `x` have them too, if they change.
    """
    if len(arguments) != len(specs) or specs[0] is None or not isinstance(arguments[0], ARRAYS):
        return None
    before, now = specs[0].shape[:1], arguments[0].shape[1:2]
    if len(before) != 1 or len(now) != 1 or before == now:
        return None
    found: RowSpecs = []
    for spec, argument in zip(specs, arguments, strict=True):
        if spec is not None and isinstance(argument, ARRAYS) and argument.shape[1:] != spec.shape:
            if spec.shape[:1] != before or argument.shape[1:] != now + spec.shape[1:]:
                return None
            spec = spec._replace(shape=argument.shape[1:], columns=None)
        found.append(spec)
    return found


def check_columns(given: tuple[Columns | None, ...], specs: RowSpecs) -> None:
    """Raise ValueError unless frames have the columns of those that were first, in their order; others have none."""
    for place, (columns, spec) in enumerate(zip(given, specs, strict=False)):
        known = spec and spec.columns
        if columns is None or known is None or columns == known:
            continue
        lacking, unknown = (
            list((Counter(a) - Counter(b)).elements()) for a, b in ((known, columns), (columns, known))
        )
        takes = "vae.columns" if place == 0 else f"list(vae.row_specs[{place}].columns)"
        if lacking or unknown:
            parts = [f"lacks {in_words(lacking)}"] * bool(lacking)
            parts += [f"has {in_words(unknown)}, which this VAE does not know"] * bool(unknown)
            problem = f"does not have the columns of this VAE: it {' and '.join(parts)}"
        else:
            found, expected = next((a, b) for a, b in zip(columns, known, strict=True) if a != b)
            problem = f"has its columns in another order: {found!r} stands where {expected!r} is expected"
        remedy = f"Give frame[{takes}]" if not lacking else f"It takes {takes}, {in_words(known)}"
        raise ValueError(f"{_name(place)} {problem}. {remedy}.")


def refuse_other_columns(of_file: RowSpecs, own: RowSpecs) -> None:
    """Raise ValueError where a file's columns and those of rows that were seen before it are not the same."""
    for place, (there, here) in enumerate(zip(of_file, own, strict=False)):
        if there and here and there.columns and here.columns and there.columns != here.columns:
            raise ValueError(
                f"{_name(place)} of the file's VAE had the columns {in_words(there.columns)}, and this VAE has seen "
                f"{in_words(here.columns)}: load into one that has seen no frame, or the file's."
            )


def ones(specs: RowSpecs, num_rows: int, device: torch.device) -> Batch:
    """Rows to build a guide from where there are no data: only their shapes matter, and which have holes."""
    arguments: list[Tensor | None] = []
    for spec in specs:
        rows = spec and torch.ones((num_rows, *spec.shape), dtype=spec.dtype, device=device)
        if rows is not None and spec is not None and spec.lacking:
            rows[0] = torch.nan
        arguments.append(rows)
    return Batch(tuple(arguments), any(spec is not None and spec.lacking for spec in specs))


def _name(place: int) -> str:
    return "x" if place == 0 else f"context {place}"
