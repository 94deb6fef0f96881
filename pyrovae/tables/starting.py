"""Where the VAE of a table starts: at a factor analysis of its rows, which training then bends."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pyrovae.guides import AmortizedGuide
from pyrovae.models import (
    Categorical,
    LogNormal,
    MixedTableModel,
    NegativeBinomial,
    Normal,
    Ordered,
    TruncatedNormal,
)
from pyrovae.nn import MLP, PositiveParameter, Units
from pyrovae.tables.factor_analysis import Factors, cross_validated
from pyrovae.tables.features import TableFeatures
from pyrovae.tables.posterior import EntryNormal
from pyrovae.vae import VAE

# Rows that the factor analysis reads, at most.
_ROWS = 5_000
# Of a standardized column's variance.
_LEAST_NOISE = 1e-4
# The logistic distribution of this scale is nearly a standard normal.
_LOGISTIC = 1.7
# d log positive(raw) / d raw at 0
_SLOPE = 0.632


@torch.no_grad()
def start_from_factors(vae: VAE, values: Tensor) -> None:
    """Make of a VAE of `make_vae` the factor analysis of rows [N, D]: nothing by its hidden layers yet.

    Numbers have their factor analysis on the scale on which their columns are normal; labels the logits that go with
    it to first order.
    """
    posterior = cast(EntryNormal, cast(AmortizedGuide, vae.guide).posterior)
    model, features = cast(MixedTableModel, vae.model), posterior.features
    rows = values[:_ROWS].to(vae.device)
    present = features.present(rows)
    u = features(rows)[:, : present.shape[1]].double()
    own = [
        [f for column in columns for f, place in enumerate(features.places) if place == column]
        for columns in model.columns
    ]
    least = u.new_full(u.shape[1:], _LEAST_NOISE)
    means = u.sum(0) / present.sum(0).clamp(min=1)
    for places, likelihood in zip(own, model.likelihoods, strict=True):
        least[places] += _least_noise(likelihood, features, places, means[places])
    found = cross_validated(u, present, posterior.direction.shape[1], least)
    posterior.start_from(found)
    for columns, places, likelihood in zip(model.columns, own, model.likelihoods, strict=True):
        heads = [cast(nn.Linear, head) for head in cast(MLP, likelihood.network).heads]
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        part = Factors(*(of_all[places] for of_all in found))
        noise = (part.noise.square() - least[places] + _LEAST_NOISE).sqrt()
        if isinstance(likelihood, Normal | LogNormal):
            _linear(heads[0], part.loading, part.mean)
            heads[1].bias.copy_(PositiveParameter(noise).raw)
        elif isinstance(likelihood, TruncatedNormal):
            centre, size = features.units(places)
            half, middle = (likelihood.high - likelihood.low) / 2, (likelihood.high + likelihood.low) / 2
            _linear(
                heads[0], part.loading * (size / half)[:, None], (centre + size * part.mean - middle) / half
            )
            heads[1].bias.copy_(PositiveParameter(noise * size / half).raw)
        elif isinstance(likelihood, NegativeBinomial):
            _, size = features.units(places)
            _linear(heads[0], part.loading * size[:, None] / _SLOPE)
            heads[1].bias.copy_(PositiveParameter((noise * size).square()).raw)
        elif isinstance(likelihood, Ordered):
            scale = _LOGISTIC / part.noise
            _linear(heads[0], part.loading * scale[:, None], part.mean * scale)
            _cut(likelihood, rows[:, columns], scale)
        elif isinstance(likelihood, Categorical):
            shares = part.mean.clamp(min=0.5 / len(rows))
            _linear(heads[0], part.loading / shares[:, None], shares.log())


def _least_noise(likelihood: nn.Module, features: TableFeatures, places: list[int], shares: Tensor) -> Tensor:
    """Which variance the noise of features has at least, by what their numbers are rounded to."""
    if isinstance(likelihood, Normal | LogNormal):
        units = cast(Units, likelihood.units)
        return (units.smallest / units.size).square()
    if isinstance(likelihood, Ordered):
        return features.units(places)[1].square().reciprocal() / 12
    if isinstance(likelihood, Categorical):
        # Noise of variance p for each option tells of z what a label does, sum_k (dp_k / dz)^2 / p_k.
        return shares
    return torch.zeros_like(shares)


def _linear(head: nn.Linear, loading: Tensor, bias: Tensor | None = None) -> None:
    """Of the latents alone, which come first."""
    head.weight[:, : loading.shape[1]].copy_(loading)
    if bias is not None:
        head.bias.copy_(bias)


def _cut(likelihood: Ordered, places: Tensor, scale: Tensor) -> None:
    """Put cutpoints where the shares of the options are those of the rows."""
    options = torch.arange(likelihood.cutpoints.shape[1], device=places.device)
    there = ~places.isnan()
    below = ((places[..., None] <= options) & there[..., None]).sum(0) + 0.5 * (options + 1)
    shares = below / (there.sum(0)[:, None] + 0.5 * (len(options) + 1))
    cutpoints = torch.special.ndtri(shares.double()) * scale[:, None]
    likelihood.first.copy_(cutpoints[:, :1])
    if likelihood.steps is not None:
        likelihood.steps.raw.copy_(PositiveParameter(cutpoints.diff().clamp(min=1e-3)).raw)
