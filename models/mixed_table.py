"""Tables whose columns are of several families, with entries missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Independent, constraints, transform_to

from pyrovae.conditional_distribution import ConditionalDistribution, as_module
from pyrovae.nn.mlp import Outputs


class MixedTableModel(nn.Module):
    """p(z|c) prod_j p(x_j|z,c): one latent, and columns of different families, observed where a mask says so.

        log p(x_observed | z) = sum over observed entries d of log p(x_d | z)

    Missing entries neither train nor count, whatever finite value stands in their place: Nazabal, Olmos,
    Ghahramani, Valera, "Handling incomplete heterogeneous data using VAEs" (2020),
    https://arxiv.org/abs/1807.03653. This holds for the model; give the guide's network `MissingAsZero`
    so that it holds for the pair. The model takes (x, observed, *context); the sites are "x_0", "x_1", ... in
    the parts' order. For drawing new rows, `observed` is all true.

    Args:
        prior: a conditional distribution of the context c.
        parts: (columns, likelihood) each: which columns of x, and their conditional distribution given z and
            the context, with independent entries.

    Raises:
        ValueError: columns that overlap, leave gaps or are missing; at a call, x of another number of columns,
            a mask of another shape, rows with no observed entry, a likelihood of another event shape.
        TypeError: at a call, a mask that is not boolean; a likelihood whose entries are not independent.

    Example:
        >>> from pyrovae.models import Categorical, Normal, StandardNormal
        >>> from pyrovae.nn import MLP
        >>> parts = [([0, 2], Normal(MLP(2, (2, 2)))), ([1], Categorical(MLP(2, 3), num_options=3))]
        >>> MixedTableModel(StandardNormal(2), parts)
        MixedTableModel(...

    """

    def __init__(
        self, prior: ConditionalDistribution, parts: Sequence[tuple[Sequence[int], ConditionalDistribution]]
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
        self.num_columns = len(every)

    def forward(self, x: Tensor, observed: Tensor, *context: Tensor) -> None:
        """The generative story for rows x, [B, D], observed where `observed`, boolean [B, D], is true."""
        self._check(x, observed)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.prior(*context))
            for part, (columns, likelihood) in enumerate(zip(self.columns, self.likelihoods, strict=True)):
                entries = self._entries(part, likelihood(z, *context))
                mask = observed[..., columns]
                value = torch.where(mask, x[..., columns], _inside(entries, x))
                pyro.sample(f"x_{part}", entries.mask(mask).to_event(1), obs=value)

    @torch.no_grad()
    def impute(self, z: Tensor, x: Tensor, observed: Tensor, *context: Tensor) -> Tensor:
        """Rows x, [B,D], with their missing entries filled in from draws of the posterior.

            mean over z of E[x_d | z]                   numbers and counts (the latter need not be whole)
            argmax over k of (mean over z of p(x_d = k | z))    categories and binary entries

        Run it in evaluation mode where networks have one, `vae.eval()`.

        Args:
            z: draws of q(z|x), [S,B,K]: `vae.sample_posterior(x, observed, *context, num_samples=S)["z"]`.
            x: rows, [B,D]; what stands in missing entries is not read.
            observed: boolean, [B,D].
            context: what prior and likelihoods take, [B, ...] each.

        Raises:
            ValueError, TypeError: as at a call of the model; draws for another number of rows.

        """
        self._check(x, observed)
        if z.dim() != 3 or z.shape[1] != len(x):
            raise ValueError(
                f"z has shape {list(z.shape)} and x {list(x.shape)}: expected draws for the same rows, "
                f"[S, {len(x)}, K]."
            )
        filled = x.clone()
        for part, (columns, likelihood) in enumerate(zip(self.columns, self.likelihoods, strict=True)):
            guess = _best_guess(self._entries(part, likelihood(z, *context))).to(x.dtype)
            filled[:, columns] = torch.where(observed[:, columns], x[:, columns], guess)
        return filled

    def _entries(self, part: int, row: dist.TorchDistribution) -> dist.TorchDistribution:
        """The distribution of a part's single entries, batch [..., D]."""
        columns, name = self.columns[part], type(self.likelihoods[part]).__name__
        if row.event_shape != (len(columns),):
            raise ValueError(
                f"part {part} has {len(columns)} columns, {columns}, and its likelihood {name} has event shape "
                f"{list(row.event_shape)}: give its network an output for each column."
            )
        if not isinstance(row, Independent) or row.base_dist.event_shape:
            raise TypeError(
                f"the likelihood of part {part}, {name}, does not have independent entries, so single ones cannot be "
                "missing. Use a family with .to_event(1)."
            )
        return row.base_dist

    def _check(self, x: Tensor, observed: Tensor) -> None:
        if x.dim() != 2 or x.shape[-1] != self.num_columns:
            raise ValueError(
                f"x has shape {list(x.shape)}: the parts of this MixedTableModel have {self.num_columns} columns, so "
                f"expected [B, {self.num_columns}]."
            )
        if observed.shape != x.shape:
            raise ValueError(
                f"the mask of observed entries has shape {list(observed.shape)} and x has shape {list(x.shape)}: "
                "each entry of x needs its own."
            )
        if observed.dtype != torch.bool:
            raise TypeError(
                f"the mask of observed entries is {observed.dtype}: expected torch.bool, true where x is observed."
            )
        # Looks at values, as the checks of distributions do, and so is switched off with them.
        if is_validation_enabled() and not bool(observed.any(-1).all()):
            missing = (~observed.any(-1)).nonzero()[:, 0]
            raise ValueError(
                f"row {int(missing[0])} of the {len(x)} rows at hand has no observed entry ({len(missing)} such rows): "
                "it says nothing. Drop such rows, keep = observed.any(1); x[keep], observed[keep]."
            )


class MissingAsZero(nn.Module):
    """A network of (x, observed, *context) that sees zeros for missing entries, and the mask.

    So what an amortized posterior makes of a row does not depend on the values that stand in for missing ones.

    Args:
        network: of the inputs x with zeros, the mask as numbers, each [..., D], and context: an `MLP` of 2 D
            features.

    Example:
        >>> from pyrovae.nn import MLP
        >>> x, observed = torch.randn(5, 3), torch.rand(5, 3) > 0.2
        >>> MissingAsZero(MLP(6, 2))(x, observed).shape
        torch.Size([5, 2])

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, observed: Tensor, *context: Tensor) -> Outputs:
        """What the network gives."""
        outputs: Outputs = self.network(torch.where(observed, x, 0.0), observed.to(x.dtype), *context)
        return outputs


def _best_guess(entries: dist.TorchDistribution) -> Tensor:
    """From entries of batch [S, B, D]: their most probable category, or their mean, over the mixture of S; [B,D]."""
    if isinstance(entries, torch.distributions.Categorical):
        return entries.probs.mean(0).argmax(-1)
    mean: Tensor = entries.mean.mean(0)
    return (mean > 0.5) if isinstance(entries, torch.distributions.Bernoulli) else mean


def _inside(entries: dist.TorchDistribution, like: Tensor) -> Tensor:
    """A value in the support, so that the density and its gradient at a missing entry are finite.

    A masked term is multiplied by zero in the backward pass, and zero times infinity is not a number.
    """
    support = cast(constraints.Constraint, entries.support)
    if not support.is_discrete:
        return transform_to(support)(like.new_zeros(()))
    return like.new_tensor(getattr(support, "lower_bound", 0))
