"""How strange rows are, and which of their entries: conformal p-values against rows that training has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.evidence.marginal import log_marginal
from pyrovae.shown import Section, Shown
from pyrovae.tables.schema import Schema
from pyrovae.vae import VAE


@dataclass(frozen=True, repr=False)
class Outliers(Shown):
    """What `TabularVAE.outliers` gives.

    Attributes:
        rows: by row `p_value`, the `score` that it is by, `log_marginal`, its `std_error`, and `strangest`, the column
            that is strangest given the others (None of rows that are not looked into). The score is log p(x) with
            positive columns by their logarithms: a density in their own units is large where they are small, whether
            that is strange or not.
        cells: of the rows that are looked into, the score of each entry given the others of its row, in nats.
        cell_p_values: of these, against the same entries of held-out rows.
        num_held_out: how many rows the p-values are against: none is below 1 / (that + 1).

    """

    rows: pd.DataFrame
    cells: pd.DataFrame
    cell_p_values: pd.DataFrame
    num_held_out: int

    def __str__(self) -> str:
        said = (
            f"{len(self.rows)} rows against {self.num_held_out} held-out ones: "
            f"{int((self.rows['p_value'] <= 0.05).sum())} have p-values of at most 0.05"
        )
        least = 1 / (self.num_held_out + 1)
        if least > 0.05:
            said += (
                f"; no row can have less than {least:.3f} against so few: fit with a larger calibration_fraction, "
                "and read the order of the scores until then"
            )
        return said

    def sections(self) -> list[Section]:
        """The strangest rows first."""
        return [[str(self), self.rows.sort_values("p_value", kind="stable").head(20)]]


def outliers(
    vae: VAE,
    schema: Schema,
    frame: pd.DataFrame,
    log_p: tuple[np.ndarray, np.ndarray],
    held_out: np.ndarray,
    held_out_cells: Callable[[], np.ndarray],
    *,
    look_into: float,
    num_samples: int,
    seed: int,
) -> Outliers:
    """See `TabularVAE.outliers`; `log_p` are log p(x) and its error, `held_out` the scores of held-out rows."""
    score = log_p[0] + by_logarithms(schema, schema.to_tensor(frame)).sum(1).numpy()
    p = conformal(score, held_out)
    chosen = np.flatnonzero(p <= look_into)
    names = np.array([column.name for column in schema.modelled], dtype=object)
    rows = pd.DataFrame(
        {"p_value": p, "score": score, "log_marginal": log_p[0], "std_error": log_p[1]}, index=frame.index
    )
    cells = of_cells = np.empty((0, len(names)))
    which = np.full(len(frame), None, dtype=object)
    if len(chosen):
        values = schema.to_tensor(frame.iloc[chosen])
        cells = (cell_scores(vae, values, num_samples, seed) + by_logarithms(schema, values)).numpy()
        of_cells, places = strangest(cells, held_out_cells())
        which[chosen] = names[places]
    rows["strangest"] = which
    of_entries, p_values = (
        pd.DataFrame(each, index=frame.index[chosen], columns=names) for each in (cells, of_cells)
    )
    return Outliers(rows, of_entries, p_values, len(held_out))


def by_logarithms(schema: Schema, values: Tensor) -> Tensor:
    """What log densities of entries [N, D] gain where positive columns are taken by their logarithms: log x there."""
    positive = torch.tensor([column.kind == "positive" for column in schema.modelled])
    return torch.where(positive & ~values.isnan(), values, 1.0).log()


def conformal(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """(1 + number of held-out scores that are at most the row's) / (number of held-out scores + 1), [N].

    Where a row comes from what held-out rows come from, P(p <= a) <= a for every a, whatever the score is: Vovk,
    Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), proposition 2.2. Scores that are NaN give NaN.
    """
    held_out = np.sort(held_out[~np.isnan(held_out)])
    p = (1 + np.searchsorted(held_out, scores, side="right")) / (len(held_out) + 1)
    return np.where(np.isnan(scores), np.nan, p)


def cell_scores(vae: VAE, values: Tensor, num_samples: int, seed: int) -> Tensor:
    """log p(x_d | all other entries) of each entry that is there, [N, D] in nats; NaN of absent ones.

        log p(x_d | x_-d) = log p(x) - log p(x_-d)

    each by importance sampling with the guide of what it is of. Of rows that have one entry it is log p(x).
    """
    there = ~values.isnan()
    whole = log_marginal(vae, values, num_samples=num_samples, seed=seed).log_marginal
    rows, places = (there & (there.sum(1, keepdim=True) > 1)).nonzero(as_tuple=True)
    scores = torch.where(there, whole[:, None], torch.nan)
    if len(rows):
        without = values[rows].clone()
        without[torch.arange(len(rows)), places] = torch.nan
        others = log_marginal(vae, without, num_samples=num_samples, seed=seed).log_marginal
        scores[rows, places] = whole[rows] - others
    return scores


def strangest(cells: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p-values of entries [N, D] against those of held-out rows [C, D], and which entry of each row is strangest, [N].

    That is the one with the fewest held-out ones below it, and of equals the one that lies most nats below their
    middle: without it the rest of the row is most probable.
    """
    p = np.stack([conformal(cells[:, d], held_out[:, d]) for d in range(cells.shape[1])], 1)
    counts = (~np.isnan(held_out)).sum(0)
    share = (p * (counts + 1) - 1).round() / counts
    below = cells - np.nanmedian(held_out, 0)
    order = np.lexsort((np.nan_to_num(below, nan=np.inf), np.nan_to_num(share, nan=np.inf)), axis=1)
    return p, order[:, 0]
