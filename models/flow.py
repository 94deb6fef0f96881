"""Normalizing flows: a normal distribution, bent. One class is a prior without a network and a posterior with one.

All layers are one pass in the direction from e to z, and within one distribution they keep that pass: the density
of a fresh draw costs no inversion. The flows of posteriors have their names in `pyrovae.guides.flows`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias, TypeVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_transform import TransformModule
from pyro.distributions.transforms import AffineTransform, affine_coupling, spline_coupling
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyrovae.models.parameters import check_size, outputs_of
from pyrovae.models.priors import check_latent_size
from pyrovae.nn import positive


class ConditionalTransform(Protocol):
    """A bijection for each context, such as Pyro's conditional transforms."""

    def condition(self, context: Tensor) -> Transform:
        """The bijection of this context."""


Layer: TypeAlias = Transform | ConditionalTransform
LayerT = TypeVar("LayerT", bound=Layer)


class Flow(nn.Module):
    """A standard normal e pushed through bijections T_l; the named flows are short aliases of it.

        z = m(x) + s(x) * T_n(...T_1(e; h(x))...; h(x)),    e ~ N(0, I)    with a network of x
        z = T_n(...T_1(e))                                                 without one, whatever the context

    Without a network: Rezende & Mohamed, "Variational inference with normalizing flows" (2015),
    https://arxiv.org/abs/1505.05770, eq. 6 and 7. With one: Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling,
    "Improving Variational Inference with Inverse Autoregressive Flow" (2016), https://arxiv.org/abs/1606.04934,
    algorithm 1, with the encoder's affine map as the last step instead of the first.

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., K], context h [..., context_size]);
            None for a distribution of nothing.
        latent_size: K; at least 2 with a network.
        context_size: the size of h; not read without a network.
        layers: applied in order: bijections of [..., K], of `pyro.distributions.transforms` or torch's, and with a
            network also Pyro's conditional transforms, given h.

    Raises:
        TypeError: a conditional layer without a network; at a call, a network that gives another number of tensors.
        ValueError: no layers, `latent_size` or `context_size` too small; at a call, sizes that do not fit (says
            both).

    Example:
        >>> from pyro.distributions.transforms import conditional_planar
        >>> from pyrovae.nn import MLP
        >>> flow = Flow(MLP(64, (2, 2, 16)), 2, 16, [conditional_planar(2, context_dim=16)])
        >>> flow(torch.zeros(5, 64)).rsample().shape
        torch.Size([5, 2])

    """

    def __init__(
        self, network: nn.Module | None, latent_size: int, context_size: int, layers: Sequence[Layer]
    ) -> None:
        super().__init__()
        if network is None:
            _check_unconditional(latent_size, layers)
        else:
            check_flow_sizes(latent_size, context_size, len(layers))
        self.network = network
        self.latent_size = latent_size
        self.context_size = context_size
        self.transforms = list(layers)
        self.layers = nn.ModuleList(layer for layer in layers if isinstance(layer, nn.Module))
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    @staticmethod
    def head_sizes(latent_size: int, context_size: int = 32) -> tuple[int, ...]:
        """What the network gives: location, raw scale, context of the layers."""
        return latent_size, latent_size, context_size

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """The distribution of z, event [K], given the inputs, or whatever they are."""
        base = dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
        if self.network is None:
            return dist.TransformedDistribution(base, [_at(layer, None) for layer in self.transforms])
        names = ("location", "raw scale", "context")
        location, raw, context = outputs_of(self, self.network(*inputs), names)
        check_size(self, "location", location, self.latent_size, "latent_size")
        check_size(self, "raw scale", raw, self.latent_size, "latent_size")
        check_size(self, "context", context, self.context_size, "context_size")
        steps = [_at(layer, context) for layer in self.transforms]
        steps.append(AffineTransform(location, positive(raw), event_dim=1, cache_size=1))
        return dist.TransformedDistribution(base, steps)


class FlowPrior(Flow):
    """p(z): a standard normal e pushed through bijections, z = f_L(... f_1(e)).

    log p(z) = log N(e; 0, I) - sum_l log |det df_l|. Rezende & Mohamed, "Variational inference with normalizing
    flows" (2015), https://arxiv.org/abs/1505.05770, eq. 6 and 7. `spline_flow` and `affine_flow` make flows of
    coupling layers, whose density and sampling both take one pass. Autoregressive transforms work too; Pyro's
    sample in one pass and loop over the K dimensions for a density.

    Args:
        latent_size: K.
        transforms: bijections of [..., K], of `pyro.distributions.transforms` or torch's, from the base outwards.

    Raises:
        ValueError: `latent_size` below 1, no transforms.
        TypeError: a conditional transform.

    Example:
        >>> import pyro.distributions.transforms as T
        >>> FlowPrior(4, [T.planar(4), T.affine_coupling(4)])().event_shape
        torch.Size([4])

    """

    def __init__(self, latent_size: int, transforms: Sequence[Transform]) -> None:
        super().__init__(None, latent_size, 0, transforms)


