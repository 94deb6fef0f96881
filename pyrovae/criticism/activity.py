"""What the latents carry: the rate of every entry, and whether its posterior mean varies from row to row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.block_sizes import counts, draws_at_once
from pyrovae.data import Batch, Rows
from pyrovae.pair.layout import rows_first
from pyrovae.pair.means import guide_means
from pyrovae.pair.running import row_terms
from pyrovae.pair.sites import ScoredSite
from pyrovae.pair.terms import RowTerms
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

# A dimension whose posterior mean varies less over rows, as a share of the prior's variance, is not active: Burda et
# al. (2015), whose priors have variance 1.
ACTIVE_VARIANCE = 0.01
# A rate below this tells nothing, whatever else: half the variance of the mean is the least rate that goes with it.
NO_RATE = 0.01
# An inactive dimension that costs as much is not at the prior: its posterior is the same for all rows, if its rate is.
COSTLY_RATE = 0.1
SAME_RATE = 0.1  # standard deviation over rows, as a share of the rate
# Draws for rates without a closed form and for means, each.
DRAWS = 100


class Activity:
    """Rates and posterior means of all rows, gathered block by block.

    The rows are taken as checked. Figures of entries are over the rows that count the entry: a mask, or the length of
    a sequence, may leave it out.

    Attributes:
        reconstruction, rate: of every row, [N].
        by_site: the rate of every row in each site, [N]; NaN where the site has none of its own.
        notes: what could not be computed, and why.

    """

    def __init__(self, vae: VAE, data: Rows, seeds: Iterator[int]) -> None:
        self.vae, self.notes = vae, [_enumerated_note(vae)] if vae.layout.enumerated else []
        self.names = list(vae.layout.latents)
        self.labels: set[str] = set()
        blocks = [self._block(batch, seeds) for _, batch in data.in_blocks(vae.device)]
        self.reconstruction = torch.cat([block["reconstruction"] for block in blocks])
        self.rate = torch.cat([block["rate"] for block in blocks])
        self.by_site = {name: torch.cat([block["sites"][name] for block in blocks]) for name in self.names}
        self.by_entry = {
            name: {
                figure: torch.cat([block["entries"][name][figure] for block in blocks])
                for figure in blocks[0]["entries"][name]
            }
            for name in self.names
        }
        for name, site in vae.layout.latents.items():
            if site.numel == 1:
                of_site = self.by_site[name].reshape(-1, *site.inner_sizes, *site.event_shape)
                self.by_entry[name].setdefault("rate", of_site)
        self._explain_missing_rates()
        self.means = self._means(data, seeds)

    def _block(self, batch: Batch, seeds: Iterator[int]) -> dict[str, Any]:
        """Averages over draws for one block of rows: [B] and, by entry, [B, *inner plates, *event]."""
        numbers = max(math.prod(batch.x.shape), *(s.numel for s in self.vae.layout.latents.values()), 1)
        sums: dict[str, Any] = {"reconstruction": 0.0, "rate": 0.0, "sites": {}, "entries": {}}

        def add(totals: dict[str, Any], key: str, values: Tensor) -> None:
            totals[key] = totals.get(key, 0.0) + values.double().cpu().sum(0) / DRAWS

        for count in counts(DRAWS, draws_at_once(numbers, num_rows=1)):
            with self.vae.evaluating(), fixed_seed(next(seeds), self.vae.device):
                terms = row_terms(self.vae, batch, count)
                add(sums, "reconstruction", terms.log_likelihood)
                add(sums, "rate", terms.rate)
                for name in self.names:
                    add(sums["sites"], name, _site_rate(terms, name))
                    for figure, values in _of_entries(terms, name).items():
                        add(sums["entries"].setdefault(name, {}), figure, values)
                    if terms.guide_sites[name].family == "Categorical":
                        self.labels.add(name)
        return sums

    def _explain_missing_rates(self) -> None:
        for name in self.names:
            if bool(self.by_site[name].isnan().any()):
                self.notes.append(
                    f"'{name}' has no rate of its own: "
                    + (
                        "summed-out latents couple it with other sites."
                        if self.vae.layout.enumerated
                        else "it follows from auxiliary sites that other latents follow from too."
                    )
                )
            elif "rate" not in self.by_entry[name]:
                self.notes.append(
                    f"'{name}' has a rate as a whole only: its posterior or its prior does not factorize over its "
                    "dimensions."
                )
        self.notes += [
            f"no posterior means of '{name}': it is categorical, its values are labels and have no mean."
            for name in self.names
            if name in self.labels
        ]

    def _means(self, data: Rows, seeds: Iterator[int]) -> dict[str, list[Tensor]]:
        """Two independent estimates of every posterior mean, [2][N, *inner plates, *event] by site."""
        names = [name for name in self.names if name not in self.labels]
        if not names:
            return {}
        halves: list[dict[str, list[Tensor]]] = [{name: [] for name in names} for _ in range(2)]
        for _, batch in data.in_blocks(self.vae.device):
            for half in halves:
                with self.vae.evaluating(), fixed_seed(next(seeds), self.vae.device):
                    means = guide_means(self.vae, batch, DRAWS, names)
                for name in names:
                    site = self.vae.layout.latents[name]
                    half[name].append(rows_first(means[name], site)[0].double().cpu())
        return {name: [torch.cat(half[name]) for half in halves] for name in names}

    def _mean_variance(self, name: str) -> Tensor:
        """Of the posterior means over the rows that count an entry, [*inner plates, *event]."""
        counted = self.by_entry[name]["counted"]
        if name not in self.means:
            return torch.full(counted.shape[1:], math.nan)
        count = counted.sum(0)
        a, b = (half - (half * counted).sum(0) / count for half in self.means[name])
        covariance = (a * b * counted).sum(0) / (count - 1)
        return covariance.where(count > 1, math.nan)

    def _over_rows(self, name: str, figure: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a figure over the rows that count an entry; NaN where there is none."""
        counted = self.by_entry[name]["counted"]
        values = self.by_entry[name].get(figure)
        if values is None:
            return (torch.full(counted.shape[1:], math.nan),) * 2
        mean = (values * counted).sum(0) / counted.sum(0)
        return mean, (((values - mean) ** 2 * counted).sum(0) / counted.sum(0)).sqrt()

    def entries(self) -> pd.DataFrame:
        """One row an entry of a latent."""
        lines = []
        for name in self.names:
            rates, _ = self._over_rows(name, "rate")
            prior, _ = self._over_rows(name, "prior_variance")
            variances = self._mean_variance(name)
            active = variances > ACTIVE_VARIANCE * prior.where((prior > 0) & prior.isfinite(), 1.0)
            telling = "rate" if "rate" in self.by_entry[name] else "marginal_rate"
            means, spreads = self._over_rows(name, telling)
            of_site = float(self.by_site[name].mean())
            if telling == "marginal_rate" and float(means.sum()) < NO_RATE <= of_site:
                means = torch.full_like(means, math.nan)  # what is told is told by entries together
            for index in np.ndindex(*variances.shape):
                verdict = _verdict(
                    float(means[index]),
                    float(spreads[index]),
                    bool(active[index]),
                    float(variances[index]),
                    of_site,
                )
                dimension = ",".join(map(str, index))
                lines.append(
                    (
                        name,
                        dimension,
                        float(rates[index]),
                        bool(active[index]),
                        float(variances[index]),
                        verdict,
                    )
                )
        return pd.DataFrame(
            lines, columns=["site", "dimension", "rate", "active", "mean_variance", "verdict"]
        )

    def sites(self) -> pd.DataFrame:
        """One row a latent site."""
        entries = self.entries()
        is_active = entries["verdict"] == "active"
        lines = [
            (
                name,
                *mean_over_rows(self.by_site[name]),
                int((is_active & (entries["site"] == name)).sum()),
                site.numel,
            )
            for name, site in self.vae.layout.latents.items()
        ]
        return pd.DataFrame(lines, columns=["site", "rate", "std_error", "active", "dimensions"])


