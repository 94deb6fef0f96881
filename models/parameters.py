"""How parts read their parameters: from their network's outputs, or from values of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.nn import positive

Spread: TypeAlias = float | nn.Module | None
"""A scale or the like: a number, a module that returns one, or None where the network gives it."""


def independent(entries: dist.TorchDistribution, events: int) -> dist.TorchDistribution:
    """Make the last batch dimensions of a distribution over scalars one row's event."""
    return entries.to_event(events)


def check_positive(name: str, value: Spread) -> None:
    """Raise unless a number is positive and finite; modules and None pass."""
    if isinstance(value, int | float) and not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}: expected a positive, finite number.")


def spread(given: Spread, raw: list[Tensor] | None = None) -> Tensor | float:
    """A scale, dispersion or the like: as given, of the module given, or else of the network's next output."""
    if given is None:
        assert raw
        return positive(raw.pop(0))
    value: Tensor | float = given() if isinstance(given, nn.Module) else given
    return value


def outputs_of(
    part: nn.Module, outputs: Tensor | Sequence[Tensor], names: Sequence[str]
) -> tuple[Tensor, ...]:
    """Check that a part's network gave one tensor for each name.

    Raises:
        TypeError: it gave another number of tensors.

    """
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    if len(outputs) != len(names):
        raise TypeError(
            f"the network of {type(part).__name__} gave {len(outputs)} tensor{'s' * (len(outputs) != 1)}: expected "
            f"{len(names)}, ({', '.join(names)}), e.g. of MLP(in_features, (size, size, ...)) with one size for each. "
            "A scale or the like is either an output of the network or an argument of its own."
        )
    return outputs


def check_size(part: nn.Module, name: str, tensor: Tensor, expected: int, meaning: str) -> None:
    """Raise unless the last dimension of what a part's network gave is as expected.

    Raises:
        ValueError: with both sizes, and what the expected one means.

    """
    if tensor.shape[-1] != expected:
        raise ValueError(
            f"the network of {type(part).__name__} gave a {name} of size {tensor.shape[-1]}: expected {expected} "
            f"({meaning})."
        )