def spline_flow(
    latent_size: int,
    *,
    num_layers: int = 4,
    hidden: Sequence[int] = (64, 64),
    count_bins: int = 8,
    bound: float = 5.0,
) -> FlowPrior:
    """A flow of neural spline couplings: monotonic rational-linear splines, linked to the identity outside.

    Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows" (2019), https://arxiv.org/abs/1906.04032;
    Dolatabadi, Erfani, Leckie, "Invertible generative modeling using linear rational splines" (2020),
    https://arxiv.org/abs/2001.05168. The order of dimensions is reversed between layers.

    Args:
        latent_size: K, at least 2.
        num_layers: couplings.
        hidden: hidden layers of each coupling's network.
        count_bins: segments of a spline.
        bound: splines act on [-bound, bound].

    Raises:
        ValueError: sizes too small.

    Example:
        >>> spline_flow(8)().event_shape
        torch.Size([8])

    """
    check_latent_size(latent_size, 2)
    return FlowPrior(
        latent_size,
        with_reversals(
            spline_coupling(latent_size, hidden_dims=list(hidden), count_bins=count_bins, bound=bound)
            for _ in range(num_layers)
        )[:-1],
    )


def affine_flow(latent_size: int, *, num_layers: int = 4, hidden: Sequence[int] = (64, 64)) -> FlowPrior:
    """A flow of affine couplings: half of the dimensions shift and scale the other half.

    Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP" (2016), https://arxiv.org/abs/1605.08803,
    eq. 4 and 5. The order of dimensions is reversed between layers.

    Args:
        latent_size: K, at least 2.
        num_layers: couplings.
        hidden: hidden layers of each coupling's network.

    Raises:
        ValueError: sizes too small.

    Example:
        >>> affine_flow(8)().event_shape
        torch.Size([8])

    """
    check_latent_size(latent_size, 2)
    return FlowPrior(
        latent_size,
        with_reversals(affine_coupling(latent_size, hidden_dims=list(hidden)) for _ in range(num_layers))[
            :-1
        ],
    )


class Reverse(TransformModule):
    """Reverses the order of dimensions; Pyro's Permute holds a tensor that does not move with the module."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    volume_preserving = True

    def __init__(self) -> None:
        super().__init__(cache_size=1)  # type: ignore[no-untyped-call]

    def _call(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.flip(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zeros, [...]."""
        return x.new_zeros(x.shape[:-1])


def with_reversals(layers: Iterable[LayerT]) -> list[LayerT | Reverse]:
    """Each layer, then the order of dimensions reversed: the next coupling moves the half that this one left."""
    return [step for layer in layers for step in (layer, Reverse())]


def check_flow_sizes(latent_size: int, context_size: int, num_layers: int) -> None:
    """Raise for sizes that a flow with a network cannot have."""
    if latent_size < 2:
        raise ValueError(
            f"latent_size is {latent_size}: a flow couples dimensions, so expected at least 2. For a single one "
            "use DiagonalNormal or MixtureOfNormals."
        )
    if context_size < 1:
        raise ValueError(f"context_size is {context_size}: expected at least 1.")
    if num_layers < 1:
        raise ValueError(f"the number of layers is {num_layers}: expected at least 1.")


def _check_unconditional(latent_size: int, layers: Sequence[Layer]) -> None:
    check_latent_size(latent_size)
    if not layers:
        raise ValueError("transforms are empty: a flow needs one at least; without any use StandardNormal.")
    for layer in layers:
        if not isinstance(layer, Transform):
            raise TypeError(
                f"{type(layer).__name__} is no transform by itself, and this flow has no network to give it a context: "
                "give transforms such as affine_coupling, or a network that gives a context."
            )


def _at(layer: Layer, context: Tensor | None) -> Transform:
    """A layer as one distribution's own: given the context, and with an empty cache."""
    if isinstance(layer, Transform):
        return _fresh(layer)
    assert context is not None
    return layer.condition(context)


def _fresh(transform: Transform) -> Transform:
    """The same transform with the same parameters and an empty cache.

    Pyro's transforms keep their last input, output and log-determinant. On a module shared by all calls these
    would outlive a step of the optimizer, carry a graph into deep copies, and pass values without gradients on.
    """
    fresh = copy.copy(transform)
    fresh._cached_x_y = None, None
    if isinstance(fresh, nn.Module):
        fresh._modules = {
            name: _fresh(child) if isinstance(child, Transform) else child
            for name, child in fresh._modules.items()
        }
    return fresh
