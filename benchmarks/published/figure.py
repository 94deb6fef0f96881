"""A published figure beside ours, and how an entry's figures are kept."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import report

RESULTS = report.RESULTS / "published"
# Of the published figure: how far ours may be from it where the paper states no error, or a smaller one.
ALLOWED = 0.01


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        what: it is of, with its unit.
        ours: what came out here.
        error: of ours; NaN where there is none.
        error_of: what that error is of.
        published: what the source says; NaN where ours has no counterpart.
        published_error: as the source states it; NaN where it states none.
        source: where it is published.
        trained: how much of the recipe's training was done.
        seconds: that our training took.
        higher_is_better: as a log density is.

    """

    what: str
    ours: float
    error: float
    error_of: str
    published: float
    published_error: float
    source: str
    trained: str
    seconds: float
    higher_is_better: bool = False

    @property
    def agrees(self) -> str:
        """Whether ours is within the paper's error or 1 % of the published figure, and if not, on which side."""
        if pd.isna(self.published):
            return ""
        allowed = ALLOWED * abs(self.published)
        if not pd.isna(self.published_error):
            allowed = max(allowed, self.published_error)
        gap = self.ours - self.published
        if abs(gap) <= allowed:
            return "yes"
        return "better" if (gap > 0) == self.higher_is_better else "no"


def write(
    name: str,
    title: str,
    figures: Sequence[Figure],
    settings: Mapping[str, Any],
    findings: str = "",
    curve: pd.DataFrame | None = None,
    folder: Path = RESULTS,
) -> None:
    """Keep an entry's figures as `name`.md and `name`.csv, and the training curve as `name`_curve.csv."""
    table = pd.DataFrame([asdict(figure) | {"agrees": figure.agrees} for figure in figures])
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"title": title, **settings, "findings": findings, "hardware": hardware()}
    report.write(name, title, table, settings | {"hardware": hardware()}, findings, folder)
    table.assign(**{key: str(value) for key, value in whole.items()}).to_csv(
        folder / f"{name}.csv", index=False
    )
    if curve is not None:
        curve.round(4).to_csv(folder / f"{name}_curve.csv", index=False)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds, and their standard deviation (NaN for one)."""
    found = pd.Series(values, dtype=float)
    return float(found.mean()), float(found.std())


def hardware() -> str:
    """What it ran on, and how busy that was."""
    load = f"{os.getloadavg()[0]:.0f}"
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return (
        f"{device}, {os.cpu_count()} cores with a load of {load}, {threads} thread{'s' * (threads > 1)}, "
        f"torch {torch.__version__}"
    )
