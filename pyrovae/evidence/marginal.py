"""Row-wise estimates of log p(x) = log E[w], e.g. w = p(x, z) / q(z|x) with z ~ q(z|x), each with its error.

`pyrovae.evidence.importance` and `pyrovae.evidence.annealing` draw weights w, `pyrovae.evidence.weights` sums them
up. Latents are drawn in blocks whose size depends on the pair alone, each row's from noise of its own
(`pyrovae.pair.row_keys`). So figures do not depend on how many rows or samples are scored at once, which is a matter of
memory, and those of a row not on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypedDict, Unpack, cast, overload

import torch

from pyrovae.checks import check_count
from pyrovae.data import Rows
from pyrovae.evidence.checked_data import checked_data
from pyrovae.evidence.conditional import log_conditional
from pyrovae.evidence.conditional_results import LogConditional
from pyrovae.evidence.discrete_dimensions import discrete_dimensions, others_discrete
from pyrovae.evidence.escalation import ByStages, EscalatingSampling
from pyrovae.evidence.importance import PROBE_ROWS, ImportanceSampling, Method
from pyrovae.evidence.made_absent import only_given
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.predictive import predictive_density
from pyrovae.evidence.results import LogMarginal, Stages
from pyrovae.evidence.sequential import SequentialWeigh
from pyrovae.evidence.weights import (
    WITHOUT_DENSITY,
    Estimates,
    Tally,
    estimates,
    refuse_rows,
    rounding_of,
    without_density,
)
from pyrovae.pair.row_keys import RowKeys
from pyrovae.pair.running import row_terms
from pyrovae.progress import Bar
from pyrovae.random_state import fixed_seed
from pyrovae.traced.compilation import Compile
from pyrovae.vae import VAE

GUIDE = ImportanceSampling()


def checked_method(method: object) -> Method | EscalatingSampling:
    """The method that is meant.

    Raises:
        TypeError: something else than a method.

    """
    if isinstance(method, str) and method == "auto":
        return EscalatingSampling()
    if isinstance(method, EscalatingSampling):
        return method
    if isinstance(method, type) or not (
        callable(getattr(method, "weigher", None)) and callable(getattr(method, "strata", None))
    ):
        raise TypeError(
            f'method is {method!r}: expected "auto", or an object such as EscalatingSampling(), ImportanceSampling() '
            "or AnnealedImportanceSampling()."
        )
    return cast("Method", method)


class _How(TypedDict, total=False):
    num_samples: int
    row_samples: int
    method: Method | EscalatingSampling | Literal["auto"]
    memory_budget: int
    batch_size: int | None
    chunk_size: int | None
    compile: Compile
    seed: int | None
    progress: bool


@overload
def log_marginal(
    vae: VAE, x: object, *context: object, given: None = None, **how: Unpack[_How]
) -> LogMarginal: ...
@overload
def log_marginal(
    vae: VAE, x: object, *context: object, given: Sequence[str], **how: Unpack[_How]
) -> LogConditional: ...
def log_marginal(
    vae: VAE,
    x: object,
    *context: object,
    given: Sequence[str] | None = None,
    num_samples: int = 1000,
    row_samples: int = 10,
    method: Method | EscalatingSampling | Literal["auto"] = GUIDE,
    memory_budget: int = 2**31,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    compile: Compile = "auto",
    seed: int | None = None,
    progress: bool = False,
) -> LogMarginal | LogConditional:
    """Estimate log p(x) of each row from importance weights, or log p(some sites | others).

    log p(x) ~ log mean_s w_s with E[w_s] = p(x). From the guide, the default, w_s = p(x, z_s) / q(z_s|x):
    Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders" (2015), https://arxiv.org/abs/1509.00519,
    section 5. Whatever the method, the mean of the weights is unbiased for p(x), so that its logarithm errs low,
    by half its variance where that is small, in proportion to 1 / S. `LogMarginal.bias` says how much at least. More
    rows do not help against that.

    Which method? The guide's weights are best where Pareto k is good (below `LogMarginal.good_k`). Where it is
    not, a proposal of the row's own or annealing help, in this order of cost: "auto" takes each row as far as it needs
    (`EscalatingSampling`). Where it is good the draws may still miss a mode of the posterior:
    `pv.reverse_check(vae)` finds it.

    What a row lacks is integrated out of it: NaN in its data, and values that `obs_mask=` leaves out. With `given`,
    names of sites that the model observes, the figures are of log p(the other sites | given) = log p(all) - log
    p(given), where log p(given) is that of the rows without the others: labels by Bayes' rule, columns given columns,
    one modality given another. Both terms use the guide of what they are about, so the guide has to take rows that lack
    the others. Of labels, probabilities that sum to one are those of `impute(...).probabilities`: here each is
    estimated alone, and where k is bad it may come out above one (`LogConditional.above_one`).

    Where rows share latents theta, the figures are of the predictive density log E_q(theta)[p(x|theta)] of each row, by
    nested sampling: `num_samples` draws of q(theta), the same for all rows, and at each `row_samples` weights of each
    row, whose mean is p(x|theta). Of rows that theta was not trained on this is what to compare models by; of rows that
    it was trained on it says how well they were fitted, and `az.loo` of `to_arviz` how well they would be foretold.
    It is that of q(theta) as it is, of which `pyrovae.shared_check` tells how near it is to the posterior; Pareto k is
    of the R estimates of p(x|theta), and bad where the rows' guide is narrower than their posterior. "auto" mixes draws
    of guide and prior then, at least 4 a draw of theta, and has no further stage.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        given: names of observed sites; a statement with `obs_mask=` goes by the name that the program gives it. None
            for log p of all.
        num_samples: S, honoured exactly; where rows share latents, draws of these.
        row_samples: draws of each row at each draw of shared latents; not used where there are none.
        method: where the weights come from: `ImportanceSampling`, `AnnealedImportanceSampling`, of chains
            `SequentialMonteCarlo`, or `EscalatingSampling`, which is "auto". With it S is the most draws of a row.
        memory_budget: bytes that may be taken beside data, parameters and results, whatever N and S are.
            Measured on a few rows. Does not change the figures.
        batch_size: at most so many rows are scored at once, of a block of 256; chosen by memory and speed if None.
            Does not change the figures.
        chunk_size: at most so many samples are scored at once, and no more than the budget allows; chosen likewise.
            Does not change the figures.
        compile: as for `fit`: False runs plain Pyro; "auto" traces the programs once, and compiles them, where
            that saves time over the chunks to come; True does both, and warns where that cannot be. Changes
            figures by rounding alone.
        seed: draws are the same for the same seed; None takes one from torch's random state. What a row draws comes
            from the seed and from what the row holds: its figures do not depend on the rows beside it, nor on their
            order, but for rounding. Rows that hold the same are numbered, and draw independently. A sequence holds
            what stands in its padding too, which the program alone knows from steps: padded otherwise, or to another
            length, it has other draws. Particles of `SequentialMonteCarlo` come for blocks of rows together.
        progress: show a progress bar.

    Raises:
        ValueError, TypeError: as `elbo`; a method that does not fit the pair, or a budget that is too small, before
            work starts; rows all of whose weights are zero or not finite (named); `given` names a site that is not
            there, none, or all; data that cannot be made absent (see `pyrovae.evidence.made_absent`).

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> result = pv.log_marginal(vae, torch.zeros(5, 64), num_samples=100)
        >>> result.to_frame().columns.tolist()
        ['log_marginal', 'std_error', 'ess', 'khat', 'elbo']
        >>> result.bits_per_dimension.shape
        torch.Size([5])

    """
    check_count("num_samples", num_samples)
    check_count("row_samples", row_samples)
    check_count("memory_budget", memory_budget)
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value is not None:
            check_count(name, value)
    if not (compile == "auto" or isinstance(compile, bool)):
        raise ValueError(f"compile is {compile!r}: expected 'auto', True or False.")
    method = checked_method(method)
    limits = Limits(memory_budget, batch_size, chunk_size, compile)
    data = checked_data(vae, x, *context, covers_shared=given is None, what="log_marginal(given=)")
    draws = num_samples
    if vae.layout.shared:
        draws = num_samples * row_samples
    elif not isinstance(method, EscalatingSampling):
        draws = sum(method.strata(num_samples))
    with Bar("log p(x)", " weights", shown=progress, total=len(data) * draws, shortened=True) as bar:
        if given is None and vae.layout.shared:
            return predictive_density(vae, data, method, num_samples, row_samples, limits, seed, bar)
        if given is None:
            return _marginal(vae, data, method, num_samples, limits, RowKeys(data, seed), bar)
        if not isinstance(method, EscalatingSampling):
            return log_conditional(vae, data, given, method, num_samples, limits, seed, bar)
        # Each term at its own stage, so that their noise is not the same.
        part, keys = only_given(vae, data, given), RowKeys(data, seed)
        both = [_marginal(vae, rows, method, num_samples, limits, keys, bar) for rows in (data, part)]
        discrete = others_discrete(vae, data, given)
        unpaired, rounding = torch.zeros(len(data)), _rounding(vae, part)
        return LogConditional.of(both[0], both[1], unpaired, rounding, discrete)


def _rounding(vae: VAE, data: Rows) -> float:
    with vae.evaluating(), fixed_seed(0, vae.device):
        return rounding_of(row_terms(vae, data.take(slice(0, PROBE_ROWS), vae.device), 1))


def _marginal(
    vae: VAE,
    data: Rows,
    method: Method | EscalatingSampling,
    num_samples: int,
    limits: Limits,
    keys: RowKeys,
    bar: Bar,
) -> LogMarginal:
    """Block after block of rows."""
    rounding = _rounding(vae, data)
    if isinstance(method, EscalatingSampling):
        by_stages = method.estimator(vae, data, num_samples, limits, rounding)
        if not isinstance(by_stages, str):
            return _escalated(vae, data, by_stages, keys, bar)
        first_stage = method.first_stage(vae, data, limits)
        found = _marginal(vae, data, first_stage, num_samples, limits, keys, bar)
        return replace(found, first_stage_alone=by_stages)
    weigh, sizes = method.weigher(vae, data, num_samples, limits), method.strata(num_samples)
    blocks = []
    for first, batch in data.in_blocks(vae.device):
        tallies = [Tally(size, num_samples) for size in sizes]
        for stratum, log_weights in weigh(batch, keys.of(slice(first, first + len(batch)), vae.device)):
            tallies[stratum].add(log_weights)
            bar.update(log_weights.numel())
        refuse_rows(without_density(tallies), first, WITHOUT_DENSITY)
        blocks.append(estimates(tallies, rounding))
    dimensions = discrete_dimensions(vae, data)
    result = LogMarginal(**vars(Estimates.joined(blocks)), num_samples=num_samples, dimensions=dimensions)
    return weigh.explained(result) if isinstance(weigh, SequentialWeigh) else result


def _escalated(vae: VAE, data: Rows, by_stages: ByStages, keys: RowKeys, bar: Bar) -> LogMarginal:
    blocks, stages = [], []
    for first, batch in data.in_blocks(vae.device):
        found, how = by_stages(batch, keys, first)
        blocks.append(found)
        stages.append(how)
        bar.update(len(batch) * by_stages.num_samples)
    return LogMarginal(
        **vars(Estimates.joined(blocks)),
        num_samples=by_stages.num_samples,
        dimensions=discrete_dimensions(vae, data),
        stages=Stages.joined(stages),
    )
