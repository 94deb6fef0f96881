"""What a model observes, row by row: the numbers, which of them are discrete, which a mask leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.util import site_is_factor
from torch import Tensor
from torch.distributions import Independent

from pyrovae import rows
from pyrovae.layout import Arguments, SiteLayout, canonical, rows_first
from pyrovae.rows import Pair
from pyrovae.sites import sample_sites


@dataclass(frozen=True)
class Observation:
    """What one site observes of each row, and which of it counts: [B, *inner plates, *event] both."""

    value: Tensor
    counted: Tensor
    discrete: bool

    def numbers(self) -> Tensor:
        """[B, numbers of a row], NaN where a mask leaves one out."""
        numbers = self.value.detach().double().cpu().masked_fill(~self.counted, torch.nan)
        return numbers.reshape(len(numbers), -1)


def observations_of(pair: Pair, arguments: Arguments) -> dict[str, Observation]:
    """What the model observes of these rows, by site; latents are drawn from the prior."""
    trace = rows.plain_trace(pair.model, arguments)
    found = {}
    for name, site in sample_sites(trace):
        if not site["is_observed"] or site_is_factor(site) or name not in pair.layout.observed:
            continue
        layout = pair.layout.observed[name]
        value = canonical(site["value"], 1, pair.layout, len(layout.event_shape), broadcasts=True)
        found[name] = Observation(
            rows_first(value, layout)[0],
            entries_counted(site["fn"], site["mask"], 1, pair, layout, broadcasts=True)[0],
            bool(site["fn"].support.is_discrete),
        )
    return found


def entries_counted(
    distribution: Any, mask: Any, num_samples: int, pair: Pair, site: SiteLayout, *, broadcasts: bool
) -> Tensor:
    """Which entries of a site count, by the site's mask and its distribution's own: [S, B, *inner plates, *event]."""
    shape = distribution.batch_shape + distribution.event_shape
    kept = torch.ones(shape, dtype=torch.bool, device="cpu")
    masks = [(mask, len(distribution.batch_shape))]
    inside = distribution
    while isinstance(inside, Independent | MaskedDistribution):
        if isinstance(inside, MaskedDistribution):
            masks.append((inside._mask, len(inside.batch_shape)))
        inside = inside.base_dist
    for some, batch_dim in masks:
        if some is not None:
            entries = torch.as_tensor(some).cpu()
            # A mask lies over batch dims, the last of which are event dims of the whole site.
            kept = kept & entries.reshape(entries.shape + (1,) * (len(shape) - batch_dim))
    return rows_first(
        canonical(kept, num_samples, pair.layout, len(site.event_shape), broadcasts=broadcasts), site
    )
