"""The future of sequences: draws of the steps behind a row's last one, from p(x_future | x)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.block_sizes import BYTES_OF_A_BLOCK, slices
from pyrovae.checks import check_count
from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import checked_data
from pyrovae.evidence.sequential import SequentialMonteCarlo, refuse_other_than_sequential
from pyrovae.evidence.weights import WITHOUT_DENSITY, refuse_rows
from pyrovae.pair.chains import StateSpace, state_space
from pyrovae.pair.latents import Latents, one_or_dict
from pyrovae.pair.particle_filter import bytes_ahead, last_states
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.shown import Part, Shown
from pyrovae.vae import VAE

FILTER = SequentialMonteCarlo()
# Particles of the filter, if fewer draws are asked for.
FEWEST_PARTICLES = 500


@dataclass(frozen=True, repr=False)
class Forecast(Shown):
    """What `forecast` gives: draws of H steps behind each row's last one.

    `sites` are draws of what the model observes, [S,N,H,...] by site, `states` those of the chain, [S,N,H,K]; `lengths`
    [N] says behind how many steps they begin. Where the model observes one site, the figures below are tensors, else
    dicts by site.
    """

    sites: dict[str, Tensor]
    states: Tensor
    lengths: Tensor

    @property
    def draws(self) -> Latents:
        """Equally weighted draws of p(x_future | x), [S,N,H,...]."""
        return one_or_dict(self.sites)

    @property
    def mean(self) -> Latents:
        """Their means, [N,H,...]: of binary observations the probabilities."""
        return one_or_dict({name: draws.double().mean(0) for name, draws in self.sites.items()})

    def interval(self, probability: float = 0.9) -> tuple[Latents, Latents]:
        """Between which ends another draw lies with this probability, as much above as below: [N,H,...] each.

        With fewer than 2 / (1 - probability) - 1 draws they are the outermost ones, which hold less. Of whole numbers
        the ends are ones that were drawn, with at least such a share of the draws within.

        Raises:
            ValueError: a probability that is not between 0 and 1.

        """
        if not 0 < probability < 1:
            raise ValueError(f"probability is {probability!r}: expected a number between 0 and 1.")
        ends = {name: _interval(draws, probability) for name, draws in self.sites.items()}
        low, high = (one_or_dict({name: both[end] for name, both in ends.items()}) for end in (0, 1))
        return low, high

    def to_frame(self, probability: float = 0.9) -> pd.DataFrame:
        """One row for each number: data row, `step` (1 is the first of the data), site, entry, mean, `low` and `high`.

        `entry` is its place within the step, () where a step has one number.
        """
        tables = []
        for name, draws in self.sites.items():
            low, high = _interval(draws, probability)
            places = torch.ones(draws.shape[1:]).nonzero()
            entries = places[:, 2:].squeeze(1) if places.shape[1] == 3 else places[:, 2:]
            columns = {
                "row": places[:, 0].numpy(),
                "step": (self.lengths[places[:, 0]] + places[:, 1] + 1).numpy(),
                "site": name,
                "entry": [tuple(e) if isinstance(e, list) else e for e in entries.tolist()],
                "mean": draws.double().mean(0).flatten().numpy(),
                "low": low.flatten().numpy(),
                "high": high.flatten().numpy(),
            }
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def sections(self) -> list[list[Part]]:
        """What was drawn, and the table of it."""
        return [[str(self)], [self.to_frame()]]

    def __len__(self) -> int:
        """N."""
        return len(self.lengths)

    def __str__(self) -> str:
        S, N, H = self.states.shape[:3]
        last = sorted({int(self.lengths.min()), int(self.lengths.max())})
        sizes = ", ".join(f"{name} {list(draws.shape[1:])}" for name, draws in self.sites.items())
        return (
            f"forecast of {H} steps for each of {N} rows, behind step {' to '.join(map(str, last))}, by {S} draws of "
            f"p(x_future | x): {sizes}. See mean, interval() and to_frame()."
        )


def forecast(
    vae: VAE,
    x: object,
    *context: object,
    steps: int,
    num_samples: int = 500,
    method: SequentialMonteCarlo = FILTER,
    seed: int | None = None,
) -> Forecast:
    """Draw what comes behind each row's last step, from p(x_future | x), by sequential Monte Carlo.

    Particles go through a row's steps, as in `log_marginal`; those of its last step, by their weights, go on under the
    model's transitions, and emit. Steps, or entries of steps, that are absent (NaN) weigh nothing, wherever they are.
    Rows of different lengths go on each from its own end.

    Args:
        vae: a pair that `SequentialMonteCarlo` takes: one chain, and what it emits.
        x: [N, T, ...]
        context: what the pair takes beside `x`. The rows' lengths are those of `x`. Controls by step, [N, T + H, ...],
            are given for the steps to come too: a row's stand behind its own length.
        steps: H, of the future.
        num_samples: S, draws for each row.
        method: how the particles of the past are proposed and resampled; a single run of as many as draws, or 500.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError, TypeError: as `SequentialMonteCarlo`; counts below 1; controls without the steps to come; a model
            that takes the rows' lengths by no argument of its own; rows all of whose weights are zero or not finite.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussianChain(2, 3)
        >>> vae, x = pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(4, 30, 3)
        >>> result = pv.forecast(vae, x, steps=12, num_samples=100)
        >>> low, high = result.interval(0.9)
        >>> result.draws.shape, low.shape
        (torch.Size([100, 4, 12, 3]), torch.Size([4, 12, 3]))

    """
    check_count("steps", steps)
    check_count("num_samples", num_samples)
    refuse_other_than_sequential(method)
    whole = x if isinstance(x, Rows) else Rows((x, *context), vae.floats)
    num_steps = whole.x.shape[1] if len(whole.x.shape) > 1 else 0
    past = checked_data(vae, *(_cut(a, num_steps, steps) for a in whole.arguments), what="forecast")
    blocks: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
    seeds = seeds_from(seed)
    for first, batch in past.in_blocks(vae.device):
        with vae.evaluating(), fixed_seed(next(seeds), vae.device):
            few = state_space(vae, batch[:1], with_guide=False)
            n = max(num_samples, FEWEST_PARTICLES)
            of_row = n * (1 + steps) * 64 * (1 + _numbers(few))
            of_row += bytes_ahead(few, n, 1) if method.lookahead else 0
            for some in slices(len(batch), max(1, BYTES_OF_A_BLOCK // of_row)):
                rows = slice(first + some.start, first + some.stop)
                future = _extended(vae, batch[some], whole.take(rows, vae.device), steps)
                blocks.append(_drawn(vae, batch[some], rows.start, future, steps, num_samples, method))
    sites = {name: torch.cat([block[0][name] for block in blocks], 1) for name in blocks[0][0]}
    return Forecast(sites, torch.cat([block[1] for block in blocks], 1), torch.cat([b[2] for b in blocks]))


def _drawn(
    vae: VAE,
    batch: Batch,
    first: int,
    future: StateSpace,
    steps: int,
    num_samples: int,
    method: SequentialMonteCarlo,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Draws of observations by site, of states, and lengths, of some rows."""
    filtered = method.filtered(vae, batch, max(num_samples, FEWEST_PARTICLES), 1)
    refuse_rows(~filtered.log_evidence[0].isfinite(), first, WITHOUT_DENSITY)
    state, lengths = last_states(filtered, num_samples), future.lengths - steps
    states: list[Tensor] = []
    observed: dict[str, list[Tensor]] = {name: [] for name in future.observed}
    for ahead in range(steps):
        place = lengths + ahead
        transition = future.chain.transition(state, *_at_places(future.chain.inputs, place))
        state = transition.sample()
        states.append(state.cpu())
        for name, (emitted, _) in future.observed.items():
            assert emitted.emission is not None
            emission = emitted.emission(state, *_at_places(emitted.inputs, place))
            observed[name].append(emission.sample().cpu())
    return (
        {name: torch.stack(drawn, 2) for name, drawn in observed.items()},
        torch.stack(states, 2),
        lengths.cpu(),
    )


