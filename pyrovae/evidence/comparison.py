"""Several VAEs on the same held-out rows.

Held-out log p(x) is the log predictive density of a VAE, so that what ArviZ's `compare` does for models by
leave-one-out densities is done here for VAEs by held-out ones, in the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.data import Rows
from pyrovae.evidence.escalation import EscalatingSampling
from pyrovae.evidence.importance import Method
from pyrovae.evidence.marginal import GUIDE, log_marginal
from pyrovae.evidence.results import LogMarginal
from pyrovae.evidence.reverse_check import ONE_SIDED, ReverseCheck, reverse_check_beside
from pyrovae.evidence.same_data import check_same_numbers, check_same_rows, data_of_all
from pyrovae.evidence.stacking import stacking_weights
from pyrovae.random_state import seeds_from
from pyrovae.shown import Part, Shown, text_of
from pyrovae.vae import VAE

# How often a page may call one of equally good models better, all its pairs taken together.
FALSE_ALARM_RATE = 0.05
# Below so many rows none is called better: rows that turn a difference round may be too rare to be among them.
FEW_ROWS = 100
# A difference counts if it remains after taking off so many times the row farthest from the mean. Measured for
# equal models, log-normal differences of sigma 1 (skewness 6): with 2, 5 and 20 models some is called better on
# 2 to 5 % of pages of 100 or 200 rows; by errors alone, on 7 to 12 %.
FARTHEST_ROWS = 2
BETTER = "better than"


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What `compare` gives, best model first.

    `table` has the columns of ArviZ 1.x `compare` (its `p` aside: held-out densities need no correction for
    the number of parameters), by name of the model: `rank` (0 is best), `elpd` (the sum of log p(x) over the
    rows, nats), `elpd_diff` (best minus this one, never negative), `weight` (stacking), `se` and `dse`
    (standard errors of `elpd` and `elpd_diff` over rows), `warning` (some row's Pareto k is bad);
    then `mc_error` (Monte Carlo error of `elpd`, NaN for a single sample), `diff_mc_error` (of `elpd_diff`), `bias`
    (by how much `elpd` errs low, not positive), `diff_bias` (how much of `elpd_diff` is bias), `bad_k` (how many
    rows) and `margin` (what `elpd_diff` must exceed to be more than chance). `se` and `dse` hold the Monte Carlo error
    already, as part of what varies between rows; where it is a large part of them, more samples help. They do not
    hold the bias, which is the larger the worse a model's guide.

    So a page calls a model better only where `elpd_diff` is above `margin` plus `diff_bias`, and above that by what the
    worse one's guide may hide: where Pareto k of a row is not known to be good, the bias may be many times what is
    said, and one model with a guide that misses its posterior is far behind itself with a better guide. As a rule of
    thumb, its weights are then taken to have made good at least half of what the guide's ELBO lacks, so that as much
    again, log p(x) - ELBO of those rows, may be missing.

    `margin` is `dse` times Student's t for a false alarm rate of 5 % over all pairs together (Bonferroni), because the
    best of many equal models is ahead by chance; and, so that no few rows make a model better, twice the distance of
    the farthest row from the mean difference on top of that. Together they hold the rate, about, also for differences
    as skewed as log-normal ones. Rows too rare to be among these are seen by no rule: of fewer than 100 rows no model
    is called better.

    `differences` has one row for each pair of models: `better`, `worse`, `elpd_diff`, `dse`, `mc_error`,
    `bias`, `margin`.
    `results` are the rows' estimates by model, `results[name].khat` among them. `reverse` holds the reverse checks of
    the guides of models behind the best one: as many nats a row as a guide that fails may hide by it are taken for
    hidden too. There is none of models that come with their figures, of another `method` than the guide's own weights,
    and where rows cannot be simulated; the text names them.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    results: Mapping[str, LogMarginal]
    reverse: Mapping[str, ReverseCheck] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def sections(self) -> list[list[Part]]:
        """The table, and what it says."""
        numbers = sorted({result.num_samples for result in self.results.values()})
        samples = " or ".join(map(str, numbers))
        head = f"log p(x) of {self._num_rows} rows, {samples} samples each; nats, summed over the rows"
        return [[head], [self.table], [*self._differences(), *self._doubts()]]

    def __str__(self) -> str:
        return text_of(self.sections(), ".3f")

    @property
    def _num_rows(self) -> int:
        return len(next(iter(self.results.values())))

    def _differences(self) -> list[str]:
        lines, best = [], str(self.table.index[0])
        for name in self.table.index[1:]:
            difference, error, bias = map(float, self.table.loc[name, ["elpd_diff", "dse", "diff_bias"]])
            verdict = self._verdict(name)
            of_it = f"; about {bias:.2f} of it is bias" if bias > 0 else ""
            lines.append(
                f"'{best}' is {verdict} '{name}': {difference:.2f} ± {error:.2f} (standard error over rows){of_it}"
            )
        return lines

    def _doubts(self) -> list[str]:
        """What speaks against the figures, of all models at once."""
        lines, num_rows = [], self._num_rows
        unchecked = [
            f"'{n}'" for n in self.table.index[1:] if n not in self.reverse and self._verdict(n) == BETTER
        ]
        if unchecked:
            lines.append(
                f"No reverse_check() was made of {', '.join(unchecked)}: what its guide never visits may be missing "
                "from its elpd, and no Pareto k tells."
            )
        if num_rows < FEW_ROWS:
            lines.append(
                f"{num_rows} rows are few: rare rows that turn a difference round may not be among them. "
                f"Compare on {FEW_ROWS} or more."
            )
        if self.table["bad_k"].any():
            limits = " or ".join(sorted({f"{result.good_k:.2f}" for result in self.results.values()}))
            bad = _counted(self.table["bad_k"])
            lines.append(
                f"WARNING: Pareto k of some of {num_rows} rows is not below {limits}: {bad}. Their elpd may be too "
                "low. Take method='auto', raise num_samples, or improve the guides (see diagnose and refine)."
            )
        unknown = {str(name): int(self.results[str(name)].unknown.sum()) for name in self.table.index}
        if any(unknown.values()):
            lines.append(
                f"Pareto k of some of {num_rows} rows is unknown, for too few different draws: {_counted(unknown)}."
            )
        return lines

    def _verdict(self, name: str) -> str:
        """What can be said of the best model and this one."""
        difference, margin, bias = map(float, self.table.loc[name, ["elpd_diff", "margin", "diff_bias"]])
        best, result = self.results[str(self.table.index[0])], self.results[name]
        rows_apart = FARTHEST_ROWS * _farthest(best.log_marginal - result.log_marginal)
        surplus = difference - margin - max(bias, 0.0)
        doubtful = result.unreliable | result.unknown
        hidden = float((result.log_marginal - result.elbo)[doubtful].sum())
        if (check := self.reverse.get(name)) is not None and not check.passed:
            bound, error = check.bias_bound
            hidden += len(result) * (bound + ONE_SIDED * error)
        if not surplus + rows_apart > 0:
            return "not told apart from"
        if not surplus + rows_apart > hidden:
            return "ahead, perhaps by a better guide only, of"
        if len(result) < FEW_ROWS or not surplus > hidden:
            return "ahead, perhaps by a few rows only, of"
        return BETTER


def compare(
    vaes: Mapping[str, VAE | LogMarginal],
    x: object = None,
    *context: object,
    method: Method | EscalatingSampling | Literal["auto"] = GUIDE,
    num_samples: int = 1000,
    seed: int | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare VAEs by log p(x) of the same rows, which none of them was trained on.

    elpd = sum_n log p(x_n), each term by importance sampling (`log_marginal`). The difference of two models has the
    standard error sqrt(N var_n[log p_a(x_n) - log p_b(x_n)]). Stacking weights maximize
    sum_n log sum_k w_k p_k(x_n) over the simplex: "Using Stacking to Average Bayesian Predictive
    Distributions" (Yao, Vehtari, Simpson, Gelman, 2018), https://doi.org/10.1214/17-BA1091.

    Args:
        vaes: at least two VAEs by name, which observe the same numbers of each row; in place of a VAE also what
            `log_marginal` gave for it before. That these figures are of the same rows, in the same order and on the
            same scale, is the caller's part: only their number is checked.
        x: [N, ...], at least two rows. Needed where a VAE is given, and not otherwise.
        context: what every one of the pairs takes beside `x`.
        method: as for `log_marginal`, where the weights come from. Where guides are poor, "auto" takes each row of
            each model as far as it needs (`EscalatingSampling`) and so ranks models, where the guide's weights rank
            guides.
        num_samples: S, for each row and VAE.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar for each model.

    Raises:
        ValueError: fewer than two models or rows; data that do not fit one of them (named); models that observe
            different numbers of these rows (fewer columns, others masked, another scale), or some as discrete
            and some as continuous, because a probability and a density have different units; rows without a
            finite estimate; results of other numbers of rows; VAEs without data, or data without a VAE.
        TypeError: what is given is no mapping of VAEs or results by name.

    Example:
        >>> import pyrovae as pv
        >>> def make(K):
        ...     prior, decoder = pv.models.StandardNormal(K), pv.models.Bernoulli(pv.nn.MLP(K, 6))
        ...     return pv.VAE(pv.models.LatentVariableModel(prior, decoder))
        >>> x = torch.bernoulli(torch.full((20, 6), 0.5))
        >>> result = pv.compare({"small": make(1), "large": make(3)}, x, num_samples=50, seed=0)
        >>> result.table.columns.tolist()[:7]
        ['rank', 'elpd', 'elpd_diff', 'weight', 'se', 'dse', 'warning']
        >>> ready = {name: result.results[name] for name in result.results}
        >>> pv.compare(ready).table.equals(result.table)
        True

    """
    check_count("num_samples", num_samples)
    _check_mapping(vaes)
    asked = {name: vae for name, vae in vaes.items() if isinstance(vae, VAE)}
    if (x is None) != (not asked):
        raise ValueError(
            f"the models {list(asked)} come without figures: x is needed."
            if asked
            else "every model comes with its figures: x is not used, leave it out."
        )
    data = None
    if asked:
        data = data_of_all(asked, x, *context)
        _refuse_one_row(len(data))
        check_same_numbers(asked, data)
    seeds = seeds_from(seed)
    results: dict[str, LogMarginal] = {}
    for name, vae in vaes.items():
        seed_of_model = next(seeds)
        if isinstance(vae, LogMarginal):
            results[name] = vae
            continue
        try:
            results[name] = log_marginal(
                vae, data, method=method, num_samples=num_samples, seed=seed_of_model, progress=progress
            )
        except ValueError as error:
            raise ValueError(f"the model '{name}': {error}") from error
    for name, result in results.items():
        _refuse_one_row(len(result))
        if not bool(result.log_marginal.isfinite().all()):
            row = int((~result.log_marginal.isfinite()).nonzero()[0, 0])
            raise ValueError(f"the model '{name}' has no finite log p(x) for row {row}: there is no elpd.")
    check_same_rows(results)
    found = comparison_of(results)
    if data is None or method != GUIDE:
        return found
    behind = {str(name): vaes[str(name)] for name in found.table.index[1:]}
    return replace(found, reverse=_reverse_checks(behind, data, num_samples, next(seeds)))


