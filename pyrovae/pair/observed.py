"""What a model observes, row by row: the numbers, which are discrete, which a mask or a row's length leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data import Batch
from pyrovae.pair.layout import Layout, SiteLayout, canonical, rows_first
from pyrovae.pair.programs import Pair
from pyrovae.pair.sites import Site, base_constraint
from pyrovae.pair.traces import sites_of


@dataclass(frozen=True)
class Statement:
    """A sample statement that observes: its site, and of one with `obs_mask=` that of its absent values, a latent."""

    observed: str
    unobserved: str | None
    layout: SiteLayout


def statements(layout: Layout) -> dict[str, Statement]:
    """The statements that observe, by the names that the program gives them; Pyro splits those with `obs_mask=`."""
    found = {}
    for name, site in layout.observed.items():
        stem = name.removesuffix("_observed")
        latent = f"{stem}_unobserved"
        if stem != name and latent in layout.hidden:
            found[stem] = Statement(name, latent, site)
        else:
            found[name] = Statement(name, None, site)
    return found


@dataclass(frozen=True)
class Observation:
    """What one site observes of each row, [B, *inner plates, *event], and which of it counts.

    `unmasked` is what no mask leaves out, `counted` what of that is no padding either.
    """

    value: Tensor
    unmasked: Tensor
    counted: Tensor
    site: Site

    @property
    def discrete(self) -> bool:
        """Whether it has a probability; else a density."""
        return self.site.discrete

    @property
    def dimensions(self) -> Tensor:
        """How many numbers of each row count, [B]; a one-hot vector is one."""
        counted = self.counted
        if type(base_constraint(self.site.support)) is type(constraints.one_hot):
            counted = counted[..., 0]
        return counted.reshape(len(counted), -1).sum(1)

    def absent_as_nan(self, values: Tensor) -> Tensor:
        """Values for these rows, [..., B, *inner plates, *event], NaN where an entry does not count.

        Integers become floats only where one does not.
        """
        counted = self.counted.to(values.device)
        if bool(counted.all()):
            return values
        numbers = values if values.is_floating_point() else values.double()
        return numbers.masked_fill(~counted, torch.nan)

    def numbers(self) -> Tensor:
        """[B, numbers of a row], NaN where one does not count."""
        numbers = self.absent_as_nan(self.value.detach().double().cpu())
        return numbers.reshape(len(numbers), -1)


def observations_of(pair: Pair, batch: Batch) -> dict[str, Observation]:
    """What the model observes of these rows, by site; latents are drawn from the prior."""
    found = {}
    for name, site in sites_of(pair.model, batch).items():
        if not site.observed or site.factor or name not in pair.layout.observed:
            continue
        layout = pair.layout.observed[name]
        value, unmasked, counted = (
            rows_first(canonical(of_site, 1, pair.layout, site.event_dim, broadcasts=True), layout)[0]
            for of_site in (site.value, site.unmasked.cpu(), site.counted.cpu())
        )
        found[name] = Observation(value, unmasked, counted, site)
    return found
