"""What simulated rows tell of the latents that made them: means against the truth, z-scores and contraction."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pyrovae.shown import Part, Shown, text_of

QUANTITIES_TO_PRINT = 12


@dataclass(frozen=True, repr=False)
class Recovery(Shown):
    """Truth, and mean and standard deviation of the guide's draws, of each quantity in M simulations: [M,Q].

    "Calibrating Model-Based Inferences and Decisions" (Betancourt, 2018), https://arxiv.org/abs/1803.08393,
    section 4.1. NaN where a mask leaves a quantity out.

    It says how much rows tell of the latents, and not whether the guide is right: a guide that returns a prior from
    which rows tell nothing recovers nothing and is exact.

    Example:
        >>> truth = torch.tensor([[0.0], [1.0], [2.0]])
        >>> float(Recovery(truth, truth, torch.full((3, 1), 0.5), ("z",)).to_frame().loc["z", "contraction"])
        0.75

    """

    truth: Tensor
    mean: Tensor
    spread: Tensor
    quantities: tuple[str, ...]

    @property
    def z_score(self) -> Tensor:
        """(mean - truth) / spread, [M,Q]: of an exact guide with mean 0 and standard deviation 1 over simulations."""
        return (self.mean - self.truth) / self.spread

    @property
    def contraction(self) -> Tensor:
        """1 - spread^2 / Var(truth), [M,Q]: 0 where a row tells nothing of a quantity, 1 where it tells all.

        The variance is that over simulations.
        """
        known = ~self.truth.isnan()
        count = known.sum(0)
        centred = torch.where(known, self.truth - self.truth.nanmean(0), 0.0)
        return 1 - self.spread**2 / ((centred**2).sum(0) / (count - 1))

    def to_frame(self) -> pd.DataFrame:
        """One row a quantity, over simulations.

        `correlation` of mean and truth, `rmse` of the mean, the mean `contraction`, and `z_mean` and `z_spread`, mean
        and standard deviation of the z-scores.
        """
        lines = {name: self._line(place) for place, name in enumerate(self.quantities)}
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("quantity")

    def _line(self, place: int) -> dict[str, float]:
        known = ~self.truth[:, place].isnan()
        truth, mean, z, contraction = (
            figures[known, place] for figures in (self.truth, self.mean, self.z_score, self.contraction)
        )
        return {
            "correlation": float(torch.corrcoef(torch.stack([truth, mean]))[0, 1]),
            "rmse": float((mean - truth).square().mean().sqrt()),
            "contraction": float(contraction.mean()),
            "z_mean": float(z.mean()),
            "z_spread": float(z.std()),
        }

    def sections(self) -> list[list[Part]]:
        """The table, worst recovered first, and what it says."""
        frame = self.to_frame().sort_values("contraction", kind="stable").head(QUANTITIES_TO_PRINT)
        shown = (
            f", the least {len(frame)} of {len(self.quantities)}" if len(frame) < len(self.quantities) else ""
        )
        return [
            [f"Recovery of the truth in {len(self.truth)} simulations, by contraction{shown}", frame],
            [
                "How much rows tell of each quantity (contraction 0: nothing, 1: all), not whether the guide is right; "
                "z-scores of an exact guide have mean 0 and spread 1."
            ],
        ]

    def __str__(self) -> str:
        return text_of(self.sections(), ".4f")
