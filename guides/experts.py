"""One encoder, an expert, for each argument of a pair, and what they say together of a latent: of any of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution, as_module
from pyrovae.guides.mixture import PathwiseMixture


class Experts(nn.Module):
    """Experts of the first arguments (x_1, ..., x_M), and the prior; a subclass says what they are together."""

    def __init__(self, experts: Sequence[ConditionalDistribution], prior: ConditionalDistribution) -> None:
        super().__init__()
        if not experts:
            raise ValueError("experts is empty: expected one conditional distribution for each argument.")
        self.experts = nn.ModuleList(map(as_module, experts))
        self.prior = prior

    def _estimates(self, arguments: Sequence[Tensor]) -> Iterator[tuple[dist.TorchDistribution, Tensor]]:
        """What each expert says of its argument, and in which rows, [B, 1], it has one."""
        context = self._context(arguments)
        for expert, argument in zip(self.experts, arguments, strict=False):
            absent = argument.isnan().reshape(len(argument), -1).all(1)
            # Zeros, not NaN: what does not count has gradients too, and zero times NaN is NaN.
            shown = argument.masked_fill(absent.reshape(-1, *[1] * (argument.dim() - 1)), 0)
            yield expert(shown, *context), ~absent.unsqueeze(-1)

    def _context(self, arguments: Sequence[Tensor]) -> Sequence[Tensor]:
        M = len(self.experts)
        if len(arguments) < M:
            raise ValueError(
                f"{type(self).__name__} of {M} experts got {len(arguments)} argument{'s' * (len(arguments) != 1)}: "
                "each expert reads its own, (x_1, ..., x_M, *context). Give what is absent as NaN."
            )
        return arguments[M:]


class ProductOfExperts(Experts):
    """A posterior of several arguments, such as modalities: the prior times an expert for each that a row has.

        q(z|x_1..x_M,c)  proportional to  p(z|c) prod over present m of N(z; m_m(x_m,c), diag(s_m(x_m,c))^2)

    The posterior of sites that are independent given z has this form, whichever of them a row has: precisions add,
    and the mean is their average. An argument that is absent as a whole in a row, all NaN, drops out there. One that
    is absent in part goes to its expert as it is: put `pyrovae.nn.MissingAsZero` around a network that cannot take NaN.

    Wu, Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning" (2018),
    https://arxiv.org/abs/1802.05335. Experts are good alone where training has rows that lack the others.

    Args:
        experts: M conditional distributions, diagonal normals over z such as `DiagonalNormal`: the m-th of
            (x_m, *context), of rows [B, *event]. The arguments after the M-th are context. Rows that lack x_m are
            shown as zeros, and what is said of them does not count.
        prior: a conditional distribution of the context: the model's own, a diagonal normal such as
            `pyrovae.models.StandardNormal`. For a prior of another kind a `LearnedNormal` may stand.

    Raises:
        ValueError: no experts; at a call, fewer arguments than experts.
        TypeError: at a call, an expert or a prior that is no diagonal normal.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.models import StandardNormal
        >>> from pyrovae.nn import MLP
        >>> image, text = DiagonalNormal(MLP(64, (2, 2))), DiagonalNormal(MLP(10, (2, 2)))
        >>> posterior = ProductOfExperts([image, text], StandardNormal(2))
        >>> nothing = torch.full((5, 10), torch.nan)
        >>> posterior(torch.zeros(5, 64), nothing).event_shape
        torch.Size([2])
        >>> bool((posterior(torch.full((5, 64), torch.nan), nothing).variance == 1).all())
        True

    """

    def forward(self, *arguments: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the arguments, each [B, *event]."""
        product = self.prior(*self._context(arguments))
        for estimate, present in self._estimates(arguments):
            both, without = product_of_normals(estimate, product).base_dist, product.base_dist
            location = torch.where(present, both.loc, without.loc)
            product = dist.Normal(location, torch.where(present, both.scale, without.scale)).to_event(1)
        return product


class MixtureOfExperts(Experts):
    """A posterior of several arguments, such as modalities: one of the experts that a row has, each as probable.

        q(z|x_1..x_M,c) = mean over present m of N(z; m_m(x_m,c), diag(s_m(x_m,c))^2)

    Each expert has to explain all modalities by itself, where one of a product may leave that to the others. An
    argument that is absent as a whole in a row, all NaN, has no expert there; the prior stands where all are absent.
    Shi, Siddharth, Paige, Torr, "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models"
    (2019), https://arxiv.org/abs/1911.03393: there with `pyrovae.objectives.IWAE`.

    Args:
        experts: as of `ProductOfExperts`.
        prior: as of `ProductOfExperts`.

    Raises:
        ValueError, TypeError: as `ProductOfExperts`.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.models import StandardNormal
        >>> from pyrovae.nn import MLP
        >>> image, text = DiagonalNormal(MLP(64, (2, 2))), DiagonalNormal(MLP(10, (2, 2)))
        >>> MixtureOfExperts([image, text], StandardNormal(2))(torch.zeros(5, 64), torch.zeros(5, 10)).event_shape
        torch.Size([2])

    """

    def forward(self, *arguments: Tensor) -> dist.TorchDistribution:
        """The distribution of z given the arguments, each [B, *event]."""
        estimates, present = zip(*self._estimates(arguments), strict=True)
        there = torch.cat(present, -1)
        there = torch.cat([there, ~there.any(-1, keepdim=True)], -1)
        normals = [*estimates, self.prior(*self._context(arguments))]
        check_diagonal_normals(*normals)
        location, scale = (
            torch.stack(torch.broadcast_tensors(*parts), -2)
            for parts in ([n.base_dist.loc for n in normals], [n.base_dist.scale for n in normals])
        )
        logits = location.new_zeros(there.shape).masked_fill(~there, -torch.inf)
        return PathwiseMixture(dist.Categorical(logits=logits), dist.Normal(location, scale).to_event(1))


def product_of_normals(a: dist.TorchDistribution, b: dist.TorchDistribution) -> dist.TorchDistribution:
    """The normalized product of two diagonal normal densities: precisions add, locations are their average.

        N(z; m_a, s_a^2) N(z; m_b, s_b^2) ~ N(z; m, s^2),    1/s^2 = 1/s_a^2 + 1/s_b^2

    Raises:
        TypeError: one is not a diagonal normal.

    Example:
        >>> a, b = (dist.Normal(torch.tensor([m]), torch.ones(1)).to_event(1) for m in (0.0, 1.0))
        >>> product_of_normals(a, b).mean
        tensor([0.5000])

    """
    check_diagonal_normals(a, b)
    a, b = a.base_dist, b.base_dist
    # hypot, not squares: finite and positive for scales from 1e-6 to 1e30 at float32.
    ratio = b.scale / torch.hypot(a.scale, b.scale)
    location = b.loc + ratio**2 * (a.loc - b.loc)
    return dist.Normal(location, a.scale * ratio).to_event(1)


def check_diagonal_normals(*distributions: dist.TorchDistribution) -> None:
    """Raise TypeError for a distribution that is no diagonal normal."""
    for given in distributions:
        normal = isinstance(given, torch.distributions.Independent) and given.base_dist
        if not isinstance(normal, torch.distributions.Normal):
            raise TypeError(
                f"got {type(given).__name__}: a ladder combines diagonal normals, Normal(...).to_event(1), such as "
                "models.Normal and guides.DiagonalNormal give, and so do experts. For other priors use "
                "HierarchicalGuide in the place of a ladder, and among experts a models.LearnedNormal in the place of "
                "the prior."
            )