def _reverse_checks(
    vaes: Mapping[str, VAE | LogMarginal], data: Rows, num_samples: int, seed: int
) -> dict[str, ReverseCheck]:
    """Of those whose rows can be simulated."""
    found: dict[str, ReverseCheck] = {}
    seeds = seeds_from(seed)
    for name, vae in vaes.items():
        if isinstance(vae, VAE):
            check, _ = reverse_check_beside(vae, data, num_samples, next(seeds))
            if check is not None:
                found[name] = check
    return found


def comparison_of(results: Mapping[str, LogMarginal]) -> Comparison:
    """The tables, from every model's estimates for the same rows."""
    ordered = sorted(results, key=lambda name: -float(results[name].log_marginal.sum()))
    pointwise = {name: results[name].log_marginal for name in ordered}
    mc_error = {name: results[name].total[1] for name in ordered}
    bias = {name: results[name].total_bias for name in ordered}
    weights = stacking_weights(torch.stack([pointwise[name] for name in ordered], 1))
    num_pairs = len(ordered) * (len(ordered) - 1) // 2
    best, table = ordered[0], {}
    for rank, name in enumerate(ordered):
        gap = pointwise[best] - pointwise[name]
        bad = int(results[name].unreliable.sum())
        table[name] = {
            "rank": rank,
            "elpd": float(pointwise[name].sum()),
            "elpd_diff": float(gap.sum()),
            "weight": float(weights[rank]),
            "se": _error_of_sum(pointwise[name]),
            "dse": _error_of_sum(gap),
            "warning": bad > 0,
            "mc_error": mc_error[name],
            "diff_mc_error": 0.0 if name == best else math.hypot(mc_error[best], mc_error[name]),
            "bias": bias[name],
            "diff_bias": bias[best] - bias[name],
            "bad_k": bad,
            "margin": 0.0 if name == best else _margin(gap, num_pairs),
        }
    differences = [
        {
            "better": a,
            "worse": b,
            "elpd_diff": float((pointwise[a] - pointwise[b]).sum()),
            "dse": _error_of_sum(pointwise[a] - pointwise[b]),
            "mc_error": math.hypot(mc_error[a], mc_error[b]),
            "bias": bias[a] - bias[b],
            "margin": _margin(pointwise[a] - pointwise[b], num_pairs),
        }
        for a, b in combinations(ordered, 2)
    ]
    return Comparison(pd.DataFrame.from_dict(table, orient="index"), pd.DataFrame(differences), results)


