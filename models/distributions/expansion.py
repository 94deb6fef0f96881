"""What `expand` has in common in distributions of this package."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution


def expanded(self: Any, cls: Any, batch_shape: Any, instance: Any, names: tuple[str, ...]) -> Any:
    """What `expand` gives for a distribution over scalars with parameters of the batch shape."""
    new = self._get_checked_instance(cls, instance)
    batch_shape = torch.Size(batch_shape)
    for name in names:
        setattr(new, name, getattr(self, name).expand(batch_shape))
    TorchDistribution.__init__(new, batch_shape, validate_args=False)
    new._validate_args = self._validate_args
    return new
