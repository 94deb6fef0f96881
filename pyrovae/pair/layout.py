"""Shapes: Pyro's layout of a site inside, rows first for users, and the way between them.

Inside, a tensor of a site is [S, *inner plates, B, *event], one batch dimension for each plate of the pair,
of size 1 where the site is not in that plate. Users see [S, B, *inner plates, *event].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SiteLayout:
    """A site's event shape, the dims and sizes of its plates inside the row plate, and its family in the model."""

    event_shape: torch.Size
    inner_dims: tuple[int, ...] = ()
    inner_sizes: tuple[int, ...] = ()
    family: str = ""

    @property
    def numel(self) -> int:
        """Numbers in one draw of one row."""
        return math.prod(self.event_shape) * math.prod(self.inner_sizes)


@dataclass(frozen=True)
class SharedLayout:
    """A latent above the rows: its event shape, the dims and sizes of the plates it stands in, its family in the model.

    A draw is [*sizes, *event] for users, outermost plate first; in a program dims without a plate are of size 1.
    """

    event_shape: torch.Size
    dims: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    family: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a draw, for users."""
        return (*self.sizes, *self.event_shape)

    @property
    def numel(self) -> int:
        """Numbers in one draw."""
        return math.prod(self.shape)

    @property
    def pyro_shape(self) -> tuple[int, ...]:
        """Of a draw, in a program."""
        sizes = dict(zip(self.dims, self.sizes, strict=True))
        depth = min(self.dims, default=0)
        return (*(sizes.get(dim, 1) for dim in range(depth, 0)), *self.event_shape)


@dataclass(frozen=True)
class Layout:
    """What one run of a pair showed: its sites, and how many samples at once are drawn.

    `sample_dim` is the plate dimension for samples, left of every plate of the pair. A program that cannot
    broadcast over it runs on repeated rows instead, with the same results. `latents` are what the guide
    samples; `enumerated` are the model's discrete latents that are summed out instead. `without_density` says
    why the guide has no density of them (see `pyrovae.pair.guide_density`), and is empty where it has one.
    `marked` are those latents that the guide itself marks for enumeration. `num_steps` is that of the sequences that
    the model observed, of which other batches may have another; None where it observes others.

    `shared` are the latents above the rows, and `shared_statements` the guide's statements that stand for them, its
    auxiliary ones among them; `shared_without_density` is to them what `without_density` is to those of rows. All
    else is of rows given them.
    """

    sample_dim: int
    latents: Mapping[str, SiteLayout]
    observed: Mapping[str, SiteLayout]
    enumerated: Mapping[str, SiteLayout] = field(default_factory=dict)
    guide_broadcasts: bool = True
    model_broadcasts: bool = True
    without_density: str = ""
    marked: tuple[str, ...] = ()
    num_steps: int | None = None
    shared: Mapping[str, SharedLayout] = field(default_factory=dict)
    shared_statements: tuple[str, ...] = ()
    shared_without_density: str = ""

    @property
    def of_rows(self) -> Layout:
        """What the pair is to rows while its shared latents are held at values: a pair without any."""
        return replace(self, shared={}, shared_statements=(), shared_without_density="")

    @property
    def families(self) -> dict[str, str]:
        """Each site's family in the model, and whether it is observed or summed out, in words."""
        found = {name: site.family for name, site in self.latents.items()}
        found |= {name: f"{site.family}, shared" for name, site in self.shared.items()}
        found |= {name: f"{site.family}, summed out" for name, site in self.enumerated.items()}
        found |= {name: f"{site.family}, observed" for name, site in self.observed.items()}
        return dict(sorted(found.items()))

    @property
    def latent_numbers(self) -> int:
        """Numbers in one draw of one row, over all that the guide samples."""
        return sum(site.numel for site in self.latents.values())

    @property
    def hidden(self) -> dict[str, SiteLayout]:
        """All latents of the model: the guide's and the enumerated ones."""
        return {**self.latents, **self.enumerated}


def rows_first(value: Tensor, site: SiteLayout) -> Tensor:
    """From Pyro's layout to the users': [S, B, *inner plates, *event]; plates not its own are dropped."""
    row_dim = value.dim() - 1 - len(site.event_shape)
    keep = {row_dim + 1 + dim for dim in site.inner_dims}
    for dim in range(row_dim - 1, 0, -1):
        if dim not in keep:
            value, row_dim = value.squeeze(dim), row_dim - 1
    return value.movedim(row_dim, 1)


def pyro_layout(value: Tensor, site: SiteLayout, sample_dim: int) -> Tensor:
    """From the users' layout [S, B, *inner plates, *event] to Pyro's: the inverse of `rows_first`."""
    event_dim = len(site.event_shape)
    value = value.movedim(1, value.dim() - 1 - event_dim)
    for dim in range(-2, sample_dim, -1):
        if dim not in site.inner_dims:
            value = value.unsqueeze(value.dim() - event_dim + dim + 1)
    return value


def slice_latents(
    latents: Mapping[str, Tensor], layout: Layout, samples: slice, rows: slice
) -> dict[str, Tensor]:
    """Some samples of some rows."""
    taken = {}
    for name, value in latents.items():
        row_dim = value.dim() - 1 - len(layout.latents[name].event_shape)
        index = [slice(None)] * value.dim()
        index[0], index[row_dim] = samples, rows
        taken[name] = value[tuple(index)]
    return taken


def as_the_program_takes(
    layout: Layout, latents: Mapping[str, Tensor], broadcasts: bool
) -> Mapping[str, Tensor]:
    """Latents as a program takes them: under a samples plate, or on repeated rows."""
    if broadcasts:
        return latents
    sites = layout.hidden
    return {name: _flatten_samples(value, len(sites[name].event_shape)) for name, value in latents.items()}


def by_row(terms: Tensor, num_samples: int, layout: Layout, broadcasts: bool) -> Tensor:
    """Sum a site's terms, given in Pyro's batch layout, over all but samples and rows: [S,B]."""
    if not broadcasts:
        return terms.reshape(-1, num_samples, terms.shape[-1] // num_samples).sum(0)
    missing = -layout.sample_dim - terms.dim()
    terms = terms.reshape((1,) * missing + terms.shape)
    if terms.dim() > 2:
        terms = terms.flatten(1, -2).sum(1)
    return terms.expand(num_samples, -1)


def canonical(value: Tensor, num_samples: int, layout: Layout, event_dim: int, *, broadcasts: bool) -> Tensor:
    """A value in Pyro's layout with every plate dimension present: [S, *inner plates, B, *event]."""
    batch_dim = -layout.sample_dim
    if broadcasts:
        missing = batch_dim - (value.dim() - event_dim)
        value = value.reshape((1,) * missing + value.shape)
        return value.expand(num_samples, *value.shape[1:])
    row_dim = value.dim() - 1 - event_dim
    value = value.unflatten(row_dim, (num_samples, -1)).movedim(row_dim, 0)
    missing = batch_dim - (value.dim() - event_dim)
    return value.reshape(value.shape[:1] + (1,) * missing + value.shape[1:])


def _flatten_samples(value: Tensor, event_dim: int) -> Tensor:
    """From [S, *inner plates, B, *event] to [*inner plates, S*B, *event]."""
    row_dim = value.dim() - 1 - event_dim
    return value.movedim(0, row_dim - 1).flatten(row_dim - 1, row_dim)
