"""Are these rows like the model's own? A two-sample test of data against rows simulated in their place.

Calibration and the reverse check ask whether the guide suits the model; whether the model suits the data is another
question, and their answers hold for the data only as far as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd
import torch
from torch import Tensor

from pyrovae.block_sizes import slices
from pyrovae.checks import check_count
from pyrovae.criticism.two_sample import swap_test
from pyrovae.data import Batch, Rows
from pyrovae.evidence.bound import elbo_of
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.simulated_data import AsX, evenly, simulated_like
from pyrovae.pair.observed import observations_of
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.shown import Part, Shown, text_of
from pyrovae.vae import VAE

Summary: TypeAlias = Callable[..., Tensor]
"""(x, *context) -> [B] or [B,k]: numbers of each row."""

LIKELIHOOD, RATE = "log p(x|z)", "rate"
LEAST_ROWS = 10
# Of the ELBO's two parts.
DRAWS = 10
ROWS_AT_ONCE = 256


@dataclass(frozen=True, repr=False)
class Resemblance(Shown):
    """What `resembles` gives, for M rows and as many that the model drew in their place.

    `features` has one row a set of features, `statistic, p_value, told_apart`: the discrepancy in units of its
    spread, the p-value for it among all sets, and how often the row of the data is told from the model's in its place
    (one half: not at all). `p_value` is that of all together, the least of these. `unlikeness` is how much
    more often rows like each one are in the data than among the model's own, in the set that differs most, [M],
    and `unlikeness_of_drawn` that of the model's: its mean kernel with either, apart.
    `places` are those of the rows among the data, [M].
    """

    features: pd.DataFrame
    unlikeness: Tensor
    unlikeness_of_drawn: Tensor
    places: Tensor
    num_rows: int
    false_alarm_rate: float

    @property
    def p_value(self) -> float:
        """Of the hypothesis that the rows are the model's own draws in their context."""
        return float(self.features["p_value"].min())

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against it."""
        return self.p_value >= self.false_alarm_rate

    @property
    def most_different(self) -> str:
        """The set of features that differs most."""
        return str(self.features["statistic"].idxmax())

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        named, told = self.most_different, float(self.features["told_apart"][self.most_different])
        rows = f"{len(self.unlikeness)} rows"
        if self.passed:
            return (
                f"None of {', '.join(map(str, self.features.index))} tells {rows} from as many that the model drew "
                f"in their place (p = {self.p_value:.2g}). What none of these shows is not tested."
            )
        return (
            f"These {rows} are NOT like the model's own (p = {self.p_value:.2g}), by {named} above all: of a row and "
            f"one that the model drew in its place, {told:.0%} are told apart (50%: none). Calibration on simulated "
            "rows tells less of such data."
        )

    def sections(self) -> list[list[Part]]:
        """The verdict, the sets of features, and what the test is of."""
        return [
            [self.sentence],
            [self.features],
            [
                "Tested: whether rows are draws of p(x | context), by the largest of these discrepancies, exactly but "
                "for rows that the model was trained on: they look more like its own than they are."
            ],
        ]

    def __str__(self) -> str:
        return text_of(self.sections(), ".4f")


def resembles(
    vae: VAE,
    x: object,
    *context: object,
    summaries: Mapping[str, Summary] | None = None,
    num_rows: int = 500,
    num_swaps: int = 999,
    false_alarm_rate: float = 0.05,
    as_x: AsX | None = None,
    seed: int | None = None,
) -> Resemblance:
    """Test whether rows are like the model's own: held-out data against rows drawn in their place.

    For each of M rows the model draws another in its context, lacking what it lacks. Under the hypothesis that the rows
    are draws of p(x | context) either of the two may stand in the place of the other, and so may all that is computed
    of them: the observations by site, means of the latents under the guide, the ELBO's two parts, and `summaries`.
    Each is one set of features, compared by maximum mean discrepancy, with a p-value by swapping rows within pairs
    (`pyrovae.criticism.two_sample`): rows that are the model's own are refused at the stated rate, whatever their
    number and however poor the guide, which is but a way to look at them.

    Schmitt, Bürkner, Köthe, Radev, "Detecting Model Misspecification in Amortized Bayesian Inference with Neural
    Networks" (2021), https://arxiv.org/abs/2112.08866, compare learned summaries so.

    Args:
        vae: the pair.
        x: [N, ...], rows that it was not trained on.
        context: what the pair takes beside `x`.
        summaries: further sets of features by name, functions (x, *context) -> [B] or [B,k].
        num_rows: M at most, evenly spaced among the rows; time and memory grow as its square.
        num_swaps: random swaps; no p-value is below 1 / (num_swaps + 1).
        false_alarm_rate: of `passed`.
        as_x: as for `calibrate`.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError: fewer than 10 rows; counts below 1; a rate that is not between 0 and 1; summaries of another shape
            or that are not finite; as `calibrate` where rows cannot be simulated.
        TypeError: summaries that are no functions by name.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model), example=torch.zeros(5, 4))
        >>> own, other = vae.generate(200, seed=1), 2 + torch.randn(200, 4)
        >>> pv.resembles(vae, own, seed=0).passed, pv.resembles(vae, other, seed=0).passed
        (True, False)

    """
    summaries = _checked(summaries, num_rows, num_swaps, false_alarm_rate)
    data = checked_data(vae, x, *context, what="resembles")
    refuse_without_density(vae)
    if len(data) < LEAST_ROWS:
        raise ValueError(f"x has {len(data)} rows: expected at least {LEAST_ROWS}, or nothing can be seen.")
    seeds = seeds_from(seed)
    places = evenly(len(data), min(num_rows, len(data)))
    chosen = data[places]
    with fixed_seed(next(seeds), vae.device):
        _, drawn = simulated_like(vae, chosen, len(places), as_x)
    of_features = next(seeds)
    found = [_features(vae, rows, summaries, of_features) for rows in (chosen, checked_data(vae, drawn))]
    pairs = {name: (found[0][name], found[1][name]) for name in found[0]}
    test = swap_test(pairs, num_swaps, torch.Generator().manual_seed(next(seeds)))
    worst = int(test.statistics.argmax())
    told_apart = 0.5 - 0.5 * (test.witness + test.witness_of_others).sign().mean(1)
    features = pd.DataFrame(
        {"statistic": test.statistics, "p_value": test.p_values, "told_apart": told_apart},
        index=pd.Index(list(pairs), name="features"),
    )
    return Resemblance(
        features,
        -test.witness[worst],
        test.witness_of_others[worst],
        places,
        len(data),
        false_alarm_rate,
    )


def _checked(
    summaries: Mapping[str, Summary] | None, num_rows: int, num_swaps: int, rate: float
) -> dict[str, Summary]:
    check_count("num_rows", num_rows)
    check_count("num_swaps", num_swaps)
    if not 0 < rate < 1:
        raise ValueError(f"false_alarm_rate is {rate!r}: expected a number between 0 and 1.")
    if num_rows < LEAST_ROWS:
        raise ValueError(f"num_rows is {num_rows}: expected at least {LEAST_ROWS}, or nothing can be seen.")
    if summaries is None:
        return {}
    if not isinstance(summaries, Mapping) or not all(map(callable, summaries.values())):
        raise TypeError(
            f"summaries is {summaries!r}: expected functions by name, summaries={{'total': lambda x: x.sum(1)}}."
        )
    return dict(summaries)


def _features(vae: VAE, rows: Rows, summaries: Mapping[str, Summary], seed: int) -> dict[str, Tensor]:
    """All sets of features, [M,k] each; rows of one place share their noise."""
    seeds = seeds_from(seed)
    bound = elbo_of(vae, rows, DRAWS, next(seeds))
    blocks = []
    for some in slices(len(rows), ROWS_AT_ONCE):
        batch = rows.take(some, vae.device)
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            blocks.append(_of_batch(vae, batch, summaries))
    found = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    found |= {LIKELIHOOD: bound.reconstruction[:, None], RATE: bound.rate[:, None]}
    for name, values in found.items():
        if bool(values.isinf().any()):
            raise ValueError(
                f"'{name}' is infinite for some rows: expected finite numbers, or NaN where absent."
            )
    return found


def _of_batch(vae: VAE, batch: Batch, summaries: Mapping[str, Summary]) -> dict[str, Tensor]:
    found = {name: of_site.numbers() for name, of_site in observations_of(vae, batch).items()}
    found |= {name: _flat(z) for name, z in _latents(vae, batch).items()}
    for name, function in summaries.items():
        if name in found or name in (LIKELIHOOD, RATE):
            raise ValueError(f"summaries has '{name}', which is compared anyhow: take another name.")
        values = function(*batch.arguments)
        if not isinstance(values, Tensor) or values.dim() not in (1, 2) or len(values) != len(batch):
            what = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the summary '{name}' gave {what} for {len(batch)} rows: expected [{len(batch)}] or [{len(batch)}, k]."
            )
        found[name] = _flat(values)
    return found


def _latents(vae: VAE, batch: Batch) -> dict[str, Tensor]:
    """Posterior means; of a guide some of whose latents are labels, which have none, one draw of all."""
    if not vae.layout.latents:
        return {}
    drawn = vae.sample_posterior(*batch.arguments)
    if all(drawn[name].is_floating_point() for name in vae.layout.latents):
        means = vae.encode(*batch.arguments)
        return dict.fromkeys(vae.layout.latents, means) if isinstance(means, Tensor) else dict(means)
    return {name: drawn[name][0] for name in vae.layout.latents}


def _flat(values: Tensor) -> Tensor:
    return values.detach().double().cpu().reshape(len(values), -1)
