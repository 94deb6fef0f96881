"""Quantities that calibration ranks beside single latents: users' own functions, and the distance to a random point."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.latents import one_or_dict

Quantity: TypeAlias = Callable[..., Tensor]
"""(z, x, *context) -> [S,B]: z [S,B,...], a dict by site where the model has several latents, x [B,...]."""

LIKELIHOOD, GUIDE, DISTANCE = "log p(x|z)", "log q(z|x)", "distance to a random point"


def check_quantities(
    quantities: Mapping[str, Quantity] | None, taken: Collection[str]
) -> dict[str, Quantity]:
    """The functions by name.

    Raises:
        TypeError: something else than functions by name.
        ValueError: a name that calibration itself uses.

    """
    if quantities is None:
        return {}
    if not isinstance(quantities, Mapping) or not all(map(callable, quantities.values())):
        raise TypeError(
            f"quantities is {quantities!r}: expected functions by name, "
            "quantities={'norm': lambda z, x: z.norm(dim=-1)}."
        )
    if not all(isinstance(name, str) for name in quantities):
        raise TypeError(f"quantities has the names {list(quantities)}: expected strings.")
    if used := {*quantities} & {LIKELIHOOD, GUIDE, DISTANCE, *taken}:
        raise ValueError(f"quantities has {sorted(used)}, which calibrate ranks anyhow: take another name.")
    return dict(quantities)


def values_of(name: str, function: Quantity, latents: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """A quantity of draws and of the truth behind them, [S,B]; NaN where a row has none.

    Raises:
        ValueError: something else than one number for each draw and row, or NaN for some draws of a row alone.

    """
    S, B = next(iter(latents.values())).shape[:2]
    found = function(one_or_dict(dict(latents)), *batch.arguments)
    if not isinstance(found, Tensor) or found.shape != (S, B):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the quantity '{name}' gave {what} for {S} draws of {B} rows: expected one number each, [{S}, {B}]; "
            "latents come as [S, B, ...], so reduce over the last dimensions, e.g. z.norm(dim=-1)."
        )
    absent = found.isnan()
    if bool((absent.any(0) & ~absent.all(0)).any()):
        raise ValueError(
            f"the quantity '{name}' is NaN for some draws of a row and not for others: expected numbers, or NaN for "
            "all draws of a row that has no such quantity."
        )
    return found.detach().double() if not found.is_floating_point() else found.detach()


@dataclass(frozen=True)
class RandomPoints:
    """A point for each of M rows, drawn from the prior whatever the row, and each number's spread there.

    By site: `points` [M,...], `spreads` [...].
    """

    points: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor]

    @classmethod
    def of(cls, points: Mapping[str, Tensor]) -> RandomPoints:
        """Of draws of the prior, [M,...] by site."""
        spreads = {name: z.double().std(0) for name, z in points.items()}
        return cls(points, {name: s.where(s > 0, 1.0) for name, s in spreads.items()})

    def __getitem__(self, rows: slice) -> RandomPoints:
        """Those of some rows."""
        return RandomPoints({name: z[rows] for name, z in self.points.items()}, self.spreads)

    def distance(self, latents: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Tensor:
        """The squared distance of draws [S,B,...] from their row's point, [S,B], each number in units of its spread.

        Labels are as far as they are different; numbers that a mask leaves out, False in `kept`, do not count.
        """
        parts = []
        for name, z in latents.items():
            point = self.points[name].to(z.device)
            if z.is_floating_point():
                away = ((z.double() - point.double()) / self.spreads[name].to(z.device)) ** 2
            else:
                away = (z != point).double()
            away = away * kept[name].to(z.device) if name in kept else away
            parts.append(away.reshape(*z.shape[:2], -1).sum(-1))
        return torch.stack(parts).sum(0)
