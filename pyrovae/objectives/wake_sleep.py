"""Reweighted wake-sleep: no gradient through draws, so any latent will do, discrete ones too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyrovae.checks import check_count
from pyrovae.data import Batch
from pyrovae.objectives.base import RowLosses, RowObjective, refuse_shared
from pyrovae.objectives.paths import cut_terms
from pyrovae.pair.programs import Pair


@dataclass(eq=False, repr=False)
class ReweightedWakeSleep(RowObjective):
    """Model and guide each climb a likelihood of their own, at draws weighed by importance.

        model (wake-theta)   sum_k v_k grad log p(x, z_k)
        guide (wake-phi)     sum_k v_k grad log q(z_k|x)
        v_k = w_k / sum_j w_j,   w = p(x, z) / q(z|x),   z_k ~ q(z|x)

    The draws and v_k are held fixed. The model's gradient is that of the importance-weighted bound; the
    guide's, as K grows, that of E_p(z|x)[log q(z|x)], the inclusive divergence KL(p || q). The loss that is told
    is the negative bound, -log 1/K sum_k w_k; nothing minimizes it with regard to the guide. Bornschein &
    Bengio, "Reweighted Wake-Sleep" (2015), https://arxiv.org/abs/1406.2751; Le, Kosiorek, Siddharth, Teh, Wood,
    "Revisiting Reweighted Wake-Sleep for Models with Stochastic Control Flow" (2018),
    https://arxiv.org/abs/1805.10469.

    Args:
        num_samples: K, at least 2: one draw alone weighs 1 whatever it is, and says nothing about q.

    Raises:
        ValueError: `num_samples` below 2; at a call, a guide with a Delta, which has no density to climb; or
            as `RowObjective`.

    Example:
        >>> import pyrovae as pv
        >>> pv.objectives.ReweightedWakeSleep(num_samples=10)
        ReweightedWakeSleep(num_samples=10)

    """

    num_samples: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_samples", self.num_samples)
        if self.num_samples < 2:
            raise ValueError(
                "num_samples is 1: one draw alone weighs 1 and teaches the guide nothing. Give at least 2."
            )

    def evaluate(self, pair: Pair, batch: Batch) -> RowLosses:
        """The loss of each row of a batch."""
        refuse_shared(pair, self)
        terms = cut_terms(pair, batch, self.num_samples).terms
        for name, site in terms.guide_sites.items():
            if site.family == "Delta":
                raise ValueError(
                    f"the guide samples '{name}' from a Delta, which has no density that wake-sleep could fit. Let the "
                    "guide sample its latents themselves, or use objectives.ELBO() or objectives.IWAE(K)."
                )
        log_weights = terms.log_weights.detach()
        log_joint = terms.log_likelihood + terms.log_prior
        surrogate = -(log_weights.softmax(0) * (log_joint + terms.log_guide)).sum(0)
        value = math.log(self.num_samples) - log_weights.logsumexp(0)
        return RowLosses.of(terms, value, surrogate)
