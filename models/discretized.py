"""The likelihood of 8-bit data, 0 to 255."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.models import distributions
from pyrovae.models.likelihoods import LocationScale

HALF_RANGE = 127.5


class DiscretizedLogistic(LocationScale):
    """Independent 8-bit entries, the whole numbers 0, ..., 255: a logistic distribution, rounded.

    P(x) = s((x + 1/2 - m) / w) - s((x - 1/2 - m) / w), s the sigmoid, tails going to 0 and 255. Salimans,
    Karpathy, Chen, Kingma, "PixelCNN++" (2017), https://arxiv.org/abs/1701.05517, eq. 2. The network and
    `scale` speak of values mapped from [0, 255] to [-1, 1]: m = 127.5 (1 + location), w = 127.5 scale. Data are
    given as they are, 0 to 255, in floating point; bits per entry are nats / log 2.

    Args:
        network: from the inputs to the location, or to (location, raw scale).
        scale: a positive number, a module that returns one, or None, as in `Normal`; of the range [-1, 1].

    Raises:
        ValueError, TypeError: as `Normal`.

    Example:
        >>> import torch
        >>> from pyrovae.nn import MLP
        >>> DiscretizedLogistic(MLP(2, (64, 64)))(torch.zeros(5, 2)).event_shape
        torch.Size([64])

    """

    def family(self, location: Tensor, scale: Tensor | float) -> dist.TorchDistribution:
        """The discretized logistic distribution of one entry."""
        return distributions.DiscretizedLogistic(
            HALF_RANGE * (1 + location), location.new_tensor(HALF_RANGE) * scale
        )
