"""What `expand` has in common in distributions of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

DistributionT = TypeVar("DistributionT", bound=TorchDistribution)


def expanded(
    given: DistributionT,
    cls: type[DistributionT],
    batch_shape: Sequence[int],
    instance: DistributionT | None,
    names: Sequence[str],
) -> DistributionT:
    """What `expand` gives for a distribution of class `cls`.

    `names` are its attributes of its batch shape: tensors, whose further dimensions stay as they are, and
    distributions.
    """
    new: DistributionT = given._get_checked_instance(cls, instance)  # type: ignore[no-untyped-call]
    batch_shape = torch.Size(batch_shape)
    for name in names:
        value = getattr(given, name)
        rest = value.shape[len(given.batch_shape) :] if isinstance(value, Tensor) else torch.Size()
        setattr(new, name, value.expand(batch_shape + rest))
    TorchDistribution.__init__(new, batch_shape, given.event_shape, validate_args=False)
    new._validate_args = given._validate_args
    return new
