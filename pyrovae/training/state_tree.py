"""Nested states (of optimizers, schedules, callbacks) as tensors beside JSON, and back: no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from pyrovae.schema import MalformedError, shown

# What JSON holds: a dict has one entry, what it stands for.
Packed: TypeAlias = "bool | int | float | str | list[Packed] | dict[str, Packed] | None"

_PLAIN = (bool, int, float, str, type(None))
_NUMBERS = {float: torch.float64, int: torch.int64, bool: torch.bool}
# Numbers in a list that are kept as a tensor.
_MANY = 100


def pack(tree: object, name: str = "state") -> tuple[dict[str, Tensor], Packed]:
    """Tensors by name, and the rest as JSON that refers to them.

    Raises:
        TypeError: something that is neither a tensor nor plain data (says where).

    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(tree, name, tensors)


def unpack(packed: Packed, tensors: Mapping[str, Tensor], field: str = "state") -> object:
    """The inverse of `pack`; tensors get memory of their own.

    Raises:
        MalformedError: it is not what `pack` gives, or names tensors that are not there.

    """
    if isinstance(packed, list):
        return [unpack(item, tensors, f"{field}.{place}") for place, item in enumerate(packed)]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        match packed:
            case {"tensor": str(name)}:
                return _tensor(name, tensors, field).clone()
            case {"numbers": str(name)}:
                return _tensor(name, tensors, field).tolist()
            case {"tuple": list(items)}:
                return tuple(cast("list[object]", unpack(items, tensors, field)))
            case {"dict": list(pairs)}:
                return _unpack_dict(pairs, tensors, field)
    raise MalformedError(
        field, f"is a dict of {shown(sorted(packed)[:5])}: expected a packed tensor, tuple or dict"
    )


def _tensor(name: str, tensors: Mapping[str, Tensor], field: str) -> Tensor:
    if name not in tensors:
        raise MalformedError(field, f"is the tensor {shown(name)}, which the file does not have")
    return tensors[name]


def _unpack_dict(pairs: list[Packed], tensors: Mapping[str, Tensor], field: str) -> dict[object, object]:
    found: dict[object, object] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise MalformedError(field, "has an entry that is no pair of key and value")
        key = unpack(pair[0], tensors, f"{field}.key")
        if not isinstance(key, _PLAIN) and not (
            isinstance(key, tuple) and all(isinstance(k, _PLAIN) for k in key)
        ):
            raise MalformedError(field, f"has a {type(key).__name__} for a key")
        if key in found:
            raise MalformedError(field, f"has {shown(key)} twice")
        found[key] = unpack(pair[1], tensors, f"{field}.{shown(key).strip(chr(39))}")
    return found


def _pack(tree: object, name: str, tensors: dict[str, Tensor]) -> Packed:
    if name in tensors:  # a key with a dot in it may read like two
        name = f"{name} {len(tensors)}"
    if isinstance(tree, Tensor):
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
        if len(tree) >= _MANY and (kind := _NUMBERS.get(type(tree[0]))) and _is_alike(tree):
            # As text they would take many times their memory when they are read.
            tensors[name] = torch.tensor(tree, dtype=kind, device="cpu")
            return {"numbers": name}
        return [_pack(item, f"{name}.{place}", tensors) for place, item in enumerate(tree)]
    if type(tree) in _PLAIN:
        return cast("Packed", tree)
    if isinstance(tree, np.generic):
        return _pack(tree.item(), name, tensors)
    raise TypeError(f"{name} is {type(tree).__name__}: only tensors and plain data can be saved.")


def _is_alike(numbers: list[object]) -> bool:
    """Whether a tensor gives these numbers back as they are."""
    kind = type(numbers[0])
    return all(type(n) is kind for n in numbers) and (
        kind is not int or all(-(2**63) <= cast(int, n) < 2**63 for n in numbers)
    )
