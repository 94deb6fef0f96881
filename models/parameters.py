"""How parts read their parameters: from their network's outputs, or from values of their own."""

from __future__ import annotations

from typing import Any, TypeAlias

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.nn import positive

Spread: TypeAlias = float | nn.Module | None
"""A scale or the like: a number, a module that returns one, or None where the network gives it."""


def independent(entries: Any, events: int) -> dist.TorchDistribution:
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


def outputs_of(part: nn.Module, outputs: Any, plain: list[str], raw: list[str]) -> tuple[Tensor, ...]:
    """Check that a part's network gave as many tensors as the part needs.

    `plain` names the parameters that the network always gives, `raw` those that it gives unconstrained.
    """
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    wanted = [*plain, *(f"raw {name}" for name in raw)]
    if len(outputs) != len(wanted):
        raise TypeError(
            f"the network of {type(part).__name__} gave {_counted(len(outputs))} where {_counted(len(wanted))} "
            f"({', '.join(wanted)}) {'is' if len(wanted) == 1 else 'are'} needed. A scale or the like is either "
            "an argument of its own or an output of the network, e.g. MLP(in_features, (D, D)) gives two."
        )
    return outputs


def _counted(number: int) -> str:
    return "one tensor" if number == 1 else f"{number} tensors"
