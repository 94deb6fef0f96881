"""Importance-weighted bounds: tighter than the ELBO, by several draws for each row."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.data import Batch
from pyrovae.objectives.base import RowLosses, RowObjective, refuse_shared
from pyrovae.objectives.paths import cut_terms, refuse_moving_supports, refuse_scores
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import row_terms
from pyrovae.pair.terms import RowTerms


@dataclass(eq=False, repr=False)
class IWAE(RowObjective):
    """The negative importance-weighted bound by row; MIWAE with several bounds.

        loss(x) = -1/M sum_m log 1/K sum_k w_mk,    w = p(x, z) / q(z|x),  z ~ q(z|x)

    Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders" (2015), https://arxiv.org/abs/1509.00519. The
    bound rises with K to log p(x); the guide's gradient loses its signal meanwhile, which the mean over M
    bounds (MIWAE) restores: Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better" (2018),
    https://arxiv.org/abs/1802.04537. K = 1 is the ELBO with M draws and the sampled rate. Latents that rows share are
    drawn once a bound: of M = 1 a single draw of them, K of each row given it.

    Args:
        num_samples: K, draws of one bound.
        num_bounds: M, bounds that are averaged: M K draws of each row.
        doubly_reparameterized: replace the guide's score by its own reparameterization, weighing each path by
            the square of its normalized weight: as unbiased, with a signal that grows with K. Tucker, Lawson,
            Gu, Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives" (2018),
            https://arxiv.org/abs/1810.04152. For K = 1 it is sticking the landing. (To leave the score out, with
            weights as they are, is biased for K > 1.)

    Raises:
        ValueError: `num_samples` or `num_bounds` below 1; at a call, a guide that draws without
            reparameterization, or as `RowObjective`.

    Example:
        >>> import pyrovae as pv
        >>> pv.objectives.IWAE(8, num_bounds=2, doubly_reparameterized=True)
        IWAE(num_samples=8, num_bounds=2, doubly_reparameterized=True)

    """

    num_samples: int
    _: KW_ONLY
    num_bounds: int = 1
    doubly_reparameterized: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_samples", self.num_samples)
        check_count("num_bounds", self.num_bounds)

    def evaluate(self, pair: Pair, batch: Batch) -> RowLosses:
        """The loss of each row of a batch."""
        if self.doubly_reparameterized:
            refuse_shared(pair, self)
            return self._by_paths(pair, batch)
        # One draw of what rows share for each bound: only given it does a mean over draws of rows bound log p(x).
        draws, bounds = (self.num_bounds, 1) if pair.layout.shared else (1, self.num_bounds)
        parts = [self._part(row_terms(pair, batch, self.num_samples * bounds)) for _ in range(draws)]
        return RowLosses.over_shared(parts)

    def _part(self, terms: RowTerms) -> tuple[RowTerms, RowLosses]:
        refuse_scores(terms.guide_sites)
        return terms, RowLosses.of(terms, -self._bound(terms.log_weights))

    def _by_paths(self, pair: Pair, batch: Batch) -> RowLosses:
        cut = cut_terms(pair, batch, self.num_samples * self.num_bounds)
        refuse_scores(cut.terms.guide_sites)
        refuse_moving_supports(cut.terms.guide_sites)
        log_weights = cut.terms.log_weights
        squares = self._grouped(log_weights.detach()).softmax(1) ** 2
        paths = -(squares * self._grouped(log_weights)).sum(1).mean(0)
        direct = -self._bound(cut.without_scores.log_weights)
        return RowLosses.of(cut.terms, -self._bound(log_weights), direct + cut.along_paths(paths))

    def _bound(self, log_weights: Tensor) -> Tensor:
        """The mean bound by row, [B], of log weights [M K, B]."""
        return (self._grouped(log_weights).logsumexp(1) - math.log(self.num_samples)).mean(0)

    def _grouped(self, log_weights: Tensor) -> Tensor:
        return log_weights.unflatten(0, (-1, self.num_samples))
