"""What a training was made of, as plain data that are the same in every process: a checkpoint compares them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from types import FunctionType, MethodType

import torch
from torch import Tensor, nn

from pyrovae.training.described_code import PLAIN, Plain, described_functions

_NO_SETTINGS = {"params", "initial_lr", "fused", "foreach", "capturable"}
# What schedulers count, and the rates, of which the optimizer tells.
_CHANGING = {
    "optimizer",
    "base_lrs",
    "last_epoch",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
    "T_cur",
    "T_i",
    "verbose",
}
_KEPT = {"_schedulers", "_milestones", "_schedule_phases", "_anneal_func_type", "_scale_fn_custom"}


def without_addresses(text: str) -> str:
    """A repr without places in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def described_program(program: object) -> Plain:
    """A module by its parts, a function by its name, both by the code of those that are not installed."""
    if program is None:
        return None
    found: dict[str, Plain] = {"functions": described_functions(program)}
    inner, bound = program, list[object]()
    while isinstance(inner, functools.partial):
        bound.append([inner.args, inner.keywords])
        inner = inner.func
    if isinstance(inner, nn.Module):
        found["parts"] = list(without_addresses(repr(inner)).splitlines())
    else:
        found["name"] = getattr(inner, "__name__", type(inner).__name__)
    return found | ({"bound": plain(bound)} if bound else {})


def described_optimizer(optimizer: torch.optim.Optimizer) -> Plain:
    """Its kind and settings as it was made, whatever schedulers did since."""
    groups = [
        {
            name: group.get(f"initial_{name}", value)
            for name, value in group.items()
            if name not in _NO_SETTINGS
        }
        for group in optimizer.param_groups
    ]
    return plain({"kind": type(optimizer).__name__, "groups": groups})


def described_scheduler(scheduler: object) -> Plain:
    """Its kind, and what it goes by that does not change while it runs; schedulers within it too."""
    if scheduler is None:
        return None
    kept = {
        name: [described_scheduler(part) for part in value] if name == "_schedulers" else plain(value)
        for name, value in vars(scheduler).items()
        if name in _KEPT or not (name.startswith("_") or name in _CHANGING)
    }
    return {"kind": type(scheduler).__name__, **kept}


def described_settings(thing: object) -> Plain:
    """A callback's kind, and those of its attributes that it was made with: others may change while it runs."""
    names = set(inspect.signature(type(thing).__init__).parameters)
    kept = {name: value for name, value in vars(thing).items() if name in names}
    return {"kind": type(thing).__name__, **plain_settings(kept)}


def plain_settings(settings: Mapping[str, object]) -> dict[str, Plain]:
    """Those settings that are numbers and texts."""
    return {name: value for name, value in settings.items() if isinstance(value, PLAIN)}


def plain(value: object) -> Plain:
    """Numbers, texts, functions, and what holds them; of all else the kind."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Tensor):
        return plain(value.tolist()) if value.numel() <= 100 else f"{value.dtype} {list(value.shape)}"
    if isinstance(value, FunctionType | MethodType | functools.partial):
        return described_program(value)
    return type(value).__name__
