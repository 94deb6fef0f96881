"""Networks of rows that lack entries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.nn.mlp import Outputs


class MissingAsZero(nn.Module):
    """A network of (x, *context) that sees zeros for the entries of x that are NaN, and which are there.

    So a composed or hand-written guide takes rows that lack entries, and tells a zero from nothing.

    Args:
        network: of the inputs x with zeros and what is present as numbers, 1 or 0, each [..., D], and context: an `MLP`
            of 2 D features.

    Example:
        >>> from pyrovae.nn import MLP
        >>> x = torch.randn(5, 3)
        >>> x[2, 1] = torch.nan
        >>> MissingAsZero(MLP(6, 2))(x).isfinite().all()
        tensor(True)

    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *context: Tensor) -> Outputs:
        """What the network gives."""
        present = ~x.isnan()
        outputs: Outputs = self.network(torch.where(present, x, 0.0), present.to(x.dtype), *context)
        return outputs
