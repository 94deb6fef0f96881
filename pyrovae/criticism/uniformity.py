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

import numpy as np
import numpy.typing as npt

from pyrovae.block_sizes import NUMBERS_SIMULATED_AT_ONCE, slices

Counts = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


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
    tails, null = _null(len(ranks), num_draws, num_null)
    counts = np.bincount(ranks, minlength=num_draws + 1)[None]
    # Simulated gammas equal to this one count as being as small: ranks are discrete.
    smaller = np.searchsorted(null, _gamma(counts, tails)[0] * (1 + 1e-9), side="right")
    return float((1 + smaller) / (1 + num_null))


@functools.lru_cache(maxsize=32)
def _null(N: int, num_draws: int, num_null: int) -> tuple[Probabilities, Probabilities]:
    """Both-sided tail probabilities of C(r) by r and count, and sorted gammas of uniform ranks."""
    from scipy.stats import binom  # not at the top: it takes time to import

    below = np.arange(1, num_draws + 1)[:, None] / (num_draws + 1)
    counts = np.arange(N + 1)[None]
    tails = 2 * np.minimum(binom.cdf(counts, N, below), binom.sf(counts - 1, N, below))
    generator = np.random.default_rng(0)
    chances = np.full(num_draws + 1, 1 / (num_draws + 1))
    null = np.empty(num_null)
    for some in slices(num_null, max(1, NUMBERS_SIMULATED_AT_ONCE // (num_draws + 1))):
        null[some] = _gamma(generator.multinomial(N, chances, size=some.stop - some.start), tails)
    return tails, np.sort(null)


def _gamma(counts: Counts, tails: Probabilities) -> Probabilities:
    """gamma of sets of ranks, from how many have each value: [sets, L + 1] -> [sets]."""
    cumulated = counts.cumsum(1)[:, :-1]
    return tails[np.arange(len(tails))[None], cumulated].min(1)
