"""Normalizing flows as posteriors: a diagonal normal, bent.

    z = m(x) + s(x) * T(e; h(x)),    e ~ N(0, I)

The encoder gives m, s and the context h; T is a stack of invertible layers that see h. T starts near the
identity, so that a flow starts as the diagonal normal of its encoder. All layers are one pass in the
direction in which guides need them, from e to z, and they keep that pass: the density of a fresh sample
costs no inversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from pyro.distributions import transforms
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyrovae.models.flow import Flow, Layer, check_flow_sizes, with_reversals
from pyrovae.nn import MLP

# Factor on the initial weights of the layers' networks: small enough for a stable start near the identity,
# and not zero, so that gradients reach every layer from the first step.
_START = 0.1
_SMALLEST_SLOPE = 1e-3  # what Pyro adds to the slopes of its splines


class InverseAutoregressiveFlow(Flow):
    """Affine layers, each dimension shifted and scaled by a masked network of those before it.

        T(e)_d = mu_d(e_1..e_{d-1}; h) + sigma_d(e_1..e_{d-1}; h) * e_d

    in alternating order of the dimensions. The masked networks have a linear part beside the curved one, so
    that a single layer contains every normal whose covariance is the same in all rows. Sampling with its
    density is one pass; the density of a value from elsewhere takes K.

    Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, "Improving Variational Inference with Inverse
    Autoregressive Flow" (2016), https://arxiv.org/abs/1606.04934, equation 10; networks: Germain, Gregor,
    Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation" (2015),
    https://arxiv.org/abs/1502.03509.

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., K], context h [..., context_size]).
        latent_size: K, at least 2.
        context_size: the size of h.
        num_layers: how many.
        hidden: sizes of the hidden layers of each layer's network, each at least K.

    Raises:
        TypeError: at a call, a network that gives another number of tensors.
        ValueError: sizes that do not fit (says both).

    Example:
        >>> InverseAutoregressiveFlow(MLP(64, (8, 8, 16)), 8, 16)(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __init__(
        self,
        network: nn.Module,
        latent_size: int,
        context_size: int,
        *,
        num_layers: int = 2,
        hidden: Sequence[int] = (64,),
    ) -> None:
        check_flow_sizes(latent_size, context_size, num_layers)
        _check_hidden(latent_size, hidden)
        layers = [_affine_autoregressive(n, latent_size, context_size, hidden) for n in range(num_layers)]
        super().__init__(network, latent_size, context_size, layers)


class CouplingFlow(Flow):
    """Affine layers, half of the dimensions shifted and scaled by a network of the other half.

        T(e) = (e_a, mu(e_a; h) + sigma(e_a; h) * e_b)

    with a and b changing places from layer to layer. One pass in both directions: the density of any value
    is as fast as sampling. Each layer bends less than an autoregressive one, so there are more of them.

    Dinh, Sohl-Dickstein, Bengio, "Density Estimation Using Real NVP" (2016),
    https://arxiv.org/abs/1605.08803.

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., K], context h [..., context_size]).
        latent_size: K, at least 2.
        context_size: the size of h.
        num_layers: how many; with fewer than two half of the dimensions stay as they are.
        hidden: sizes of the hidden layers of each layer's network.

    Raises:
        TypeError: at a call, a network that gives another number of tensors.
        ValueError: sizes that do not fit (says both).

    Example:
        >>> CouplingFlow(MLP(64, (8, 8, 16)), 8, 16)(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __init__(
        self,
        network: nn.Module,
        latent_size: int,
        context_size: int,
        *,
        num_layers: int = 4,
        hidden: Sequence[int] = (64,),
    ) -> None:
        check_flow_sizes(latent_size, context_size, num_layers)
        layers = with_reversals(
            _affine_coupling(latent_size, context_size, hidden) for _ in range(num_layers)
        )
        super().__init__(network, latent_size, context_size, layers)


class NeuralSplineFlow(Flow):
    """Layers of monotone rational-quadratic splines, each followed by an affine autoregressive one.

        T(e)_d = affine_d(g_d(e_d; e_1..e_{d-1}, h))

    The splines g_d act on [-bound, bound] and are the identity outside; the affine layers carry shifts and
    correlations, which splines in a box cannot. Hence it contains `InverseAutoregressiveFlow` with as many
    layers (but for the slopes at the ends of Pyro's splines, 0.999 in the place of 1). Sampling with its
    density is one pass; the density of a value from elsewhere takes K.

    Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019), https://arxiv.org/abs/1906.04032,
    with affine autoregressive layers in the place of their linear ones.

    Args:
        network: from x (and context) to (location [..., K], raw scale [..., K], context h [..., context_size]).
        latent_size: K, at least 2.
        context_size: the size of h.
        num_layers: how many pairs of a spline and an affine layer.
        hidden: sizes of the hidden layers of each layer's networks, each at least K.
        num_bins: segments of each spline, at least 2.
        bound: half the width of the splines' box, in standard deviations of e.

    Raises:
        TypeError: at a call, a network that gives another number of tensors.
        ValueError: sizes that do not fit (says both), `num_bins` below 2, `bound` not positive.

    Example:
        >>> NeuralSplineFlow(MLP(64, (8, 8, 16)), 8, 16)(torch.zeros(5, 64)).event_shape
        torch.Size([8])

    """

    def __init__(
        self,
        network: nn.Module,
        latent_size: int,
        context_size: int,
        *,
        num_layers: int = 2,
        hidden: Sequence[int] = (64,),
        num_bins: int = 8,
        bound: float = 4.0,
    ) -> None:
        check_flow_sizes(latent_size, context_size, num_layers)
        _check_hidden(latent_size, hidden)
        if num_bins < 2:
            raise ValueError(f"num_bins is {num_bins}: expected at least 2.")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound is {bound}: expected a positive, finite number.")
        layers: list[Layer] = []
        for n in range(num_layers):
            layers += [
                _spline_autoregressive(n, latent_size, context_size, hidden, num_bins, bound),
                _affine_autoregressive(n, latent_size, context_size, hidden),
            ]
        super().__init__(network, latent_size, context_size, layers)


class _Conditioner(nn.Module):
    """(Shift, log scale) of one half of the dimensions from the other: a curved and a linear part."""

    def __init__(self, latent_size: int, context_size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        given = latent_size // 2
        sizes = (latent_size - given,) * 2
        self.curved = MLP(context_size + given, sizes, hidden)
        self.linear = MLP(context_size + given, sizes)
        for part in (self.curved, self.linear):
            for head in part.heads:
                _shrink(head)

    def forward(self, half: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.curved(context, half)
        linear_shift, linear_log_scale = self.linear(context, half)
        return shift + linear_shift, log_scale + linear_log_scale


def _affine_coupling(
    latent_size: int, context_size: int, hidden: Sequence[int]
) -> transforms.ConditionalAffineCoupling:
    return transforms.ConditionalAffineCoupling(
        latent_size // 2, _Conditioner(latent_size, context_size, hidden)
    )


def _affine_autoregressive(
    n: int, latent_size: int, context_size: int, hidden: Sequence[int]
) -> transforms.ConditionalAffineAutoregressive:
    network = _masked_network(n, latent_size, context_size, hidden, [1, 1])
    return transforms.ConditionalAffineAutoregressive(network)


def _spline_autoregressive(
    n: int, latent_size: int, context_size: int, hidden: Sequence[int], num_bins: int, bound: float
) -> transforms.ConditionalSplineAutoregressive:
    network = _masked_network(n, latent_size, context_size, hidden, [num_bins, num_bins, num_bins - 1])
    # The identity: equal bins (zeros do that), and slopes of one at the knots between them.
    slope = math.log(math.expm1(1 - _SMALLEST_SLOPE))
    with torch.no_grad():
        network.layers[-1].get_parameter("bias").view(-1, latent_size)[2 * num_bins :] = slope
    return transforms.ConditionalSplineAutoregressive(
        latent_size, network, count_bins=num_bins, bound=bound, order="quadratic"
    )


def _masked_network(
    n: int, latent_size: int, context_size: int, hidden: Sequence[int], outputs: list[int]
) -> ConditionalAutoRegressiveNN:
    order = torch.arange(latent_size)
    if n % 2:
        order = order.flip(0)
    network = ConditionalAutoRegressiveNN(
        latent_size,
        context_size,
        list(hidden),
        param_dims=outputs,
        permutation=cast(torch.LongTensor, order),
        skip_connections=True,
    )
    assert network.skip_layer is not None
    for layer in (network.layers[-1], network.skip_layer):
        _shrink(layer)
    return network


def _shrink(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.get_parameter("weight").mul_(_START)
        if layer.bias is not None:
            layer.get_parameter("bias").zero_()


def _check_hidden(latent_size: int, hidden: Sequence[int]) -> None:
    if not hidden or min(hidden) < latent_size:
        raise ValueError(
            f"hidden is {list(hidden)}: expected one or more sizes of at least latent_size = {latent_size}."
        )
