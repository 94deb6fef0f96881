"""What an encoder network gives to a posterior, checked: every family takes its tensors in one order.

The location first, then the raw scale, then whatever the family has beside them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def encode(
    family: str, network: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...]
) -> tuple[Tensor, ...]:
    """Run the network and check that it gives one tensor for each name.

    Raises:
        TypeError: it gives another number of tensors.

    """
    outputs: Any = network(*inputs)
    count = 1 if isinstance(outputs, Tensor) else len(outputs)
    if isinstance(outputs, Tensor) or count != len(names):
        raise TypeError(
            f"the network of {family} gave {count} tensor{'s' * (count != 1)}: expected {len(names)}, "
            f"({', '.join(names)}), e.g. MLP(in_features, (size, size, ...)) with one size for each."
        )
    return tuple(outputs)


def check_size(family: str, name: str, tensor: Tensor, expected: int, meaning: str) -> None:
    """Raise unless the tensor's last dimension is as expected.

    Raises:
        ValueError: with both sizes, and what the expected one means.

    """
    if tensor.shape[-1] != expected:
        raise ValueError(
            f"the network of {family} gave a {name} of size {tensor.shape[-1]}: expected {expected} ({meaning})."
        )
