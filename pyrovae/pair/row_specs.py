"""What rows a VAE takes, known from its first batch or from its file: dtype and shape by argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypedDict

import torch

from pyrovae.data import ARRAYS, Batch
from pyrovae.pair.first_run import as_float
from pyrovae.pair.layout import Layout, SiteLayout

RowSpecs: TypeAlias = list[tuple[torch.dtype, torch.Size] | None]

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
    """The inverse of `to_json`."""
    if pair is None:
        return None, None

    def sites(group: SavedSites) -> dict[str, SiteLayout]:
        return {
            n: SiteLayout(torch.Size(event), tuple(dims), tuple(sizes), family)
            for n, (event, dims, sizes, family) in group.items()
        }

    layout = Layout(
        pair["sample_dim"],
        sites(pair["latents"]),
        sites(pair["observed"]),
        sites(pair["enumerated"]),
        *pair["broadcasts"],
    )
    return layout, [s and (getattr(torch, s[0]), torch.Size(s[1])) for s in pair["rows"]]
