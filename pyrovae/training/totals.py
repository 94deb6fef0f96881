"""What an epoch sums up over its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyrovae.training import gradient_norms

# Sums over the rows of a batch: the objective's loss, and the ELBO, log p(x|z) and rate of the same draws.
STATISTICS = ("loss", "elbo", "reconstruction", "rate")
# Of a history.
COLUMNS = ("epoch", *STATISTICS, "elbo_valid", *gradient_norms.COLUMNS, "seconds")


class Totals:
    """Sums of statistics over rows, and the number of rows; on a GPU they stay there until they are read."""

    def __init__(
        self, device: torch.device, sums: Sequence[float] = (0.0,) * len(STATISTICS), num_rows: int = 0
    ) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which has none of the latter
        self._sums, self._num_rows = torch.tensor(sums, dtype=dtype, device=device), num_rows

    def add(self, statistics: Tensor, num_rows: int) -> None:
        """Count one batch."""
        self._sums += statistics
        self._num_rows += num_rows

    def read(self) -> tuple[list[float], int]:
        """The sums and the number of rows."""
        return self._sums.tolist(), self._num_rows
