"""What rows lack, as `pyrovae.impute` gives it: draws, means, probabilities, intervals, and what to believe of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.evidence.results import LogMarginal
from pyrovae.pair.latents import Latents, one_or_dict
from pyrovae.shown import Part, Shown


@dataclass(frozen=True)
class ImputedSite:
    """What one statement of the model observes of N rows, completed.

    `draws` [S,N,...], `mean` [N,...], `absent` [N,...] says what was; `probabilities` [N,...,options] of categories,
    None where values are no labels.
    """

    draws: Tensor
    mean: Tensor
    absent: Tensor
    probabilities: Tensor | None

    def interval(self, probability: float) -> tuple[Tensor, Tensor]:
        """Quantiles at the places (S + 1) p among the draws, [N,...] each; NaN for labels that are absent."""
        tail = (1 - probability) / 2
        quantiles = np.quantile(self.draws.numpy(), [tail, 1 - tail], axis=0, method="weibull")
        low, high = (torch.as_tensor(q, dtype=self.mean.dtype) for q in quantiles)
        if self.probabilities is not None:
            low, high = (end.masked_fill(self.absent, torch.nan) for end in (low, high))
        return low, high


@dataclass(frozen=True, repr=False)
class Imputation(Shown):
    """What `impute` gives: rows completed by draws from p(x_absent | x_observed).

    Where the model observes one site, tensors; where it observes several, dicts of them by site. A statement with
    `obs_mask=` is one site, by the name that the program gives it. `weights` says how the draws were weighed: it is
    log p(x_observed) with its error, effective sample size and Pareto k by row. `index` is what the rows are called
    where they were a data frame.
    """

    sites: dict[str, ImputedSite]
    weights: LogMarginal
    index: pd.Index | None = None

    @property
    def draws(self) -> Latents:
        """Equally weighted draws [S,N,...], in which what is observed stands as it was."""
        return self._by_site(lambda site: site.draws)

    @property
    def mean(self) -> Latents:
        """E[x | x_observed], [N,...], by all weighted draws; of categories the most probable one."""
        return self._by_site(lambda site: site.mean)

    @property
    def absent(self) -> Latents:
        """What was absent, [N,...]."""
        return self._by_site(lambda site: site.absent)

    @property
    def probabilities(self) -> dict[str, Tensor]:
        """Of the options of categories and labels, [N,...,options], by site; 1 for what is observed."""
        return {
            name: site.probabilities for name, site in self.sites.items() if site.probabilities is not None
        }

    @property
    def ess(self) -> Tensor:
        """Effective sample size of each row's weights, [N]."""
        return self.weights.ess

    @property
    def khat(self) -> Tensor:
        """Pareto k of each row's weights, [N]: where it is not below `weights.good_k`, distrust the row."""
        return self.weights.khat

    @property
    def verdict(self) -> str:
        """What Pareto k says of all rows together: see `LogMarginal.verdict`."""
        return self.weights.verdict

    def interval(self, probability: float = 0.9) -> tuple[Latents, Latents]:
        """Between which ends another draw lies with this probability, as much above as below: [N,...] each.

        With fewer than 2 / (1 - probability) - 1 draws they are the outermost ones, which hold less. What is observed
        is both ends. Labels, which have no order, have none: NaN.

        Raises:
            ValueError: a probability that is not between 0 and 1.

        """
        if not 0 < probability < 1:
            raise ValueError(f"probability is {probability!r}: expected a number between 0 and 1.")
        ends = {name: site.interval(probability) for name, site in self.sites.items()}
        low, high = (one_or_dict({name: both[end] for name, both in ends.items()}) for end in (0, 1))
        return low, high

    def to_frame(self, probability: float = 0.9) -> pd.DataFrame:
        """One row for each absent entry: data row, site, entry, mean, `low` and `high` (`interval`), ess and khat.

        `row` is the row's label in the index of the data frame that was given, else its place.
        `entry` is its place in the row, () where a row has one number. Of labels, `mean` is the most probable one and
        `probability` is its.
        """
        tables = []
        for name, site in self.sites.items():
            low, high = site.interval(probability)
            places = site.absent.nonzero()
            rows = places[:, 0]
            best = torch.full((len(places),), torch.nan)
            if site.probabilities is not None:
                best = site.probabilities[site.absent].amax(-1)
            entries = places[:, 1:].squeeze(1) if places.shape[1] == 2 else places[:, 1:]
            columns = {
                "row": rows.numpy(),
                "site": name,
                "entry": [tuple(e) if isinstance(e, list) else e for e in entries.tolist()],
                "mean": site.mean[site.absent].numpy(),
                "low": low[site.absent].numpy(),
                "high": high[site.absent].numpy(),
                "probability": best.numpy(),
                "ess": self.ess[rows].numpy(),
                "khat": self.khat[rows].numpy(),
            }
            tables.append(pd.DataFrame(columns))
        frame = pd.concat(tables, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)
        return frame if self.index is None else frame.assign(row=self.index[frame["row"]])

    def __len__(self) -> int:
        """N."""
        return len(self.weights)

    def sections(self) -> list[list[Part]]:
        """What is said of all rows, and the table of what was absent."""
        return [[str(self)], [self.to_frame()]]

    def __str__(self) -> str:
        parts = [f"{site.absent.double().mean():.1%} of {name}" for name, site in self.sites.items()]
        shared = self.weights.shared
        at = "" if shared is None else f" at {shared.num_draws} draws of {shared}"
        others = "; so many are bad that the others are no better" if self.verdict == "poor" else ""
        return (
            f"{', '.join(parts)} absent in {len(self)} rows and imputed by {self.weights.num_samples} weighted draws"
            f"{at} (median effective sample size {self.ess.median():.0f}; {self.weights.reliability}{others})"
        )

    def _by_site(self, part: Callable[[ImputedSite], Tensor]) -> Latents:
        return one_or_dict({name: part(site) for name, site in self.sites.items()})
