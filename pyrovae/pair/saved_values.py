"""Tensors of modules by name, and what differs between those of a file and a module's own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pyrovae.schema import shown


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each tensor once."""
    return each_once(all_names(module), {})


def all_names(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and saved buffers by every name that they have in a module."""
    found: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True, prefix=prefix).items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"'{name}' is {type(tensor).__name__}: only tensors are saved; no extra state.")
        found[name] = tensor
    return found


def each_once(named: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor by one of its names: the first that a file has, else its first."""
    names: dict[int, list[str]] = {}
    for name, tensor in named.items():
        names.setdefault(id(tensor), []).append(name)
    chosen = {next((n for n in own if n in saved), own[0]) for own in names.values()}
    return {name: tensor for name, tensor in named.items() if name in chosen}


def differences_between(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    """Names, shapes and dtypes that differ, in words; "" where none does."""
    parts = []
    if missing := sorted(own.keys() - saved.keys()):
        parts.append(f"it lacks {_some(missing)}")
    if unknown := sorted(saved.keys() - own.keys()):
        parts.append(f"it has {_some(unknown)}, which this VAE does not")
    parts += [
        f"{shown(name)} has shape {list(saved[name].shape)} in the file and {list(own[name].shape)} here"
        for name in sorted(own.keys() & saved.keys())
        if own[name].shape != saved[name].shape
    ][:3]
    parts += [
        f"{shown(name)} is {saved[name].dtype} in the file and {own[name].dtype} here"
        for name in sorted(own.keys() & saved.keys())
        if own[name].dtype != saved[name].dtype
    ][:3]
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    some = ", ".join(map(shown, names[:3]))
    return some + (f" and {len(names) - 3} more" if len(names) > 3 else "")
