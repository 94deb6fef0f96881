"""Rows completed: what they lack drawn from the model, given what they have and the latents."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
)

from pyrovae.data import Batch
from pyrovae.pair.absence import IndependentSteps, PresentNormal, has_marginals, present_part
from pyrovae.pair.handlers import Message, RowsAsGiven, subsampling
from pyrovae.pair.layout import SiteLayout, as_the_program_takes, canonical, rows_first
from pyrovae.pair.observed import statements
from pyrovae.pair.options import conditional_expectation
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import samples_plate
from pyrovae.pair.sites import innermost
from pyrovae.pair.traces import given, site_of, sites_in


@dataclass(frozen=True)
class Completion:
    """What a statement gives of B rows at S draws of the latents.

    Attributes:
        value: draws in which what is observed stands as it was, [S, B, *inner plates, *event].
        expected: where absent, means of the draws given the latents if the family has them, else the draws; of
            categories the probabilities, with a dimension more for the options. None where nothing is absent.
        absent: what was drawn, [B, *inner plates, *event].
        num_options: of categories; None where values are no labels.

    """

    value: Tensor
    expected: Tensor | None
    absent: Tensor
    num_options: int | None


class CompletingRows(Messenger):
    """Observations of NaN are drawn, given what is present of their event; the program goes on with the draws.

    `absent` and `expected` are those of `Completion`, by site in Pyro's layout. What a mask or a row's length leaves
    out stays NaN: it is not absent, there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.absent: dict[str, Tensor] = {}
        self.expected: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Message) -> None:
        if not msg["is_observed"] or not isinstance(msg["value"], Tensor):
            return
        if subsampling(msg) or msg["infer"].get("_deterministic"):
            return
        site = site_of(msg)
        absent = self.absent[site.name] = site.value.isnan() & site.counted
        if bool(absent.any()):
            drawn, mean = _given_present(site.distribution, site.value)
            msg["value"] = torch.where(absent, drawn.to(site.value.dtype), site.value)
            self.expected[site.name] = drawn if mean is None else mean


def completions(
    pair: Pair, batch: Batch, latents: Mapping[str, Tensor], num_samples: int
) -> dict[str, Completion]:
    """Run the model at draws of all latents, enumerated ones too, and complete what it observes.

    By statement as the program has it: one with `obs_mask=` is one, whose absent values are among the latents.
    """
    layout = pair.layout
    broadcasts = layout.model_broadcasts
    program = given(pair.model, as_the_program_takes(layout, latents, broadcasts))
    some = batch if broadcasts else batch.repeated(num_samples)
    completing = CompletingRows()
    with samples_plate(num_samples, layout, broadcasts), RowsAsGiven(len(some)), completing:
        trace = poutine.trace(program).get_trace(*some.arguments)
    sites = sites_in(trace)
    as_canonical = functools.partial(canonical, num_samples=num_samples, layout=layout, broadcasts=broadcasts)
    found = {}
    for name, statement in statements(layout).items():
        site, hidden = sites[statement.observed], statement.unobserved
        family = innermost(site.distribution)
        options = family.probs.shape[-1] if isinstance(family, Categorical) else None
        event_dim = site.event_dim + (options is not None)
        if hidden is None:
            value, absent, expected = site.value, completing.absent[name], completing.expected.get(name)
            expected = None if expected is None else as_canonical(expected, event_dim=event_dim)
        else:
            value, absent = cast(Tensor, trace.nodes[name]["value"]), sites[hidden].counted
            expected = None
            if bool(absent.any()):
                expected = conditional_expectation(pair, batch, latents, hidden, num_samples)
        value, absent = (as_canonical(each, event_dim=site.event_dim) for each in (value, absent))
        found[name] = Completion(
            rows_first(value, statement.layout),
            None if expected is None else _rows_first(expected, statement.layout, event_dim),
            rows_first(absent, statement.layout)[0],
            options,
        )
    return found


def _rows_first(value: Tensor, site: SiteLayout, event_dim: int) -> Tensor:
    """Of a value with other event dimensions than the site's."""
    return rows_first(value, replace(site, event_shape=value.shape[value.dim() - event_dim :]))


def _given_present(distribution: Distribution, value: Tensor) -> tuple[Tensor, Tensor | None]:
    """Draws of a value whose absent entries are NaN, right where it is absent, and their means if there are any.

    Entries of other families than multivariate normals, and mixtures of any, are independent or absent together.
    """
    if isinstance(distribution, MaskedDistribution | Independent):
        return _given_present(distribution.base_dist, value)
    if isinstance(distribution, IndependentSteps):
        return _given_present(distribution.steps, value)
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal):
        return _conditional_normal(distribution, value)
    if (
        isinstance(distribution, MixtureSameFamily)
        and distribution.event_shape
        and has_marginals(distribution)
    ):
        return _conditional_mixture(distribution, value)
    drawn = distribution.sample()
    if isinstance(distribution, Categorical):
        return drawn, distribution.probs
    try:
        mean = distribution.mean
    except NotImplementedError:
        return drawn, None
    return drawn, None if bool(mean.isnan().any()) else mean  # families without a mean, such as Cauchy


def _conditional_mixture(mixture: MixtureSameFamily, value: Tensor) -> tuple[Tensor, Tensor | None]:
    """By the components' own, each as probable as what is present makes it."""
    components, before = mixture.component_distribution, -1 - len(mixture.event_shape)
    of_each = value.unsqueeze(before)
    marginal, filled = present_part(components, of_each)
    log_shares = mixture.mixture_distribution.logits.log_softmax(-1) + marginal.log_prob(filled)
    drawn, means = _given_present(components, of_each.expand(components.batch_shape + components.event_shape))
    chosen = Categorical(logits=log_shares).sample()
    event = (1,) * len(mixture.event_shape)
    place = chosen.reshape(*chosen.shape, 1, *event).expand(*chosen.shape, 1, *mixture.event_shape)
    shares = log_shares.softmax(-1).reshape(log_shares.shape + event)
    return drawn.gather(before, place).squeeze(before), None if means is None else (shares * means).sum(
        before
    )


def _conditional_normal(
    normal: MultivariateNormal | LowRankMultivariateNormal, value: Tensor
) -> tuple[Tensor, Tensor]:
    """A draw and the mean of the absent entries given the present ones.

    A draw y of all entries becomes one of the conditional by y_a + C_ap C_pp^-1 (x_p - y_p).
    """
    present = ~value.isnan()
    marginal = PresentNormal(normal, present)

    def moved(start: Tensor) -> Tensor:
        residual = torch.where(present, value.nan_to_num() - start, 0.0)
        solved = torch.cholesky_solve(residual[..., None], marginal.scale_tril)
        return start + (normal.covariance_matrix @ solved)[..., 0]

    return moved(normal.sample()), moved(normal.mean)
