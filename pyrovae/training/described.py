"""What a training was made of, as texts that are the same in every process: a checkpoint compares them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pyrovae.objectives.base import RowObjective

if TYPE_CHECKING:
    from pyrovae.training.batches import Batches
    from pyrovae.vae import VAE

_NO_SETTINGS = {"params", "initial_lr", "fused", "foreach", "capturable"}
_PLAIN = (bool, int, float, str, type(None))


def described_training(
    vae: VAE,
    batches: Batches,
    held_out: Batches | None,
    transform: Any,
    objective: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    callbacks: Sequence[Any],
) -> dict[str, Any]:
    """What a training is made of beside plain settings, by name."""
    return {
        "model": described_program(vae.model),
        "guide": described_program(vae.guide),
        "sites": vae.layout.families,
        # Their random states are of other kinds.
        "device": vae.device.type,
        "data": batches.fingerprint(),
        "validation": None if held_out is None else held_out.fingerprint(),
        "transform": described_program(transform),
        "batch_size": batches.batch_size,
        "objective": described_objective(objective),
        "optimizer": described_optimizer(optimizer),
        "scheduler": described_scheduler(scheduler),
        "callbacks": [type(callback).__name__ for callback in callbacks],
    }


def without_addresses(text: str) -> str:
    """A repr without places in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def described_program(program: Any) -> str | None:
    """A module by its parts, a function by its name."""
    if program is None:
        return None
    if isinstance(program, nn.Module):
        return without_addresses(repr(program))
    if isinstance(program, functools.partial):
        return f"partial of {described_program(program.func)}"
    name = getattr(program, "__qualname__", type(program).__qualname__)
    return f"{getattr(program, '__module__', '')}.{name}"


def described_objective(objective: Any) -> str:
    """Its kind and settings."""
    if isinstance(objective, RowObjective):
        return without_addresses(repr(objective))
    # Pyro's objectives guess the nesting of plates at their first run.
    kept = {n: v for n, v in vars(objective).items() if n != "max_plate_nesting"} if objective else {}
    return f"{type(objective).__name__} {_plain(kept)}"


def described_optimizer(optimizer: torch.optim.Optimizer) -> str:
    """Its kind and settings as it was made, whatever schedulers did since."""
    groups = [
        {
            name: group.get(f"initial_{name}", value)
            for name, value in group.items()
            if name not in _NO_SETTINGS
        }
        for group in optimizer.param_groups
    ]
    return f"{type(optimizer).__name__} {groups}"


def described_scheduler(scheduler: Any) -> str:
    """Its kind, and those of its settings that do not change while it runs."""
    names = set(inspect.signature(type(scheduler).__init__).parameters) - {"last_epoch"}
    kept = {name: value for name, value in vars(scheduler).items() if name in names} if scheduler else {}
    return f"{type(scheduler).__name__} {_plain(kept)}"


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if isinstance(value, _PLAIN)}