def _at_places(inputs: tuple[Tensor, ...], places: Tensor) -> Iterator[Tensor]:
    """The inputs of each row's own step, [B, features] each."""
    for values in inputs:
        by_row = values.expand(len(places), *values.shape[-2:])
        yield by_row.gather(1, places[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)


def _cut(argument: object, num_steps: int, steps: int) -> object:
    """An argument with the steps of the past alone, where it has those to come."""
    if isinstance(argument, Tensor) and argument.dim() > 1 and argument.shape[1] == num_steps + steps:
        return argument[:, :num_steps]
    return argument


def _extended(vae: VAE, batch: Batch, whole: Batch, steps: int) -> StateSpace:
    """The model's steps on rows that have those to come, which observe nothing."""
    space, x = state_space(vae, batch, with_guide=False), batch.x
    filler = torch.nan if x.is_floating_point() else 0
    longer = torch.cat([x, x.new_full((len(x), steps, *x.shape[2:]), filler)], 1)
    arguments: list[object] = []
    found = space.real_steps is None
    for own, given in zip(batch.context, whole.context, strict=True):
        if (
            isinstance(own, Tensor)
            and own.dim() == 1
            and torch.equal(own.long(), space.lengths)
            and not found
        ):
            arguments.append(own + steps)
            found = True
        else:
            arguments.append(given)
    if not found:
        raise ValueError(
            "the model takes the rows' lengths by no argument of its own, so that nobody can tell it of longer rows: "
            "give it lengths, whole numbers [N], as context."
        )
    try:
        return state_space(vae, Batch((longer, *arguments)), with_guide=False)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the model does not go on for {steps} steps more: {reason}\n  Controls and other context by step are "
            f"given for the steps to come too, [N, {longer.shape[1]}, ...]."
        ) from error


def _numbers(space: StateSpace) -> int:
    """Of a step: of its state and its observations."""
    observed = sum(value[0, 0].numel() for _, value in space.observed.values())
    return observed + space.chain.initial.event_shape[0]


def _interval(draws: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """At the places (S + 1) p among S draws, so that one draw more lies within at that probability.

    Quantiles of the draws alone, at 1 + (S - 1) p, hold less: of 20 draws those for 0.9 hold 0.81.
    """
    tail = (1 - probability) / 2
    whole = bool((draws == draws.round()).all())
    numbers = draws.double().numpy()
    low = np.quantile(numbers, tail, axis=0, method="lower" if whole else "weibull")
    high = np.quantile(numbers, 1 - tail, axis=0, method="higher" if whole else "weibull")
    return torch.as_tensor(low), torch.as_tensor(high)
