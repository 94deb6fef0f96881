"""What rows a VAE takes, known from its first batch or from its file: dtype and shape by argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias, TypedDict

import torch

from pyrovae.container import DTYPES
from pyrovae.data import ARRAYS, Batch
from pyrovae.pair.first_run import as_float
from pyrovae.pair.layout import Layout, SiteLayout
from pyrovae.schema import MalformedError, shown

RowSpecs: TypeAlias = list[tuple[torch.dtype, torch.Size] | None]

# Rows that a file tells of, while nobody has shown any: more than these bytes, and those of its tensors, none may take.
ROOM = 4 * 2**20
# More dimensions than torch's own functions take.
_MAX_DEPTH = 64

SavedSites: TypeAlias = dict[str, tuple[list[int], list[int], list[int], str]]
"""Event shape, dims and sizes of inner plates, and family, by site."""


class SavedPair(TypedDict):
    """What a file says of a pair, in JSON, whose tuples are lists."""

    sample_dim: int
    latents: SavedSites
    observed: SavedSites
    enumerated: SavedSites
    broadcasts: tuple[bool, bool]
    rows: list[tuple[str, list[int]] | None]


def check_specs(arguments: tuple[object, ...], specs: RowSpecs) -> None:
    """Raise ValueError or TypeError unless rows have these dtypes and shapes."""
    if len(arguments) != len(specs):
        raise ValueError(
            f"got {len(arguments)} data arguments: this VAE takes {len(specs)} (x and {len(specs) - 1} of "
            "context)."
        )
    for place, (argument, spec) in enumerate(zip(arguments, specs, strict=True)):
        name = "x" if place == 0 else f"context {place}"
        if isinstance(argument, ARRAYS) != (spec is not None):
            raise ValueError(f"{name} is {type(argument).__name__}, unlike in this VAE's first batch.")
        if spec is None or not isinstance(argument, ARRAYS):
            continue
        dtype, shape = spec
        if argument.shape[1:] != shape:
            raise ValueError(
                f"{name} has rows of shape {list(argument.shape[1:])}: this VAE takes rows of shape {list(shape)}."
            )
        if argument.dtype != dtype:
            from_integers = dtype.is_floating_point and not argument.is_floating_point()
            hint = as_float(argument.dtype) if from_integers else f".to({dtype})"
            raise TypeError(f"{name} is {argument.dtype}: this VAE takes {dtype}. Convert it, e.g. {hint}.")


def ones(specs: RowSpecs, num_rows: int, device: torch.device) -> Batch:
    """Rows to build a guide from where there are no data: only their shapes matter."""
    return Batch(
        tuple(
            None if spec is None else torch.ones((num_rows, *spec[1]), dtype=spec[0], device=device)
            for spec in specs
        )
    )


def to_json(layout: Layout | None, specs: RowSpecs | None) -> SavedPair | None:
    """What a file says of a pair; None where nothing is known yet."""
    if layout is None or specs is None:
        return None

    def sites(group: Mapping[str, SiteLayout]) -> SavedSites:
        return {
            n: (list(s.event_shape), list(s.inner_dims), list(s.inner_sizes), s.family)
            for n, s in group.items()
        }

    return {
        "sample_dim": layout.sample_dim,
        "latents": sites(layout.latents),
        "observed": sites(layout.observed),
        "enumerated": sites(layout.enumerated),
        "broadcasts": (layout.guide_broadcasts, layout.model_broadcasts),
        "rows": [s and (str(s[0]).removeprefix("torch."), list(s[1])) for s in specs],
    }


def from_json(pair: SavedPair | None) -> tuple[Layout | None, RowSpecs | None]:
    """The inverse of `to_json`, for a pair of that schema.

    Raises:
        MalformedError: shapes, plates or dtypes that no pair has.

    """
    if pair is None:
        return None, None
    depth = pair["sample_dim"]
    if not -_MAX_DEPTH <= depth <= -2:
        raise MalformedError("pair.sample_dim", f"is {depth}: expected -2 or less, for rows are at -1")
    layout = Layout(
        depth,
        _sites(pair["latents"], "pair.latents", depth),
        _sites(pair["observed"], "pair.observed", depth),
        _sites(pair["enumerated"], "pair.enumerated", depth),
        *pair["broadcasts"],
    )
    if not pair["rows"] or pair["rows"][0] is None:
        raise MalformedError("pair.rows", "say nothing of x")
    specs: RowSpecs = []
    for place, spec in enumerate(pair["rows"]):
        if spec is not None:
            dtype, shape = spec
            if dtype not in _BY_NAME:
                raise MalformedError(f"pair.rows.{place}", f"have dtype {shown(dtype)}, which no rows have")
            specs.append((_BY_NAME[dtype], _shape(shape, f"pair.rows.{place}")))
        else:
            specs.append(None)
    return layout, specs


def check_room(layout: Layout, specs: RowSpecs, num_rows: int, num_bytes: int) -> None:
    """Raise unless so many rows of these shapes, and draws of these sites, take at most `ROOM` and `num_bytes`.

    Raises:
        MalformedError: they take more.

    """
    sizes = {f"pair.rows.{n}": s[1].numel() * s[0].itemsize for n, s in enumerate(specs) if s is not None}
    groups = {"latents": layout.latents, "observed": layout.observed, "enumerated": layout.enumerated}
    sizes |= {f"pair.{g}.{n}": 4 * site.numel for g, sites in groups.items() for n, site in sites.items()}
    for field, size in sizes.items():
        if num_rows * size > ROOM + num_bytes:
            raise MalformedError(
                field,
                f"would take {size} bytes for one row, much for a file whose tensors have {num_bytes} together. If "
                "it is right, show this VAE a few rows before: VAE(model, guide, example=(x, *context)).load(path)",
            )


_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


def _sites(group: SavedSites, where: str, depth: int) -> dict[str, SiteLayout]:
    found = {}
    for name, (event, dims, sizes, family) in group.items():
        field = f"{where}.{shown(name)[1:-1]}"
        if len(dims) != len(sizes) or len(set(dims)) < len(dims) or any(not depth < d < -1 for d in dims):
            raise MalformedError(
                field,
                f"has plates {shown(dims)} of sizes {shown(sizes)}: expected dims between {depth} and -1",
            )
        found[name] = SiteLayout(_shape(event, field), tuple(dims), tuple(_shape(sizes, field)), family)
    return found


def _shape(sizes: list[int], field: str) -> torch.Size:
    if len(sizes) > _MAX_DEPTH or any(n < 0 for n in sizes) or math.prod(n or 1 for n in sizes) >= 2**60:
        raise MalformedError(field, f"has shape {shown(sizes)}, which no tensor has")
    return torch.Size(sizes)
