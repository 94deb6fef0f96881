"""Which parameters of a VAE are frozen, and which of its modules are in evaluation mode: callbacks may change both."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from pyrovae.schema import MalformedError, shown
from pyrovae.training.steps import can_train


def frozen(module: nn.Module) -> list[str]:
    """Names of the parameters without gradients."""
    return sorted(name for name, p in module.named_parameters() if can_train(p) and not p.requires_grad)


def evaluating(module: nn.Module) -> list[str]:
    """Names of the modules in evaluation mode; "" is the whole."""
    return sorted(name for name, m in module.named_modules() if not m.training)


def check_modes(module: nn.Module, frozen: Collection[str], evaluating: Collection[str]) -> None:
    """Raise MalformedError where there are no such parameters and modules."""
    parameters = {name for name, p in module.named_parameters() if can_train(p)}
    names = {"frozen": (frozen, parameters), "evaluating": (evaluating, dict(module.named_modules()).keys())}
    for field, (given, known) in names.items():
        if unknown := sorted(set(given) - known):
            raise MalformedError(field, f"has {shown(unknown[0])}, which this VAE does not")


def take_modes(module: nn.Module, frozen: Collection[str], evaluating: Collection[str]) -> None:
    """Freeze and free parameters, and put modules into evaluation and training mode."""
    for name, parameter in module.named_parameters():
        if can_train(parameter):
            parameter.requires_grad_(name not in frozen)
    for name, part in module.named_modules():
        part.training = name not in evaluating
