"""Several VAEs on the same held-out rows.

Held-out log p(x) is the log predictive density of a VAE, so that what ArviZ's `compare` does for models by
leave-one-out densities is done here for VAEs by held-out ones, in the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.data import Batch, Rows
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.results import LogMarginal
from pyrovae.pair.observed import observations_of
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

# Rows on which models must agree about what they observe.
ROWS_TO_CHECK = 32


@dataclass(frozen=True)
class Comparison:
    """What `compare` gives, best model first.

    `table` has the columns of ArviZ 1.x `compare` (its `p` aside: held-out densities need no correction for
    the number of parameters), by name of the model: `rank` (0 is best), `elpd` (the sum of log p(x) over the
    rows, nats), `elpd_diff` (best minus this one, never negative), `weight` (stacking), `se` and `dse`
    (standard errors of `elpd` and `elpd_diff` over rows), `warning` (some row's Pareto k is bad);
    then `mc_error` (Monte Carlo error of `elpd`, NaN for a single sample), `diff_mc_error` (of `elpd_diff`), `bias`
    (by how much `elpd` errs low, not positive), `diff_bias` (how much of `elpd_diff` is bias) and `bad_k` (how many
    rows). `se` and `dse` hold the Monte Carlo error already, as part of what varies between rows; where it is a large
    part of them, more samples help. They do not hold the bias, which is the larger the worse a model's guide.

    So a page calls a model better only where `elpd_diff` is above 2 `dse` plus `diff_bias`, and above that by what the
    worse one's guide may hide: where Pareto k of a row is not known to be good, the bias may be many times what is
    said, and one model with a guide that misses its posterior is far behind itself with a better guide. As a rule of
    thumb, its weights are then taken to have made good at least half of what the guide's ELBO lacks, so that as much
    again, log p(x) - ELBO of those rows, may be missing.

    `differences` has one row for each pair of models: `better`, `worse`, `elpd_diff`, `dse`, `mc_error`,
    `bias`.
    `results` are the rows' estimates by model, `results[name].khat` among them.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    results: Mapping[str, LogMarginal]

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def __str__(self) -> str:
        some = next(iter(self.results.values()))
        num_rows = len(some)
        lines = [
            f"log p(x) of {num_rows} rows, {some.num_samples} samples each; nats, summed over the rows",
            "",
            self.table.to_string(float_format=lambda value: f"{value:.3f}"),
            "",
        ]
        best = str(self.table.index[0])
        for name in self.table.index[1:]:
            difference, error, bias = map(float, self.table.loc[name, ["elpd_diff", "dse", "diff_bias"]])
            verdict = self._verdict(name, difference, error, bias)
            of_it = f"; about {bias:.2f} of it is bias" if bias > 0 else ""
            lines.append(
                f"'{best}' is {verdict} '{name}': {difference:.2f} ± {error:.2f} (standard error over rows){of_it}"
            )
        for name, bad in self.table["bad_k"].items():
            if bad:
                lines.append(
                    f"WARNING: Pareto k of '{name}' is not below {some.good_k:.2f} for {bad} of {num_rows} rows: its "
                    "elpd may be too low. Raise num_samples, or improve its guide (see diagnose and refine)."
                )
        for name in self.table.index:
            if unknown := int(self.results[name].unknown.sum()):
                lines.append(
                    f"Pareto k of '{name}' is unknown for {unknown} of {num_rows} rows: too few different draws."
                )
        return "\n".join(lines)

    def _verdict(self, name: str, difference: float, error: float, bias: float) -> str:
        """What can be said of the best model and this one."""
        if not difference > 2 * error + max(bias, 0.0):
            return "not told apart from"
        result = self.results[name]
        doubtful = result.unreliable | result.unknown
        hidden = float((result.log_marginal - result.elbo)[doubtful].sum())
        if not difference > 2 * error + max(bias, 0.0) + hidden:
            return "ahead, perhaps by a better guide only, of"
        return "better than"


def compare(
    vaes: Mapping[str, VAE],
    x: object,
    *context: object,
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
        vaes: at least two VAEs by name, which observe the same numbers of each row.
        x: [N, ...], at least two rows.
        context: what every one of the pairs takes beside `x`.
        num_samples: S, for each row and model.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar for each model.

    Raises:
        ValueError: fewer than two models or rows; data that do not fit one of them (named); models that observe
            different numbers of these rows (fewer columns, others masked, another scale), or some as discrete
            and some as continuous, because a probability and a density have different units; rows without a
            finite estimate.
        TypeError: what is given is no mapping of VAEs by name.

    Example:
        >>> import pyrovae as pv
        >>> def make(K):
        ...     prior, decoder = pv.models.StandardNormal(K), pv.models.Bernoulli(pv.nn.MLP(K, 6))
        ...     return pv.VAE(pv.models.LatentVariableModel(prior, decoder))
        >>> x = torch.bernoulli(torch.full((20, 6), 0.5))
        >>> result = pv.compare({"small": make(1), "large": make(3)}, x, num_samples=50, seed=0)
        >>> result.table.columns.tolist()[:7]
        ['rank', 'elpd', 'elpd_diff', 'weight', 'se', 'dse', 'warning']

    """
    check_count("num_samples", num_samples)
    _check_mapping(vaes)
    data = _data_of_all(vaes, x, *context)
    if len(data) < 2:
        raise ValueError("there is one row: standard errors over rows need at least two.")
    _check_same_numbers(vaes, data)
    seeds = seeds_from(seed)
    results = {}
    for name, vae in vaes.items():
        try:
            results[name] = log_marginal(
                vae, data, num_samples=num_samples, seed=next(seeds), progress=progress
            )
        except ValueError as error:
            raise ValueError(f"the model '{name}': {error}") from error
        if not bool(results[name].log_marginal.isfinite().all()):
            row = int((~results[name].log_marginal.isfinite()).nonzero()[0, 0])
            raise ValueError(f"the model '{name}' has no finite log p(x) for row {row}: there is no elpd.")
    return comparison_of(results)


def comparison_of(results: Mapping[str, LogMarginal]) -> Comparison:
    """The tables, from every model's estimates for the same rows."""
    ordered = sorted(results, key=lambda name: -float(results[name].log_marginal.sum()))
    pointwise = {name: results[name].log_marginal for name in ordered}
    mc_error = {name: results[name].total[1] for name in ordered}
    bias = {name: results[name].total_bias for name in ordered}
    weights = stacking_weights(torch.stack([pointwise[name] for name in ordered], 1))
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
        }
    differences = [
        {
            "better": a,
            "worse": b,
            "elpd_diff": float((pointwise[a] - pointwise[b]).sum()),
            "dse": _error_of_sum(pointwise[a] - pointwise[b]),
            "mc_error": math.hypot(mc_error[a], mc_error[b]),
            "bias": bias[a] - bias[b],
        }
        for a, b in combinations(ordered, 2)
    ]
    return Comparison(pd.DataFrame.from_dict(table, orient="index"), pd.DataFrame(differences), results)


def stacking_weights(log_densities: Tensor) -> Tensor:
    """argmax_w sum_n log sum_k w_k p_k(x_n) over the simplex, a concave problem, from log p_k(x_n) [N,K]: [K]."""
    from scipy.optimize import minimize  # not at the top: it takes time to import

    # Relative to each row's best, so that no density underflows.
    density = (log_densities - log_densities.amax(1, keepdim=True)).exp().numpy()
    K = density.shape[1]

    def loss(w: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        mixture = np.maximum(density @ w, np.finfo(float).tiny)
        return float(-np.log(mixture).mean()), -(density / mixture[:, None]).mean(0)

    found = minimize(
        loss,
        np.full(K, 1 / K),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * K,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(K)},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = np.clip(found.x, 0.0, 1.0)
    return torch.as_tensor(weights / weights.sum())


def _error_of_sum(values: Tensor) -> float:
    """The standard error over rows of a sum over rows, as ArviZ computes it."""
    return math.sqrt(len(values) * float(values.var(correction=0)))


def _check_mapping(vaes: object) -> None:
    if not isinstance(vaes, Mapping):
        raise TypeError(
            f'vaes is {type(vaes).__name__}: expected VAEs by name, such as {{"small": vae_a, "large": vae_b}}.'
        )
    for name, vae in vaes.items():
        if not isinstance(vae, VAE):
            raise TypeError(f"{name!r} is {type(vae).__name__}: expected a pyrovae.VAE.")
    if len(vaes) < 2:
        raise ValueError(
            f"got {len(vaes)} model: a comparison takes at least two. For one, use log_marginal."
        )


def _data_of_all(vaes: Mapping[str, VAE], x: object, *context: object) -> Rows:
    """The data, made to `Rows` once and checked against each pair."""
    data = None
    for name, vae in vaes.items():
        try:
            data = vae.rows(x, *context) if data is None else vae.rows(data)
        except (ValueError, TypeError) as error:
            raise type(error)(f"the model '{name}': {error}") from error
    assert data is not None
    return data


def _check_same_numbers(vaes: Mapping[str, VAE], data: Rows) -> None:
    """Every model must observe the same numbers of each row, each as discrete or as continuous alike."""
    first_name = ""
    first: dict[str, Tensor] = {}
    for name, vae in vaes.items():
        batch = data.take(slice(0, ROWS_TO_CHECK), vae.device)
        with vae.evaluating(), fixed_seed(0, vae.device):
            numbers = _numbers(vae, batch)
        if not first:
            first_name, first = name, numbers
            continue
        for kind, other in (("discrete", "continuous"), ("continuous", "discrete")):
            if _same(first[kind], numbers[other]) and first[kind].shape[1] and not first[other].shape[1]:
                raise ValueError(
                    f"the model '{first_name}' observes {kind} values and '{name}' {other} ones: a probability and a "
                    "density have different units, and their logarithms cannot be compared. Compare models whose "
                    "likelihoods are of one kind."
                )
        if not all(_same(first[kind], numbers[kind]) for kind in first):
            raise ValueError(
                f"the models '{first_name}' and '{name}' observe different numbers of the same rows "
                f"({_words(first)} against {_words(numbers)}, masked ones aside, or the same number on another "
                "scale): their log p(x) are of different data. Give both models the same columns, masks and scale."
            )


def _numbers(vae: VAE, batch: Batch) -> dict[str, Tensor]:
    """The numbers that a model observes of each row, sorted, by kind: [B, count], NaN last for masked ones."""
    found = observations_of(vae, batch).values()
    B = len(batch)
    return {
        kind: torch.cat(
            [o.numbers().cpu() for o in found if o.discrete == discrete] + [torch.empty(B, 0, device="cpu")],
            1,
        )
        .double()
        .sort(1)
        .values
        for kind, discrete in (("discrete", True), ("continuous", False))
    }


def _same(a: Tensor, b: Tensor) -> bool:
    # Masked numbers are NaN and come last; tables with and without room for them may differ in width.
    width = max(a.shape[1], b.shape[1])
    a, b = (torch.nn.functional.pad(t, (0, width - t.shape[1]), value=math.nan) for t in (a, b))
    return torch.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


def _words(numbers: Mapping[str, Tensor]) -> str:
    return " and ".join(
        f"{int((~values.isnan()).sum())} {kind}" for kind, values in numbers.items() if values.shape[1]
    )
