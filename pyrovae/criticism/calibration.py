"""Simulation-based calibration of an amortized guide.

Draw (z, x) from the model and z_1..z_L from q(z|x). If q is the posterior, z and the draws are exchangeable, and
the rank of any quantity of z among those of the draws is uniform on 0..L. A guide too narrow, too wide or off
shows in the ranks. What the model's own draws cannot show is whether the model suits the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.criticism.coverage import coverage_of, coverage_page
from pyrovae.criticism.quantities import (
    DISTANCE,
    GUIDE,
    LIKELIHOOD,
    Quantity,
    check_quantities,
)
from pyrovae.criticism.recovery import Recovery
from pyrovae.criticism.simulated_ranks import NO_RANK, Ranked, given_draws, simulated_ranks
from pyrovae.criticism.uniformity import gamma, nulls_for, uniformity_p_value
from pyrovae.data import Rows
from pyrovae.evidence.simulated_data import AsX
from pyrovae.progress import Bar
from pyrovae.random_state import seeds_from
from pyrovae.shown import Part, Shown, text_of
from pyrovae.vae import VAE

QUANTITIES_TO_PRINT = 12


@dataclass(frozen=True, repr=False)
class Calibration(Shown):
    """What `calibrate` gives, for M simulations of L draws and Q quantities.

    `ranks` and `corrected_ranks` are [M,Q], whole numbers 0..L, of the truth among the guide's draws and among draws
    weighted by importance; -1 where a mask or a row's length leaves a latent out. `quantities` names the columns:
    every scalar of the latents (`z[0]`, or `z` for a single one), `log p(x|z)`, `log q(z|x)` where the guide has
    no auxiliary sites, and what was asked for beside them.

    `p_values` (by quantity: `guide`, `corrected`) come from an exact test of uniformity
    (`pyrovae.criticism.uniformity`). It is NaN for a latent that is masked in all simulations. `passed` says that the
    smallest p-value times their number is not below `false_alarm_rate` (Bonferroni): an exact guide fails at that rate
    or less, to the Monte Carlo error of the p-values, all quantities taken together; `corrected_passed` says so of the
    weighted draws.

    `coverage` has the columns `quantity, level, coverage, std_error, corrected, corrected_std_error`: how often the
    central interval of the draws of that probability holds the latent that made the row; for `log q(z|x)`, the
    region of highest guide density, and for the `distance to a random point` the ball around it, both of all latents
    at once. Its errors are over simulations. A level needs draws on which its ends can lie: 39 for a central interval
    of 0.95, 19 for one of 0.9. Where there are fewer the line is left out, and the printed table says how many.

    `recovery` says how much rows tell of each quantity, which is another question (`Recovery`). `shared` names latents
    that rows share, given draws of which all this is.
    """

    ranks: Tensor
    corrected_ranks: Tensor
    quantities: tuple[str, ...]
    num_draws: int
    p_values: pd.DataFrame
    coverage: pd.DataFrame
    false_alarm_rate: float
    recovery: Recovery | None = None
    shared: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the guide."""
        return self._passed("guide")

    @property
    def corrected_passed(self) -> bool:
        """Whether nothing speaks against the guide's draws once they are weighted by importance."""
        return self._passed("corrected")

    def _passed(self, which: str) -> bool:
        return not bool(self._small(which).any())

    def _small(self, which: str) -> pd.Series:
        """Which p-values speak against uniform ranks."""
        return self.p_values[which] < self.false_alarm_rate / max(1, self.num_tested)

    @property
    def num_tested(self) -> int:
        """How many quantities have ranks: all but latents that are masked in all simulations."""
        return int(self.p_values["guide"].notna().sum())

    def to_frame(self) -> pd.DataFrame:
        """One row a quantity: p-values, and in words what its ranks look like."""
        frame = self.p_values.copy()
        small = self._small("guide")
        frame["verdict"] = [self._verdict(place, bool(small.iloc[place])) for place in range(len(small))]
        return frame

    def worst_first(self) -> pd.DataFrame:
        """The same, from the smallest p-value of the guide up.

        P-values that are as small as they can be are equal: of these, the ranks farthest from uniform come first.
        """
        frame = self.to_frame()
        columns = [column[column != NO_RANK].numpy() for column in self.ranks.T]
        far = [gamma(column, self.num_draws) if len(column) else math.nan for column in columns]
        order = frame.assign(gamma=far).sort_values(["guide", "gamma"], kind="stable").index
        return frame.loc[order]

    def _verdict(self, place: int, small: bool) -> str:
        """What the ranks of one quantity show, from their mean and spread."""
        ranks = self.ranks[:, place]
        ranks = ranks[ranks != NO_RANK].double()
        if not small:
            return "nothing against it" if len(ranks) else "no ranks"
        scaled = (ranks + 0.5) / (self.num_draws + 1) - 0.5
        M = len(scaled)
        mean = float(scaled.mean()) * math.sqrt(12 * M)
        spread = float((scaled**2).mean() - 1 / 12) * math.sqrt(180 * M)
        if self.quantities[place] in (LIKELIHOOD, GUIDE, DISTANCE):
            side = "above" if mean > 0 else "below"
            return f"at the truth it lies {side} that of the draws" if abs(mean) > 2 else "not uniform"
        found = []
        if abs(mean) > 3:
            found.append("guide too low" if mean > 0 else "guide too high")
        if abs(spread) > 3 and abs(spread) > abs(mean) / 2:
            found.append("guide too narrow" if spread > 0 else "guide too wide")
        return ", ".join(found) or "not uniform"

    def sections(self) -> list[list[Part]]:
        """Verdicts, the worst quantities, the guide's coverage, and what to try."""
        M, Q = self.ranks.shape
        worst = self.worst_first().head(QUANTITIES_TO_PRINT)
        found: list[list[Part]] = [
            [
                f"Simulation-based calibration: {M} simulations, {self.num_draws} draws each, {Q} quantities"
                + (f", given draws of {', '.join(self.shared)}" if self.shared else ""),
                f"guide: {_words(self.passed)}   importance-corrected: {_words(self.corrected_passed)}"
                f"   (an exact guide fails at a rate of {self.false_alarm_rate:g} or less)",
            ],
            [
                "p-values of uniform ranks" + (f", the least {len(worst)} of {Q}" if len(worst) < Q else ""),
                worst,
            ],
            [
                "Expected coverage of the guide, by nominal level, ± its standard error over simulations",
                coverage_page(self.coverage, [str(name) for name in worst.index]),
            ],
        ]
        if not self.passed and self.corrected_passed:
            found.append(
                [
                    "Importance weights mend it, as far as these simulations show: for data like the model's own, "
                    "trust log_marginal and weighted draws."
                ]
            )
        if not self.passed:
            found.append(
                [
                    "What to try: train longer or with more rows, a richer family (FullNormal, a flow; AutoGuide for "
                    "several sites), or refine() for the rows at hand."
                ]
            )
        return found

    def __str__(self) -> str:
        return text_of(self.sections(), ".4f")


