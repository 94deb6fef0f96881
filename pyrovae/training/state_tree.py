"""Nested states (of optimizers, schedules, callbacks) as tensors beside JSON, and back: no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

import numpy as np
from torch import Tensor

# What JSON holds: a dict has one entry, what it stands for.
Packed: TypeAlias = "bool | int | float | str | list[Packed] | dict[str, Packed] | None"

_PLAIN = (bool, int, float, str, type(None))


def pack(tree: object, name: str = "state") -> tuple[dict[str, Tensor], Packed]:
    """Tensors by name, and the rest as JSON that refers to them.

    Raises:
        TypeError: something that is neither a tensor nor plain data (says where).

    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(tree, name, tensors)


def unpack(packed: Packed, tensors: Mapping[str, Tensor]) -> object:
    """The inverse of `pack`."""
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    match packed:
        case {"tensor": str(name)}:
            return tensors[name].clone()
        case {"tuple": list(items)}:
            return tuple(unpack(item, tensors) for item in items)
        case {"dict": list(pairs)}:
            return dict(cast("list[tuple[object, object]]", unpack(pairs, tensors)))
    raise ValueError(f"expected a packed tensor, tuple or dict, and found {sorted(packed)}.")


def _pack(tree: object, name: str, tensors: dict[str, Tensor]) -> Packed:
    if isinstance(tree, Tensor):
        if name in tensors:  # a key with a dot in it may read like two
            name = f"{name} {len(tensors)}"
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, Mapping):
        # Keys may be numbers, which JSON would turn into text.
        return {
            "dict": [[_pack(k, name, tensors), _pack(v, f"{name}.{k}", tensors)] for k, v in tree.items()]
        }
    if isinstance(tree, tuple):
        return {"tuple": [_pack(item, f"{name}.{place}", tensors) for place, item in enumerate(tree)]}
    if isinstance(tree, list):
        return [_pack(item, f"{name}.{place}", tensors) for place, item in enumerate(tree)]
    if type(tree) in _PLAIN:
        return cast("Packed", tree)
    if isinstance(tree, np.generic):
        return _pack(tree.item(), name, tensors)
    raise TypeError(f"{name} is {type(tree).__name__}: only tensors and plain data can be saved.")