def _site_rate(terms: RowTerms, name: str) -> Tensor:
    """The rate of one latent site, [S,B]; NaN where it cannot be told from that of others."""
    missing = torch.full_like(terms.log_likelihood, math.nan)
    if name not in terms.model_sites:
        return missing
    auxiliary = [site.log_prob for other, site in terms.guide_sites.items() if other not in terms.latents]
    points = [other for other in terms.latents if terms.guide_sites[other].family == "Delta"]
    if not auxiliary or name not in points:
        return terms.site_rate(name)
    # log q of what follows from auxiliary sites is theirs less log|det| of the map.
    return terms.site_rate(name) + torch.stack(auxiliary).sum(0) if points == [name] else missing


def _of_entries(terms: RowTerms, name: str) -> dict[str, Tensor]:
    """Figures of every entry of one latent, [S, B, *inner plates, *event], those that there are."""
    p = terms.model_sites.get(name)
    found = {
        "counted": terms.counted(name),
        "rate": terms.entry_rates(name),
        "marginal_rate": terms.marginal_rates(name),
    }
    with suppress(NotImplementedError):
        if isinstance(p, ScoredSite):
            found["prior_variance"] = terms.in_rows(p.distribution.variance, name)
    return {figure: values for figure, values in found.items() if values is not None}


def _verdict(rate: float, spread: float, active: bool, variance: float, rate_of_site: float) -> str:
    """What to say of an entry whose rate has a mean and a standard deviation over rows."""
    if math.isnan(rate) and rate_of_site < NO_RATE:
        rate = rate_of_site
    if rate < NO_RATE:
        return "collapsed"
    if active:
        return "active"
    if math.isnan(rate):
        return "unknown"
    if math.isnan(variance):
        return "active"
    if rate < COSTLY_RATE:
        return "collapsed"
    return "constant" if spread < SAME_RATE * rate else "active"


def mean_over_rows(values: Tensor) -> tuple[float, float]:
    """The mean over rows and its standard error, NaN for a single row."""
    N = len(values)
    return float(values.mean()), float(values.std() / math.sqrt(N)) if N > 1 else math.nan


def _enumerated_note(vae: VAE) -> str:
    return f"{sorted(vae.layout.enumerated)} are summed out of the model: the guide has no rate or mean for them."