def calibrate(
    vae: VAE,
    *context: object,
    num_simulations: int = 500,
    num_draws: int = 99,
    false_alarm_rate: float = 0.05,
    quantities: Mapping[str, Quantity] | None = None,
    tarp: bool = False,
    as_x: AsX | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Calibration:
    """Check a guide against the model's own draws: ranks of true latents among draws of q(z|x).

    z, x ~ p(z, x); z_1..z_L ~ q(z|x); rank = #{l: f(z_l) < f(z)} for each quantity f, ties broken at random.
    "Validating Bayesian Inference Algorithms with Simulation-Based Calibration" (Talts, Betancourt, Simpson,
    Vehtari, Gelman, 2018), https://arxiv.org/abs/1804.06788. A guide that ignores x and returns the prior has
    uniform ranks in every latent; log p(x|z) shows it: "Simulation-Based Calibration Checking for Bayesian
    Computation: The Choice of Test Quantities Shapes Sensitivity" (Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková,
    Gelman, Vehtari, 2023), https://arxiv.org/abs/2211.02383. Regions of highest guide density (ranks of log q(z|x)):
    "A Trust Crisis In Simulation-Based Inference? Your Posterior Approximations Can Be Unfaithful" (Hermans,
    Delaunoy, Rozet, Wehenkel, Begy, Louppe, 2021), https://arxiv.org/abs/2110.06581.

    `tarp=True` adds each draw's distance to a point that is drawn from the prior, whose regions are balls of all
    latents at once: "Sampling-Based Accuracy Testing of Posterior Estimators for General Inference" (Lemos, Coogan,
    Hezaveh, Perreault-Levasseur, 2023), https://arxiv.org/abs/2302.03026; its expected coverage at each level is what
    `plots.tarp_coverage` draws. It sees correlations that no single latent shows.

    The importance-corrected ranks are places among 10 L draws of the guide, each counting by its weight
    p(x, z) / q(z|x), on the same scale 0..L. They are uniform only as far as these weights are good, which
    Pareto k tells; where no draw of a row has any weight all count alike.

    Where rows share latents theta, simulations are made given one of 20 draws of q(theta) each: what is checked is the
    guide of rows, q(z|x,theta). Whether q(theta) is the posterior is for `pyrovae.shared_check`.

    Args:
        vae: the pair; it must have seen data.
        context: what the pair takes beside `x`; a tensor of R rows is gone through again and again, simulation i
            with its row i mod R.
        num_simulations: M.
        num_draws: L. L + 1 with many divisors (99, 199) makes tidy histograms; coverage at 0.95 needs 39 or more.
        false_alarm_rate: at most how often an exact guide fails, over all quantities together.
        quantities: further ones by name, functions (z, x, *context) -> [S,B] of draws z, [S,B,...], a dict by site
            where the model has several latents, and of their rows x, [B,...]. NaN for all draws of a row says that
            it has none.
        tarp: rank the distance to a random point too.
        as_x: makes `x`, [M, ...], from the observations by site, [M, ...] each, or all arguments as a tuple; needed
            where `x` is not what the one observed site observes, nor each observed argument what the site of its name
            observes (other names, parts of x, entries masked, a transformation).
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar.

    Raises:
        TypeError: quantities that are no functions by name.
        ValueError: quantities of another shape; a VAE that has seen no data; a model that reads values of `x` beyond
            observing them; an `x` from which the model does not observe what was simulated (see `as_x`); counts
            below 1, fewer than 20 simulations; rows without latents of their own; a rate that is not between 0 and 1.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2)))
        >>> model = pv.models.LatentVariableModel(prior, decoder)
        >>> vae = pv.VAE(model, pv.guides.AmortizedGuide(encoder), example=torch.zeros(5, 6))
        >>> result = pv.calibrate(vae, num_simulations=50, num_draws=9, seed=0)
        >>> result.quantities, result.ranks.shape
        (('z[0]', 'z[1]', 'log p(x|z)', 'log q(z|x)'), torch.Size([50, 4]))
        >>> own = {"norm": lambda z, x: z.norm(dim=-1)}
        >>> pv.calibrate(vae, num_simulations=50, num_draws=9, quantities=own, tarp=True, seed=0).quantities[4:]
        ('norm', 'distance to a random point')

    """
    _check(num_simulations, num_draws, false_alarm_rate)
    own = check_quantities(quantities, vae.layout.hidden)
    if not vae.layout.hidden:
        raise ValueError("rows have no latents of their own: there is nothing that calibrate could rank.")
    seeds = seeds_from(seed)
    context = _cycled(context, num_simulations)
    parts = []
    with Bar("calibrate", " rows", shown=progress, total=num_simulations) as bar:
        for one, count, of_rows in given_draws(vae, num_simulations, context, seeds):
            for part in simulated_ranks(one, count, of_rows, num_draws, own, as_x, seeds, tarp=tarp):
                parts.append(part)
                bar.update(len(next(iter(part.values())).rank))
    found = {name: Ranked.joined(part[name] for part in parts) for name in parts[0]}
    names = tuple(found)
    ranks = torch.stack([one.rank for one in found.values()], 1)
    corrected = torch.stack([one.corrected for one in found.values()], 1)
    return Calibration(
        ranks,
        corrected,
        names,
        num_draws,
        _p_values(names, ranks, corrected, num_draws, false_alarm_rate),
        coverage_of(names, ranks, corrected, num_draws),
        false_alarm_rate,
        _recovery(found),
        tuple(vae.layout.shared),
    )


def _check(num_simulations: int, num_draws: int, false_alarm_rate: float) -> None:
    check_count("num_simulations", num_simulations)
    check_count("num_draws", num_draws)
    if num_simulations < 20:
        raise ValueError(
            f"num_simulations is {num_simulations}: expected at least 20, or nothing can be seen."
        )
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate!r}: expected a number between 0 and 1.")