def _counted(rows: Mapping[str, int] | pd.Series) -> str:
    """How many rows of which model, where there are some."""
    return ", ".join(f"{count} of '{name}'" for name, count in rows.items() if count)


def _error_of_sum(values: Tensor) -> float:
    """The standard error over rows of a sum over rows, as ArviZ computes it."""
    return math.sqrt(len(values) * float(values.var(correction=0)))


def _margin(gaps: Tensor, num_pairs: int) -> float:
    """What the sum of two models' differences by row, [N], must exceed to be more than chance."""
    from scipy.stats import t  # not at the top: it takes time to import

    N = len(gaps)
    quantile = float(t.ppf(1 - FALSE_ALARM_RATE / (2 * num_pairs), N - 1))
    return quantile * math.sqrt(N / (N - 1)) * _error_of_sum(gaps) + FARTHEST_ROWS * _farthest(gaps)


def _farthest(gaps: Tensor) -> float:
    """How far the farthest row lies from the mean."""
    return float((gaps - gaps.mean()).abs().max())


def _refuse_one_row(num_rows: int) -> None:
    if num_rows < 2:
        raise ValueError("there is one row: standard errors over rows need at least two.")


def _check_mapping(vaes: object) -> None:
    if not isinstance(vaes, Mapping):
        raise TypeError(
            f'vaes is {type(vaes).__name__}: expected VAEs by name, such as {{"small": vae_a, "large": vae_b}}.'
        )
    for name, vae in vaes.items():
        if not isinstance(vae, VAE | LogMarginal):
            raise TypeError(
                f"{name!r} is {type(vae).__name__}: expected a pyrovae.VAE, or what log_marginal gave for one."
            )
    if len(vaes) < 2:
        raise ValueError(
            f"got {len(vaes)} model: a comparison takes at least two. For one, use log_marginal."
        )
