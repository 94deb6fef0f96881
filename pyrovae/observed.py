"""What a model observes, row by row: the numbers, which of them are discrete, which a mask leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.poutine.util import site_is_factor
from torch import Tensor

from pyrovae import rows
from pyrovae.layout import Arguments, SiteLayout, canonical, rows_first
from pyrovae.rows import Pair
from pyrovae.sites import sample_sites


@dataclass(frozen=True)
class Observation:
    """What one site observes: `value` [B, *inner plates, *event], `counted` [B, *inner plates]."""

    value: Tensor
    counted: Tensor
    discrete: bool

    def numbers(self) -> Tensor:
        """[B, numbers of a row], NaN where a mask leaves one out."""
        value = self.value.double()
        counted = self.counted.reshape(self.counted.shape + (1,) * (value.dim() - self.counted.dim()))
        return value.masked_fill(~counted, torch.nan).reshape(len(value), -1)


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
            counted(site["mask"], site["fn"].batch_shape, 1, pair, layout, broadcasts=True)[0],
            bool(site["fn"].support.is_discrete),
        )
    return found


def counted(
    mask: object, batch_shape: torch.Size, num_samples: int, pair: Pair, site: SiteLayout, *, broadcasts: bool
) -> Tensor:
    """Which elements of a site its mask leaves in: [S, B, *inner plates]."""
    entries = torch.ones(batch_shape, dtype=torch.bool)
    if mask is not None:
        entries = entries & torch.as_tensor(mask).cpu()
    inner = canonical(entries, num_samples, pair.layout, 0, broadcasts=broadcasts)
    return rows_first(inner, SiteLayout(torch.Size(), site.inner_dims, site.inner_sizes))
