"""What a training was made of, as texts that are the same in every process: a checkpoint compares them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping

import torch
from torch import nn

_NO_SETTINGS = {"params", "initial_lr", "fused", "foreach", "capturable"}
_PLAIN = (bool, int, float, str, type(None))


def without_addresses(text: str) -> str:
    """A repr without places in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def described_program(program: object) -> str | None:
    """A module by its parts, a function by its name."""
    if program is None:
        return None
    if isinstance(program, nn.Module):
        return without_addresses(repr(program))
    if isinstance(program, functools.partial):
        return f"partial of {described_program(program.func)}"
    name = getattr(program, "__qualname__", type(program).__qualname__)
    return f"{getattr(program, '__module__', '')}.{name}"


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


def same_but_for_rates(one: object, other: object) -> bool:
    """Whether two optimizers, as `described_optimizer` tells of them, differ in learning rates alone."""
    without = [re.sub(r"'((?:max_|min_)?lr)': [^,}]+", r"\1", str(text)) for text in (one, other)]
    return without[0] == without[1]


def described_scheduler(scheduler: object) -> str:
    """Its kind, and those of its settings that do not change while it runs."""
    names = set(inspect.signature(type(scheduler).__init__).parameters) - {"last_epoch"}
    kept = {name: value for name, value in vars(scheduler).items() if name in names} if scheduler else {}
    return f"{type(scheduler).__name__} {plain_settings(kept)}"


def plain_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Those settings that are numbers and texts."""
    return {name: value for name, value in settings.items() if isinstance(value, _PLAIN)}
