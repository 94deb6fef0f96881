"""Rows of a table as what an encoder reads: numbers of the order of one, and which entries are there."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyrovae.nn import Standardize
from pyrovae.tables.schema import Schema

# Numbers so far from the rest of their column say no more to an encoder than that they are far.
_FARTHEST = 10.0


class TableFeatures(nn.Module):
    """Rows x [..., D] as `Schema.to_tensor` gives them, to features [..., F] in the dtype of networks.

    Numbers are standardized, those of positive columns as logarithms and counts as log(1 + x); of categories each
    option has a number, 1 where it is. Absent entries are zero; the last D features say which entries are there.

    Args:
        schema: of the table.
        values: rows that numbers are standardized by, [N, D].

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"age": [31, 50, 42, 19], "city": ["Bern", "Basel", None, "Bern"]})
        >>> schema = Schema.of(frame)
        >>> TableFeatures(schema, schema.to_tensor(frame))(schema.to_tensor(frame))[:, 1:]
        tensor([[0., 1., 1., 1.],
                [1., 0., 1., 1.],
                [0., 0., 1., 0.],
                [0., 1., 1., 1.]])

    """

    def __init__(self, schema: Schema, values: Tensor) -> None:
        super().__init__()
        columns = schema.modelled
        self._options = {
            place: column.options
            for place, column in enumerate(columns)
            if column.kind in ("category", "boolean")
        }
        numeric = [place for place in range(len(columns)) if place not in self._options]
        self._logarithms = [place for place in numeric if columns[place].kind in ("positive", "count")]
        self._plain = [place for place in numeric if place not in self._logarithms]
        # Of which column each feature is.
        self.places = [*self._plain, *self._logarithms]
        self.places += [place for place, options in self._options.items() for _ in range(options)]
        self.size = len(self.places) + len(columns)
        self.shift: Tensor
        self.dtype_of: Tensor
        shift = [float(columns[place].kind == "count") for place in self._logarithms]
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float64), persistent=False)
        self.register_buffer("dtype_of", torch.zeros(()), persistent=False)  # that of the networks
        self.standardize = Standardize(max(1, len(numeric))).double()
        self.standardize.learn(self._numbers(values) if numeric else torch.zeros(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features [..., F] of rows [..., D]."""
        present = ~x.isnan()
        parts = []
        if self._plain or self._logarithms:
            numbers = cast(Tensor, self.standardize(self._numbers(x)))
            parts.append(numbers.nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST))
        for place, options in self._options.items():
            label = one_hot(x[..., place].nan_to_num(0.0).long(), options)
            parts.append(label * present[..., place : place + 1])
        return torch.cat([part.to(self.dtype_of.dtype) for part in (*parts, present)], -1)

    def present(self, x: Tensor) -> Tensor:
        """Which of the features but the last D a row has, [..., F - D]."""
        return ~x[..., self.places].isnan()

    def units(self, features: list[int]) -> tuple[Tensor, Tensor]:
        """By which mean and size some features, numbers, are standardized."""
        return self.standardize.centre[features], 1 / self.standardize.scale[features]

    def _numbers(self, x: Tensor) -> Tensor:
        """The columns that are no categories, [..., d], on the scale on which they are standardized."""
        logarithms = torch.log(x[..., self._logarithms] + self.shift)
        return torch.cat([x[..., self._plain], logarithms], -1).double()
