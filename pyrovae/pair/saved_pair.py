"""What a file says of a pair, beside its tensors: its sites and its rows, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias, TypedDict

import torch

from pyrovae.container import DTYPES
from pyrovae.pair.layout import Layout, SharedLayout, SiteLayout
from pyrovae.pair.row_specs import RowSpec, RowSpecs
from pyrovae.schema import MalformedError, shown

# Rows that a file tells of, while nobody has shown any: more than these bytes, and those of its tensors, none may take.
ROOM = 4 * 2**20
# More dimensions than torch's own functions take.
_MAX_DEPTH = 64

SavedSites: TypeAlias = dict[str, tuple[list[int], list[int], list[int], str]]
"""Event shape, dims and sizes of inner plates, and family, by site."""

SavedRow: TypeAlias = tuple[str, list[int], list[str | int] | None, bool]
"""Dtype, shape and columns of an argument that has rows, and whether the guide was built from rows with holes in it."""


class SavedPair(TypedDict):
    """What a file says of a pair, in JSON, whose tuples are lists."""

    sample_dim: int
    latents: SavedSites
    observed: SavedSites
    enumerated: SavedSites
    shared: SavedSites
    shared_statements: list[str]
    broadcasts: tuple[bool, bool]
    rows: list[SavedRow | None]


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
        "shared": {
            n: (list(s.event_shape), list(s.dims), list(s.sizes), s.family) for n, s in layout.shared.items()
        },
        "shared_statements": list(layout.shared_statements),
        "broadcasts": (layout.guide_broadcasts, layout.model_broadcasts),
        "rows": [s and _saved(s) for s in specs],
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
        shared=_shared(pair["shared"], depth),
        shared_statements=tuple(pair["shared_statements"]),
    )
    if not {*layout.shared} <= {*layout.shared_statements}:
        raise MalformedError("pair.shared_statements", "lack some of pair.shared")
    if not pair["rows"] or pair["rows"][0] is None:
        raise MalformedError("pair.rows", "say nothing of x")
    return layout, [s and _row(s, f"pair.rows.{place}") for place, s in enumerate(pair["rows"])]


def check_room(layout: Layout, specs: RowSpecs, num_rows: int, num_bytes: int) -> None:
    """Raise unless so many rows of these shapes, and draws of these sites, take at most `ROOM` and `num_bytes`.

    Raises:
        MalformedError: they take more.

    """
    sizes = {
        f"pair.rows.{n}": s.shape.numel() * s.dtype.itemsize for n, s in enumerate(specs) if s is not None
    }
    groups: dict[str, Mapping[str, SiteLayout | SharedLayout]] = {
        "latents": {**layout.latents},
        "observed": {**layout.observed},
        "enumerated": {**layout.enumerated},
        "shared": {**layout.shared},
    }
    sizes |= {f"pair.{g}.{n}": 4 * site.numel for g, sites in groups.items() for n, site in sites.items()}
    for field, size in sizes.items():
        if num_rows * size > ROOM + num_bytes:
            raise MalformedError(
                field,
                f"would take {size} bytes for one row, much for a file whose tensors have {num_bytes} together. If "
                "it is right, show this VAE a few rows before: VAE(model, guide, example=(x, *context)).load(path)",
            )


_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


def _saved(spec: RowSpec) -> SavedRow:
    columns = None if spec.columns is None else list(spec.columns)
    return str(spec.dtype).removeprefix("torch."), list(spec.shape), columns, spec.lacking


def _row(saved: SavedRow, field: str) -> RowSpec:
    dtype, shape, columns, lacking = saved
    if dtype not in _BY_NAME:
        raise MalformedError(field, f"have dtype {shown(dtype)}, which no rows have")
    if columns is not None and shape != [len(columns)]:
        raise MalformedError(field, f"have shape {shown(shape)} and {len(columns)} columns")
    if lacking and not _BY_NAME[dtype].is_floating_point:
        raise MalformedError(field, f"have holes and dtype {dtype}, which has no NaN")
    return RowSpec(
        _BY_NAME[dtype], _shape(shape, field), None if columns is None else tuple(columns), lacking
    )


def _sites(group: SavedSites, where: str, depth: int) -> dict[str, SiteLayout]:
    found = {}
    for name, (event, dims, sizes, family) in group.items():
        field = f"{where}.{shown(name)[1:-1]}"
        _check_plates(dims, sizes, range(depth + 1, -1), field)
        found[name] = SiteLayout(_shape(event, field), tuple(dims), tuple(_shape(sizes, field)), family)
    return found


def _shared(group: SavedSites, depth: int) -> dict[str, SharedLayout]:
    found = {}
    for name, (event, dims, sizes, family) in group.items():
        field = f"pair.shared.{shown(name)[1:-1]}"
        _check_plates(dims, sizes, range(depth + 1, 0), field)
        found[name] = SharedLayout(_shape(event, field), tuple(dims), tuple(_shape(sizes, field)), family)
    return found


def _check_plates(dims: list[int], sizes: list[int], allowed: range, field: str) -> None:
    if len(dims) != len(sizes) or len(set(dims)) < len(dims) or any(d not in allowed for d in dims):
        raise MalformedError(
            field,
            f"has plates {shown(dims)} of sizes {shown(sizes)}: expected dims between {allowed.start - 1} and "
            f"{allowed.stop}",
        )


def _shape(sizes: list[int], field: str) -> torch.Size:
    if len(sizes) > _MAX_DEPTH or any(n < 0 for n in sizes) or math.prod(n or 1 for n in sizes) >= 2**60:
        raise MalformedError(field, f"has shape {shown(sizes)}, which no tensor has")
    return torch.Size(sizes)
