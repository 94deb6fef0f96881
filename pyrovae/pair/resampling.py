"""Which of some weighted draws go on, and how often."""

from __future__ import annotations

import torch
from torch import Tensor


def systematic_places(weights: Tensor, num_samples: int) -> Tensor:
    """S sorted places among M draws, [..., S], each as often as its weight [..., M] says, up to rounding by chance.

    One uniform number decides for each of the leading dimensions: Carpenter, Clifford, Fearnhead, "An improved particle
    filter for non-linear problems" (1999), https://doi.org/10.1049/ip-rsn:19990255. On average a draw is taken S times
    its weight; equal weights take each of M = S draws once. Weights are float64; their sum need not be 1.
    """
    start = torch.rand(*weights.shape[:-1], 1, dtype=torch.float64, device=weights.device)
    levels = torch.arange(num_samples, dtype=torch.float64, device=weights.device) + start
    return _places(weights, levels / num_samples)


def independent_places(weights: Tensor, num_samples: int) -> Tensor:
    """S places among M draws, [..., S], drawn independently of each other by their weights [..., M] (multinomial)."""
    shape = (*weights.shape[:-1], num_samples)
    return _places(weights, torch.rand(shape, dtype=torch.float64, device=weights.device))


def _places(weights: Tensor, levels: Tensor) -> Tensor:
    cumulated = weights.cumsum(-1)
    # Not the last sum in place of all: it must be above each level, and only the division makes it 1 exactly.
    cumulated = cumulated / cumulated[..., -1:]
    return torch.searchsorted(cumulated, levels, right=True).clamp(max=weights.shape[-1] - 1)
