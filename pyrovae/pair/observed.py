"""What a model observes, row by row: the numbers, which are discrete, which a mask or a row's length leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.util import site_is_factor
from torch import Tensor
from torch.distributions import Independent, constraints

from pyrovae.data import Batch
from pyrovae.pair.layout import SiteLayout, canonical, rows_first
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import plain_trace
from pyrovae.pair.sites import sample_sites
from pyrovae.pair.support import base_constraint


@dataclass(frozen=True)
class Observation:
    """What one site observes of each row, [B, *inner plates, *event], and which of it counts.

    `unmasked` is what no mask leaves out, `counted` what of that is no padding either.
    """

    value: Tensor
    unmasked: Tensor
    counted: Tensor
    distribution: Any

    @property
    def discrete(self) -> bool:
        """Whether it has a probability; else a density."""
        return bool(self.distribution.support.is_discrete)

    @property
    def dimensions(self) -> Tensor:
        """How many numbers of each row count, [B]; a one-hot vector is one."""
        counted = self.counted
        if type(base_constraint(self.distribution)) is type(constraints.one_hot):
            counted = counted[..., 0]
        return counted.reshape(len(counted), -1).sum(1)

    def numbers(self) -> Tensor:
        """[B, numbers of a row], NaN where one does not count."""
        numbers = self.value.detach().double().cpu().masked_fill(~self.counted, torch.nan)
        return numbers.reshape(len(numbers), -1)


def observations_of(pair: Pair, batch: Batch) -> dict[str, Observation]:
    """What the model observes of these rows, by site; latents are drawn from the prior."""
    trace = plain_trace(pair.model, batch)
    found = {}
    for name, site in sample_sites(trace):
        if not site["is_observed"] or site_is_factor(site) or name not in pair.layout.observed:
            continue
        layout = pair.layout.observed[name]
        value = canonical(site["value"], 1, pair.layout, len(layout.event_shape), broadcasts=True)
        unmasked, counted = (
            entries(site["fn"], site["mask"], 1, pair, layout, broadcasts=True)[0]
            for entries in (entries_unmasked, entries_counted)
        )
        found[name] = Observation(rows_first(value, layout)[0], unmasked, counted, site["fn"])
    return found


def entries_counted(
    distribution: Any, mask: Any, num_samples: int, pair: Pair, site: SiteLayout, *, broadcasts: bool
) -> Tensor:
    """Which entries of a site are neither masked nor beyond a row's length: [S, B, *inner plates, *event]."""
    inside, masks = _masks(distribution, mask)
    real_steps = getattr(inside, "real_steps", None)
    if real_steps is not None:  # over the first event dim of the sequence
        masks.append((real_steps, len(inside.batch_shape) + 1))
    return _kept(distribution, masks, num_samples, pair, site, broadcasts)


def entries_unmasked(
    distribution: Any, mask: Any, num_samples: int, pair: Pair, site: SiteLayout, *, broadcasts: bool
) -> Tensor:
    """Which entries of a site no mask leaves out, its own or its distribution's: [S, B, *inner plates, *event]."""
    return _kept(distribution, _masks(distribution, mask)[1], num_samples, pair, site, broadcasts)


def _masks(distribution: Any, mask: Any) -> tuple[Any, list[tuple[Any, int]]]:
    """The innermost distribution, and masks with the dim of the site before which each one ends."""
    masks = [(mask, len(distribution.batch_shape))]
    while isinstance(distribution, Independent | MaskedDistribution):
        if isinstance(distribution, MaskedDistribution):
            masks.append((distribution._mask, len(distribution.batch_shape)))
        distribution = distribution.base_dist
    return distribution, masks


def _kept(
    distribution: Any,
    masks: list[tuple[Any, int]],
    num_samples: int,
    pair: Pair,
    site: SiteLayout,
    broadcasts: bool,
) -> Tensor:
    shape = distribution.batch_shape + distribution.event_shape
    kept = torch.ones(shape, dtype=torch.bool, device="cpu")
    for some, end in masks:
        if some is not None:
            entries = torch.as_tensor(some).cpu()
            kept = kept & entries.reshape(entries.shape + (1,) * (len(shape) - end))
    return rows_first(
        canonical(kept, num_samples, pair.layout, len(site.event_shape), broadcasts=broadcasts), site
    )
