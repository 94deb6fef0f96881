"""Norms of the gradients of an epoch's steps, before clipping, and what they say of a training that stalls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

# Where nothing is clipped each norm is computed for the history alone: it takes 5 % of a small model's step.
LOOK_EVERY = 8
# Norms on the device that are kept one by one.
MOST_APART = 1024
# Of a history: the median over an epoch's steps, and the largest.
COLUMNS = ("gradient_norm", "gradient_norm_max")

# Epochs that are looked at for a stall at least, and their share of a history.
LEAST_EPOCHS, SHARE = 3, 4
# How far a norm must be above the usual to have exploded. Of trainings that go well it is below ten.
EXPLODED = 100.0


class GradientNorms:
    """The norms of one epoch's steps; on a GPU they stay there until they are read.

    Args:
        every: how many steps there are to each norm, of which the epoch's first has one.

    """

    def __init__(self, every: int) -> None:
        self._every = every
        self.forget()

    def forget(self) -> None:
        """Begin an epoch."""
        self._steps = 0
        self._norms: list[Tensor] = []

    @property
    def is_due(self) -> bool:
        """Whether the next step is one whose norm is taken."""
        return self._steps % self._every == 0

    def add(self, norm: Tensor | None) -> None:
        """Count a step, of this norm if it is due."""
        self._steps += 1
        if norm is not None:
            self._norms.append(norm.detach().reshape(1))
            if len(self._norms) == MOST_APART:
                self._norms = [torch.cat(self._norms)]

    def read(self) -> dict[str, float]:
        """Their median and the largest, by column; NaN without a finite one, as where losses are scaled too far."""
        norms = torch.cat(self._norms).double().cpu() if self._norms else torch.zeros(0)
        norms = norms[norms.isfinite()]
        figures = (float(norms.median()), float(norms.max())) if len(norms) else (math.nan, math.nan)
        return dict(zip(COLUMNS, figures, strict=True))

    @property
    def state(self) -> tuple[int, Tensor]:
        """How many steps have been counted, and the norms, for a resumed epoch."""
        return self._steps, torch.cat(self._norms) if self._norms else torch.zeros(0)

    def resume(self, steps: int, norms: Tensor) -> None:
        """Go on from a `state`, with the norms where steps give them."""
        self._steps, self._norms = steps, [norms] if len(norms) else []


def norm_of(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all entries together; does not wait for a GPU."""
    entries = [g.coalesce().values() if g.layout == torch.sparse_coo else g for g in gradients]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(entries)))


def why_stalled(history: Sequence[Mapping[str, float]]) -> str | None:
    """What to say of a training whose ELBO has not risen of late while gradients exploded; None of others.

    They have exploded where some are a hundred times as large as usual: as the median of these epochs, or of the
    epoch with the best ELBO.
    """
    count = max(LEAST_EPOCHS, len(history) // SHARE)
    if len(history) < 2 * count:
        return None
    late, before = history[-count:], history[:-count]
    mean_late, mean_before = (sum(row["elbo"] for row in rows) / count for rows in (late, before[-count:]))
    median, greatest = COLUMNS
    best = max(before, key=lambda row: row["elbo"])
    usual = min(best[median], statistics.median(row[median] for row in late))
    largest = max(row[greatest] for row in late)
    if mean_late > mean_before or not largest > EXPLODED * usual > 0:
        return None
    return (
        f"training has stalled: the ELBO has not risen over the last {count} epochs, and gradients had norms of up to "
        f"{largest:.2g} in them, where {usual:.2g} is usual. After such a step Adam takes tiny ones for hundreds "
        f"more. Clip gradients, clip_norm={2 * usual:.1g}, lower the learning rate, or scale the data."
    )
