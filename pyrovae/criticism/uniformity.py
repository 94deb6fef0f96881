"""Whether ranks are uniform: an exact test of their empirical distribution function.

Of N ranks in 0..L let C(r) be how many are at most r. For uniform ranks C(r) ~ Binomial(N, (r + 1) / (L + 1)), and

    gamma = min_r 2 min{ P(Binomial <= C(r)), P(Binomial >= C(r)) }

is small where the function leaves its envelope somewhere: "Graphical Test for Discrete Uniformity and Its
Applications in Goodness-of-Fit Evaluation and Multiple Sample Comparison" (Säilynoja, Bürkner, Vehtari, 2022),
https://doi.org/10.1007/s11222-022-10090-6. The p-value is gamma's own rank among those of simulated uniform ranks,
which makes the test exact for any N and L but for the Monte Carlo error of that simulation: it says "not uniform" of
uniform ranks at its nominal rate or below.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from pyrovae.block_sizes import NUMBERS_SIMULATED_AT_ONCE, slices

Counts = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]

# A gamma so much larger, which is rounding, is as small as another.
AS_SMALL = 1 + 1e-9


def uniformity_p_value(ranks: Counts, num_draws: int, num_null: int = 2000) -> float:
    """The probability of a gamma as small as that of these ranks, were they uniform on 0..num_draws.

    Args:
        ranks: [N]
        num_draws: L.
        num_null: simulated sets of uniform ranks; no p-value is below 1 / (num_null + 1).

    Example:
        >>> import numpy as np
        >>> uniformity_p_value(np.arange(100) % 10, num_draws=9), uniformity_p_value(np.zeros(100, int), 9) < 0.001
        (1.0, True)

    """
    _, null = _null(len(ranks), num_draws, num_null)
    # Simulated gammas equal to this one count as being as small: ranks are discrete.
    smaller = np.searchsorted(null, gamma(ranks, num_draws) * AS_SMALL, side="right")
    return float((1 + smaller) / (1 + num_null))


def gamma(ranks: Counts, num_draws: int) -> float:
    """The least two-sided tail probability of these ranks' cumulated counts.

    The smaller, the less uniform they are, also where p-values are all as small as they can be.

    Args:
        ranks: [N]
        num_draws: L.

    """
    counts = np.bincount(ranks, minlength=num_draws + 1)[None]
    return float(_gamma(counts, _tails(len(ranks), num_draws))[0])


def envelope(num_ranks: int, num_draws: int, rate: float, num_null: int = 2000) -> tuple[Counts, Counts]:
    """Between which cumulated counts C(0), ..., C(L - 1) the p-value is not below a rate: least and greatest, [L] each.

    `uniformity_p_value` is below the rate if and only if some C(r) lies outside.

    Args:
        num_ranks: N.
        num_draws: L.
        rate: above 0 and below 1.
        num_null: as for the p-value.

    Example:
        >>> least, greatest = envelope(100, num_draws=4, rate=0.05)
        >>> least.tolist(), greatest.tolist()
        ([11, 29, 49, 70], [30, 51, 71, 89])

    """
    tails, null = _null(num_ranks, num_draws, num_null)
    # The p-value is not below the rate where so many simulated gammas are as small.
    enough = int(np.argmax((1 + np.arange(num_null + 1)) / (1 + num_null) >= rate))
    inside = tails * AS_SMALL >= null[enough - 1] if enough else np.ones(tails.shape, dtype=bool)
    # Tails rise and then fall with the count: what is inside lies together.
    return inside.argmax(1), num_ranks - inside[:, ::-1].argmax(1)


def nulls_for(num_tests: int, rate: float) -> int:
    """So many simulated sets that p-values far below the rate divided by the number of tests can be seen."""
    return max(2000, math.ceil(20 * num_tests / rate))


@functools.lru_cache(maxsize=32)
def _null(N: int, num_draws: int, num_null: int) -> tuple[Probabilities, Probabilities]:
    """Both-sided tail probabilities of C(r) by r and count, and sorted gammas of uniform ranks."""
    tails = _tails(N, num_draws)
    generator = np.random.default_rng(0)
    chances = np.full(num_draws + 1, 1 / (num_draws + 1))
    null = np.empty(num_null)
    for some in slices(num_null, max(1, NUMBERS_SIMULATED_AT_ONCE // (num_draws + 1))):
        null[some] = _gamma(generator.multinomial(N, chances, size=some.stop - some.start), tails)
    return tails, np.sort(null)


@functools.lru_cache(maxsize=32)
def _tails(N: int, num_draws: int) -> Probabilities:
    """Both-sided tail probabilities of C(r), [L, N + 1]."""
    from scipy.stats import binom  # not at the top: it takes time to import

    below = np.arange(1, num_draws + 1)[:, None] / (num_draws + 1)
    counts = np.arange(N + 1)[None]
    both: Probabilities = 2 * np.minimum(binom.cdf(counts, N, below), binom.sf(counts - 1, N, below))
    return both


def _gamma(counts: Counts, tails: Probabilities) -> Probabilities:
    """gamma of sets of ranks, from how many have each value: [sets, L + 1] -> [sets]."""
    cumulated = counts.cumsum(1)[:, :-1]
    return tails[np.arange(len(tails))[None], cumulated].min(1)
