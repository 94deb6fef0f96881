"""Tables whose columns are of several families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent

from pyrovae.conditional_distribution import ConditionalDistribution, as_module


class MixedTableModel(nn.Module):
    """p(z|c) prod_j p(x_j|z,c): one latent, and columns of different families.

        log p(x_observed | z) = sum over observed entries d of log p(x_d | z)

    Entries that are NaN are absent: they neither train nor count. Nazabal, Olmos, Ghahramani, Valera, "Handling
    incomplete heterogeneous data using VAEs" (2020), https://arxiv.org/abs/1807.03653. Give the guide's network to
    `pyrovae.nn.MissingAsZero`, or let the guide be derived; `pyrovae.impute` draws what is absent. The model takes
    (x, *context); the sites are "x_0", "x_1", ... in the parts' order, and `table` makes one table of them again.

    Args:
        prior: a conditional distribution of the context c.
        parts: (columns, likelihood) each: which columns of x, and their conditional distribution given z and
            the context, with independent entries. Columns of one family and one number of options share a part.
        decoder: of z and the context, run once for all parts: the likelihoods are then given what it gives, in place of
            z and the context.

    Raises:
        ValueError: columns that overlap, leave gaps or are missing; at a call, x of another number of columns, a
            likelihood of another event shape.
        TypeError: at a call, a likelihood whose entries are not independent.

    Example:
        >>> from pyrovae.models import Categorical, Normal, StandardNormal
        >>> from pyrovae.nn import MLP
        >>> parts = [([0, 2], Normal(MLP(2, (2, 2)))), ([1], Categorical(MLP(2, 3), num_options=3))]
        >>> model = MixedTableModel(StandardNormal(2), parts)
        >>> model.table({"x_0": torch.tensor([[0.5, -1.0]]), "x_1": torch.tensor([[2]])})
        tensor([[ 0.5000,  2.0000, -1.0000]])

    """

    def __init__(
        self,
        prior: ConditionalDistribution,
        parts: Sequence[tuple[Sequence[int], ConditionalDistribution]],
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        every = sorted(column for columns, _ in parts for column in columns)
        if not every or every != list(range(len(every))):
            raise ValueError(
                f"the parts hold the columns {every}: expected each of 0, 1, ..., D - 1 once. Give every column of "
                "the table one likelihood, and drop columns that are not modelled from x."
            )
        self.prior = prior
        self.columns = [list(columns) for columns, _ in parts]
        self.likelihoods = nn.ModuleList(as_module(likelihood) for _, likelihood in parts)
        self.decoder = decoder
        self.num_columns = len(every)

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """The generative story for rows x, [B, D], NaN where an entry is absent."""
        if x.dim() != 2 or x.shape[-1] != self.num_columns:
            raise ValueError(
                f"x has shape {list(x.shape)}: the parts of this MixedTableModel have {self.num_columns} columns, so "
                f"expected [B, {self.num_columns}]."
            )
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.prior(*context))
            given = (z, *context) if self.decoder is None else (self.decoder(z, *context),)
            for part, (columns, likelihood) in enumerate(zip(self.columns, self.likelihoods, strict=True)):
                row = likelihood(*given)
                self._check(part, row)
                pyro.sample(f"x_{part}", row, obs=x[..., columns])

    def table(self, by_site: Mapping[str, Tensor]) -> Tensor:
        """Values by site, [..., columns of the part] each, as one table [..., D] with columns in the order of x.

        For what `pyrovae.impute` gives (`draws`, `mean`, `absent`, the ends of an `interval`) and `VAE.generate`.
        """
        parts = [by_site[f"x_{part}"] for part in range(len(self.columns))]
        order = [column for columns in self.columns for column in columns]
        return torch.cat(parts, -1)[..., torch.tensor(order).argsort()]

    def _check(self, part: int, row: dist.TorchDistribution) -> None:
        """Raise unless a part's distribution has an entry for each of its columns, independent of the others."""
        columns, name = self.columns[part], type(self.likelihoods[part]).__name__
        if row.event_shape != (len(columns),):
            raise ValueError(
                f"part {part} has {len(columns)} columns, {columns}, and its likelihood {name} has event shape "
                f"{list(row.event_shape)}: give its network an output for each column."
            )
        if not isinstance(row, Independent) or row.base_dist.event_shape:
            raise TypeError(
                f"the likelihood of part {part}, {name}, does not have independent entries, so single ones cannot be "
                "absent. Use a family with .to_event(1)."
            )
