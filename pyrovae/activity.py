"""What the latents carry: the rate of every entry, and whether its posterior mean varies from row to row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae import rows
from pyrovae.data import Rows
from pyrovae.entry_rates import entry_rates
from pyrovae.evidence import NUMBERS_AT_ONCE, row_blocks
from pyrovae.layout import Arguments, rows_first
from pyrovae.support import check_support
from pyrovae.vae import VAE

# A dimension whose posterior mean varies less over rows is not active: Burda et al. (2015).
ACTIVE_VARIANCE = 0.01
# A rate below this tells nothing, whatever else: half the variance of the mean is the least rate that goes with it.
NO_RATE = 0.01
# An inactive dimension that costs as much is not at the prior: its posterior is the same for all rows.
COSTLY_RATE = 0.1
# Draws for rates without a closed form and for means, each.
DRAWS = 100


class Activity:
    """Rates and posterior means of all rows, gathered block by block.

    Attributes:
        reconstruction, rate: of every row, [N].
        by_site: the rate of every row in each site, [N]; NaN where enumeration couples the site with others.
        notes: what could not be computed, and why.

    """

    def __init__(self, vae: VAE, data: Rows, seeds: Iterator[int]) -> None:
        self.vae, self.notes = vae, [_enumerated_note(vae)] if vae.layout.enumerated else []
        self.names = list(vae.layout.latents)
        self.by_site: dict[str, Tensor] = {}
        self.by_entry: dict[str, Tensor | None] = {}
        self.means: dict[str, list[Tensor]] | None = None
        blocks = [self._block(arguments, first, seeds) for first, arguments in row_blocks(vae, data)]
        self.reconstruction = torch.cat([block["reconstruction"] for block in blocks])
        self.rate = torch.cat([block["rate"] for block in blocks])
        for name in self.names:
            self.by_site[name] = torch.cat([block["sites"][name] for block in blocks])
            parts = [block["entries"][name] for block in blocks]
            self.by_entry[name] = None if parts[0] is None else torch.cat(parts)
        self._explain_missing_rates()
        self._gather_means(data, seeds)

    def _block(self, arguments: Arguments, first: int, seeds: Iterator[int]) -> dict[str, Any]:
        """Averages over draws for one block of rows: [B] and, by entry, [B, *inner plates, *event]."""
        numbers = max(
            1, math.prod(arguments[0].shape), *(s.numel for s in self.vae.layout.latents.values()), 1
        )
        at_once = max(1, min(DRAWS, NUMBERS_AT_ONCE // numbers))
        sums: dict[str, Any] = {"reconstruction": 0.0, "rate": 0.0, "sites": {}, "entries": {}}
        for start in range(0, DRAWS, at_once):
            count = min(at_once, DRAWS - start)
            with self.vae.evaluating(), rows.fixed_seed(next(seeds), self.vae.device):
                if start == 0:
                    check_support(self.vae.model, arguments, first)
                terms = rows.row_terms(self.vae, arguments, count)
                sums["reconstruction"] += terms.log_likelihood.double().cpu().sum(0) / DRAWS
                sums["rate"] += terms.rate.double().cpu().sum(0) / DRAWS
                for name in self.names:
                    whole = self._site_rate(terms, name).double().cpu().sum(0) / DRAWS
                    entries = entry_rates(terms, name)
                    sums["sites"][name] = sums["sites"].get(name, 0.0) + whole
                    sums["entries"][name] = (
                        None
                        if entries is None
                        else sums["entries"].get(name, 0.0) + entries.double().cpu().sum(0) / DRAWS
                    )
        return sums

    def _site_rate(self, terms: rows.RowTerms, name: str) -> Tensor:
        if name in terms.model_sites:
            return terms.site_rate(name)
        return torch.full_like(terms.log_likelihood, math.nan)

    def _explain_missing_rates(self) -> None:
        for name in self.names:
            if bool(self.by_site[name].isnan().any()):
                self.notes.append(
                    f"'{name}' has no rate of its own: summed-out latents couple it with other sites."
                )
            elif self.by_entry[name] is None:
                self.notes.append(
                    f"'{name}' has a rate as a whole only: its posterior or its prior does not factorize over its "
                    "dimensions."
                )

    def _gather_means(self, data: Rows, seeds: Iterator[int]) -> None:
        """Two independent estimates of every posterior mean, [2][N, *inner plates, *event] by site."""
        if not self.names:
            return
        halves: list[dict[str, list[Tensor]]] = [{name: [] for name in self.names} for _ in range(2)]
        try:
            for _, arguments in row_blocks(self.vae, data):
                for half in halves:
                    with self.vae.evaluating(), rows.fixed_seed(next(seeds), self.vae.device):
                        means = rows.guide_means(self.vae, arguments, DRAWS)
                    for name, site in self.vae.layout.latents.items():
                        half[name].append(rows_first(means[name], site)[0].double().cpu())
        except ValueError as error:
            self.notes.append(f"no posterior means, so that no dimension is known to be active: {error}")
            return
        self.means = {name: [torch.cat(half[name]) for half in halves] for name in self.names}

    def _mean_variance(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if self.means is None or len(self.rate) < 2:
            return torch.full(shape, math.nan)
        a, b = (half - half.mean(0) for half in self.means[name])
        return ((a * b).sum(0) / (len(a) - 1)).expand(shape)

    def entries(self) -> pd.DataFrame:
        """One row an entry of a latent."""
        lines = []
        for name, site in self.vae.layout.latents.items():
            shape = (*site.inner_sizes, *site.event_shape)
            by_entry = self.by_entry[name]
            rates = torch.full(shape, math.nan) if by_entry is None else by_entry.mean(0)
            variances = self._mean_variance(name, shape)
            of_site = float(self.by_site[name].mean())
            for index in np.ndindex(*shape):
                rate, variance = float(rates[index]), float(variances[index])
                active = variance > ACTIVE_VARIANCE
                dimension = ",".join(map(str, index))
                lines.append((name, dimension, rate, active, variance, _verdict(rate, variance, of_site)))
        return pd.DataFrame(
            lines, columns=["site", "dimension", "rate", "active", "mean_variance", "verdict"]
        )

    def sites(self) -> pd.DataFrame:
        """One row a latent site."""
        entries = self.entries()
        lines = [
            (
                name,
                *mean_over_rows(self.by_site[name]),
                int(entries.loc[entries["site"] == name, "active"].sum()),
                site.numel,
            )
            for name, site in self.vae.layout.latents.items()
        ]
        return pd.DataFrame(lines, columns=["site", "rate", "std_error", "active", "dimensions"])


def _verdict(rate: float, variance: float, rate_of_site: float) -> str:
    if math.isnan(rate) and rate_of_site < NO_RATE:
        rate = rate_of_site
    if rate < NO_RATE or (variance <= ACTIVE_VARIANCE and not rate >= COSTLY_RATE):
        return "collapsed"
    if math.isnan(variance):
        return "unknown" if math.isnan(rate) else "active"
    return "active" if variance > ACTIVE_VARIANCE else "constant"


def mean_over_rows(values: Tensor) -> tuple[float, float]:
    """The mean over rows and its standard error, NaN for a single row."""
    N = len(values)
    return float(values.mean()), float(values.std() / math.sqrt(N)) if N > 1 else math.nan


def _enumerated_note(vae: VAE) -> str:
    return f"{sorted(vae.layout.enumerated)} are summed out of the model: the guide has no rate or mean for them."
