"""The bound of a particle filter: as tight on long chains as importance weighting is on short ones."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from pyrovae.checks import check_count, is_number
from pyrovae.data import Batch
from pyrovae.objectives.base import RowLosses, RowObjective
from pyrovae.objectives.paths import refuse_scores
from pyrovae.pair.chains import state_space
from pyrovae.pair.particle_filter import particle_filter
from pyrovae.pair.particle_moves import Proposal
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import row_terms


@dataclass(eq=False, repr=False)
class FIVO(RowObjective):
    """The negative bound of a particle filter by row (filtering variational objective), for chains.

        loss(x) = -log Z,    Z = prod_t mean_k w_tk  between resamplings,    E[Z] = p(x)

    with particles proposed from the guide's steps (see `pyrovae.SequentialMonteCarlo`, which says for which pairs):
    Maddison et al., "Filtering Variational Objectives" (2017), https://arxiv.org/abs/1705.09279, eq. 4; Naesseth,
    Linderman, Ranganath, Blei, "Variational Sequential Monte Carlo" (2018), https://arxiv.org/abs/1705.11140; Le, Igl,
    Rainforth, Jin, Wood, "Auto-Encoding Sequential Monte Carlo" (2018), https://arxiv.org/abs/1705.10306. The bound
    rises with K to log p(x), and its gap grows with the number of steps, where IWAE's grows faster. K = 1 is the ELBO.

    All three leave out the gradient of which particles are resampled, whose variance is large, and so does the default:
    it is biased. With `resampling_gradient` it is added, as the score of the ancestors times what log Z gains after
    them; ancestors are then drawn independently, and, as the threshold's own jump has no gradient, exact where
    `resample_below` is 1.

    The history's `elbo` is that of one more draw of the guide, without resampling.

    Args:
        num_particles: K.
        resample_below: particles are resampled where their effective sample size is below this share of K.
        resampling_gradient: add the resampling's gradient.

    Raises:
        ValueError: `num_particles` below 1, a share out of 0 to 1; at a call, a pair that is no chain, a guide whose
            steps draw without reparameterization, or as `RowObjective`.

    Example:
        >>> import pyrovae as pv
        >>> pv.objectives.FIVO(8)
        FIVO(num_particles=8, resample_below=0.5, resampling_gradient=False)

    """

    num_particles: int
    _: KW_ONLY
    resample_below: float = 0.5
    resampling_gradient: bool = False

    def __post_init__(self) -> None:
        wanted = self.num_particles
        super().__post_init__()
        self.num_particles = wanted  # an attribute of Pyro's objectives too, which sets it to 1
        check_count("num_particles", self.num_particles)
        if not (is_number(self.resample_below) and 0 <= self.resample_below <= 1):
            raise ValueError(f"resample_below is {self.resample_below!r}: expected a number from 0 to 1.")

    def evaluate(self, pair: Pair, batch: Batch) -> RowLosses:
        """The loss of each row of a batch."""
        proposal = Proposal(0.0, float(self.resample_below), independent=self.resampling_gradient)
        space = state_space(pair, batch, with_guide=True)
        filtered = particle_filter(space, self.num_particles, 1, proposal)
        terms = row_terms(pair, batch, 1)
        refuse_scores(terms.guide_sites)
        value = -filtered.log_evidence[0].to(terms.log_guide.dtype)
        surrogate = value
        if self.resampling_gradient:
            gained = filtered.log_evidence.detach() - filtered.before
            surrogate = value - (filtered.scores * gained).sum((0, 1)).to(value.dtype)
        return RowLosses.of(terms, value, surrogate)
