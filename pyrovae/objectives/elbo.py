"""The evidence lower bound, with its usual changes: a weight on the rate, a floor under it, path gradients."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.data import Batch
from pyrovae.objectives.base import RowLosses, RowObjective, refuse_shared
from pyrovae.objectives.free_bits import FreeBits
from pyrovae.objectives.paths import cut_terms, refuse_moving_supports, refuse_scores
from pyrovae.objectives.schedules import Coefficient, Scheduled
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import row_terms
from pyrovae.pair.terms import RowTerms


@dataclass(eq=False, repr=False)
class ELBO(RowObjective):
    """The negative evidence lower bound by row, its draws reparameterized.

        loss(x) = -E_q[log p(x|z)] + beta KL(q(z|x) || p(z))

    Kingma & Welling, "Auto-Encoding Variational Bayes" (2013), https://arxiv.org/abs/1312.6114; beta: Higgins et
    al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework" (2017),
    https://openreview.net/forum?id=Sy2fzU9gl. With beta = 1 and nothing else, value and gradient are in
    expectation those of `pyro.infer.Trace_ELBO`. Latents that rows share have a rate of their own, which beta weighs
    too; each of the S draws has its own of them. A history logs the ELBO of beta = 1, whatever the loss.

    Args:
        num_samples: S, draws of z for each row; a network that broadcasts encodes each row once.
        beta: the rate's weight, at least 0: a number or a schedule (`LinearWarmUp`, `Cyclical`, any
            `f(step, epoch)`).
        analytic_kl: the rate of each site in closed form where there is one and it is right, else sampled as
            log q - log p. None: yes, unless `sticking_the_landing`, which needs the sampled one.
        free_bits: a floor under the rate of each site or dimension.
        sticking_the_landing: leave the guide's score out of the gradient, whose mean is zero: the gradient's
            variance vanishes where q(z|x) = p(z|x). Roeder, Wu, Duvenaud, "Sticking the Landing: Simple,
            Lower-Variance Gradient Estimators for Variational Inference" (2017),
            https://arxiv.org/abs/1703.09194.

    Raises:
        ValueError: `num_samples` below 1, a negative or NaN beta or schedule, settings that exclude each other; at
            a call, a guide that draws without reparameterization, or as `RowObjective`.

    Example:
        >>> import pyro, pyrovae as pv
        >>> from pyrovae.data import Batch
        >>> model = pv.models.LatentVariableModel(
        ...     pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6))
        ... )
        >>> vae = pv.VAE(model, example=torch.zeros(5, 6))
        >>> objective = pv.objectives.ELBO(beta=pv.objectives.LinearWarmUp(steps=1000))
        >>> with vae.scope():
        ...     objective.evaluate(vae, Batch((torch.zeros(5, 6),))).value.shape
        torch.Size([5])

    """

    num_samples: int = 1
    _: KW_ONLY
    beta: Coefficient = 1.0
    analytic_kl: bool | None = None
    free_bits: FreeBits | None = None
    sticking_the_landing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_samples", self.num_samples)
        self._beta = Scheduled("beta", self.beta)
        self._scheduled = (self._beta,)
        self.mixes_rows = self.free_bits is not None
        if self.free_bits is not None and not isinstance(self.free_bits, FreeBits):
            raise TypeError(f"free_bits is {self.free_bits!r}: expected objectives.FreeBits(nats).")
        if self.analytic_kl and self.sticking_the_landing:
            raise ValueError(
                "sticking the landing needs the sampled rate: give analytic_kl=False or leave it out."
            )
        if self.analytic_kl is None:
            self.analytic_kl = not self.sticking_the_landing
        if self.free_bits is not None and self.free_bits.per_dimension and not self.analytic_kl:
            raise ValueError(
                "free bits per dimension need the closed form of the rate: leave analytic_kl=False and "
                "sticking_the_landing out, or use FreeBits(nats), a floor for each site."
            )

    def evaluate(self, pair: Pair, batch: Batch) -> RowLosses:
        """The loss of each row of a batch."""
        if self.sticking_the_landing:
            refuse_shared(pair, self)
            return self._by_paths(pair, batch)
        # Each draw of rows has its own of what they share.
        draws, of_each = (self.num_samples, 1) if pair.layout.shared else (1, self.num_samples)
        parts = [self._part(row_terms(pair, batch, of_each)) for _ in range(draws)]
        return RowLosses.over_shared(parts, self._beta.tensor)

    def _part(self, terms: RowTerms) -> tuple[RowTerms, RowLosses]:
        refuse_scores(terms.guide_sites)
        log_likelihood = terms.log_likelihood
        rate = terms.rate if self.analytic_kl else terms.log_guide - terms.log_prior
        return terms, RowLosses.of(terms, self._loss(terms, log_likelihood, rate), rate=rate)

    def _by_paths(self, pair: Pair, batch: Batch) -> RowLosses:
        cut = cut_terms(pair, batch, self.num_samples)
        refuse_scores(cut.terms.guide_sites)
        refuse_moving_supports(cut.terms.guide_sites)
        value, direct = (
            self._loss(terms, terms.log_likelihood, terms.log_guide - terms.log_prior)
            for terms in (cut.terms, cut.without_scores)
        )
        return RowLosses.of(cut.terms, value, direct + cut.along_paths(value))

    def _loss(self, terms: RowTerms, log_likelihood: Tensor, rate: Tensor) -> Tensor:
        """By row, [B], from [S,B]."""
        mean_rate = rate.mean(0)
        if self.free_bits is not None:
            mean_rate = self.free_bits.rate(terms, analytic=bool(self.analytic_kl))
        return self._beta.tensor * mean_rate - log_likelihood.mean(0)