def _recovery(found: Mapping[str, Ranked]) -> Recovery | None:
    """Of latents and users' quantities that have means; None where there are none."""
    of = {
        name: one
        for name, one in found.items()
        if name not in (LIKELIHOOD, GUIDE, DISTANCE) and not bool(one.mean.isnan().all())
    }
    if not of:
        return None
    truth, mean, spread = (
        torch.stack([getattr(one, which) for one in of.values()], 1) for which in ("truth", "mean", "spread")
    )
    return Recovery(truth, mean, spread, tuple(of))


def _cycled(context: tuple[object, ...], num_simulations: int) -> tuple[object, ...]:
    """Context for every simulation: tensors' rows again and again."""
    shapes = [shape for c in context if (shape := getattr(c, "shape", ()))]
    if not shapes:
        return context
    num_rows = shapes[0][0]
    place = torch.arange(num_simulations) % max(1, num_rows)
    return Rows((torch.zeros(num_rows), *context)).take(place).context


def _p_values(
    names: tuple[str, ...], ranks: Tensor, corrected: Tensor, num_draws: int, false_alarm_rate: float
) -> pd.DataFrame:
    num_null = nulls_for(int((ranks != NO_RANK).any(0).sum()), false_alarm_rate)

    def of(column: Tensor) -> float:
        counting = column[column != NO_RANK].numpy()
        return uniformity_p_value(counting, num_draws, num_null) if len(counting) else math.nan

    frame = {
        which: [of(table[:, place]) for place in range(len(names))]
        for which, table in (("guide", ranks), ("corrected", corrected))
    }
    return pd.DataFrame(frame, index=pd.Index(names, name="quantity"))


def _words(passed: bool) -> str:
    return "PASSED" if passed else "FAILED"
