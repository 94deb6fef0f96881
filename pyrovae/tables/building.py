"""The VAE of a table: a likelihood for each kind of column, one decoder and one encoder for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution
from pyrovae.guides import AmortizedGuide
from pyrovae.models import (
    Categorical,
    LogNormal,
    MixedTableModel,
    NegativeBinomial,
    Normal,
    Ordered,
    StandardNormal,
    TruncatedNormal,
)
from pyrovae.nn import MLP, Units
from pyrovae.tables.features import TableFeatures
from pyrovae.tables.posterior import EntryNormal
from pyrovae.tables.schema import Schema
from pyrovae.vae import VAE

# Enough rows to learn centres and sizes from.
_ROWS_FOR_UNITS = 100_000
# Columns of one number have sizes of 1.
_SMALLEST_SIZE = 1e-12


def make_vae(schema: Schema, values: Tensor, latent_size: int, hidden: Sequence[int]) -> VAE:
    """A VAE of rows as `schema.to_tensor` gives them, log densities being in the table's own units.

    The model is a `MixedTableModel`: "real" and "date" columns are normal, "positive" ones log-normal, "bounded" ones
    truncated normal, "count" negative binomial, "ordered" cumulative logits, "category" and "boolean" categorical,
    all locations and scales by the decoder, linearly in the latents and by its hidden layers. The guide is an
    `EntryNormal` of `TableFeatures`: the posterior that goes with the linear part, whatever entries rows lack, and
    what hidden layers change in it. `pyrovae.tables.starting.start_from_factors` starts both at a factor analysis.

    Args:
        schema: of the table.
        values: rows that centres and sizes are taken from, [N, D].
        latent_size: K.
        hidden: sizes of the layers of encoder and, in reverse, decoder; at least one.

    Raises:
        ValueError: no hidden layer.

    Example:
        >>> import pandas as pd
        >>> import pyrovae as pv
        >>> frame = pd.DataFrame({"age": [31, 50, 42, 19], "city": ["Bern", "Basel", None, "Bern"]})
        >>> schema = Schema.of(frame)
        >>> x = schema.to_tensor(frame)
        >>> vae = make_vae(schema, x, latent_size=2, hidden=[16])
        >>> pv.log_marginal(vae, x, num_samples=10).log_marginal.shape
        torch.Size([4])

    """
    if not hidden:
        raise ValueError("hidden is empty: expected the size of at least one layer.")
    values = values[:_ROWS_FOR_UNITS]
    width, *others = hidden
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place, column in enumerate(schema.modelled):
        groups[_FAMILY[column.kind], column.options if column.is_label else 0].append(place)
    parts = [
        (places, _likelihood(family, options, schema, places, values, width + latent_size))
        for (family, options), places in groups.items()
    ]
    deep = nn.Sequential(MLP(latent_size, width, hidden=others[::-1], activation=nn.SiLU), nn.SiLU())
    decoder = Beside(deep)
    model = MixedTableModel(StandardNormal(latent_size), parts, decoder)
    features = TableFeatures(schema, values)
    deep = nn.Sequential(MLP(features.size, hidden[-1], hidden=hidden[:-1], activation=nn.SiLU), nn.SiLU())
    return VAE(model, AmortizedGuide(EntryNormal(features, deep, hidden[-1], latent_size)))


_FAMILY = {
    "real": "normal",
    "date": "normal",
    "positive": "log-normal",
    "bounded": "truncated",
    "count": "counts",
    "ordered": "ordered",
    "category": "categories",
    "boolean": "categories",
}


class Beside(nn.Module):
    """What a network gives, beside its input: [..., in + out], so that what follows may be linear in the input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., in + out]."""
        return torch.cat([x, self.network(x)], -1)


def _likelihood(
    family: str, options: int, schema: Schema, places: list[int], values: Tensor, width: int
) -> ConditionalDistribution:
    """Of the columns of one family."""
    size, own = len(places), values[:, places]
    if family == "categories":
        return Categorical(MLP(width, size * options), num_options=options)
    if family == "ordered":
        return Ordered(MLP(width, size), options, size)
    both = MLP(width, (size, size))
    if family == "counts":
        return NegativeBinomial(both, typical=_means(own).clamp(min=0.1))
    if family == "normal":
        return Normal(both, units=units_of(own))
    if family == "log-normal":
        return LogNormal(both, units=units_of(own.log()))
    columns = [schema.modelled[place] for place in places]
    low, high = (
        torch.tensor([getattr(c, end) for c in columns], dtype=torch.float64) for end in ("low", "high")
    )
    return TruncatedNormal(both, low, high, _roundings(own) / 12**0.5)


def units_of(values: Tensor) -> Units:
    """Mean and standard deviation of columns [N, D], and what their numbers are rounded to.

    That is the median distance between neighbours among their different numbers: the step of rounded ones, and of
    others less than a sample of this size tells apart.
    """
    centre = _means(values)
    size = (values - centre).square().nanmean(0).sqrt()
    return Units(centre, torch.where(size > _SMALLEST_SIZE, size, 1.0), _roundings(values))


def _means(values: Tensor) -> Tensor:
    return values.nanmean(0).nan_to_num(0.0)


def _roundings(values: Tensor) -> Tensor:
    found = []
    for column in values.T:
        distinct = column[~column.isnan()].unique()
        found.append(distinct.diff().median() if len(distinct) > 1 else distinct.new_zeros(()))
    return torch.stack(found)


def thinned(x: Tensor) -> Tensor:
    """Rows [B, D] of which half are as they are and half lack entries at random, any share of them, but never all.

    So a guide learns the posteriors of rows that lack what the rows of its training have, and the model learns from
    what is left, as from any row.
    """
    B, D = x.shape
    there = ~x.isnan()
    share = torch.rand(B, 1, device=x.device) * (torch.rand(B, 1, device=x.device) < 0.5)
    order = torch.rand(B, D, device=x.device)
    kept = (order >= share) & there
    # One entry that is there stays in any case.
    last = torch.where(there, order, -1.0).argmax(1, keepdim=True)
    return x.masked_fill(~kept.scatter(1, last, True), torch.nan)
