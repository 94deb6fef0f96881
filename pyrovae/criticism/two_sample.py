"""Whether two samples that come in pairs are of one distribution: maximum mean discrepancy, by swapping within pairs.

Of pairs (x_i, y_i), i = 1..M, that are exchangeable under the hypothesis, swapping any of them changes no
distribution. With a kernel k, and h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j),

    T = sum_{i != j} h_ij / sqrt(2 sum_{i != j} h_ij^2)

is an unbiased estimate of the squared discrepancy, "A Kernel Two-Sample Test" (Gretton, Borgwardt, Rasch, Schölkopf,
Smola, 2012), https://jmlr.org/papers/v13/gretton12a.html, in units of its spread over swaps: swapping pair i turns the
sign of h_ij, whatever else the kernel was fitted to of all rows together. So the rank of T among those of random swaps
is exact, for any M and any kernel. Of several sets of features the largest T counts, and each has a p-value for it
("Resampling-Based Multiple Testing", Westfall & Young, 1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Widths of the kernels that are averaged, in units of the median distance.
WIDTHS = (0.5, 1.0, 2.0, 4.0)
# Swaps that are tried together.
SWAPS_AT_ONCE = 256
# T so much larger, which is rounding, is as large as another.
ROUNDING = 1e-9


@dataclass(frozen=True)
class SwapTest:
    """Of G sets of features: T [G], p-values for the largest T of all [G], and witnesses of both samples, [G,M] each.

    A row's witness is its mean kernel with the other sample less that with its own, other pairs alone: above zero where
    it lies nearer the other one.
    """

    statistics: Tensor
    p_values: Tensor
    witness: Tensor
    witness_of_others: Tensor


def swap_test(
    features: Mapping[str, tuple[Tensor, Tensor]], num_swaps: int, generator: torch.Generator
) -> SwapTest:
    """Test pairs of rows, [M,k] of either sample by the name of a set of features, NaN where both lack a number.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 100, 3, generator=generator)
        >>> found = swap_test({"same": (x, y), "moved": (x, y + 1)}, 199, generator)
        >>> (found.p_values < 0.05).tolist()
        [False, True]

    """
    kernels = [_kernels(x.double(), y.double()) for x, y in features.values()]
    discrepancies = [own + others - across - across.T for own, others, across in kernels]
    for h in discrepancies:
        h.fill_diagonal_(0.0)
    spreads = [float((2 * (h**2).sum()).sqrt()) for h in discrepancies]
    observed = torch.stack([_scaled(h.sum(), s) for h, s in zip(discrepancies, spreads, strict=True)])
    largest = []
    M = len(discrepancies[0])
    for first in range(0, num_swaps, SWAPS_AT_ONCE):
        count = min(SWAPS_AT_ONCE, num_swaps - first)
        signs = 2.0 * torch.randint(0, 2, (count, M), generator=generator, dtype=torch.float64) - 1
        swapped = [
            _scaled(((signs @ h) * signs).sum(1), s) for h, s in zip(discrepancies, spreads, strict=True)
        ]
        largest.append(torch.stack(swapped).amax(0))
    reached = torch.cat(largest)[:, None] >= observed - ROUNDING
    witnesses = [_witnesses(*kernel) for kernel in kernels]
    return SwapTest(
        observed,
        (1 + reached.sum(0)) / (1 + num_swaps),
        torch.stack([own for own, _ in witnesses]),
        torch.stack([others for _, others in witnesses]),
    )


def _scaled(total: Tensor, spread: float) -> Tensor:
    """T; 0 where all rows are alike."""
    return total / spread if spread > 0 else torch.zeros_like(total)


def _kernels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k(x, x), k(y, y) and k(x, y), [M,M]: of both samples together in what is fitted, so that swaps change nothing."""
    M = len(x)
    both = torch.cat([x, y])
    centred = both - both.nanmean(0)
    count = (~both.isnan()).sum(0)
    spread = (centred.nan_to_num(0.0) ** 2).sum(0) / count.clamp(min=1)
    # What is NaN, in both rows of a pair, lies in the middle.
    standard = (centred / spread.where(spread > 0, 1.0).sqrt()).nan_to_num(0.0)
    squares = torch.cdist(standard, standard, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    above = squares[torch.triu(torch.ones_like(squares, dtype=torch.bool), 1)]
    median = above[above > 0].median() if bool((above > 0).any()) else torch.ones(())
    kernel = torch.stack([(-squares / (2 * width**2 * median)).exp() for width in WIDTHS]).mean(0)
    return kernel[:M, :M], kernel[M:, M:], kernel[:M, M:]


def _witnesses(own: Tensor, others: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Of both samples' rows, [M] each."""
    M = len(own)
    own, others, across = (k - torch.diag(k.diagonal()) for k in (own, others, across))
    first = across.sum(1) - own.sum(1)
    second = across.sum(0) - others.sum(1)
    return first / (M - 1), second / (M - 1)
