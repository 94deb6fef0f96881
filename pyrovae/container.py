"""Safetensors files from strangers as tensors and texts: one reading of each byte, and no size but that of the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from io import BufferedReader
from typing import TypedDict, cast

import torch
from torch import Tensor

from pyrovae.schema import MalformedError, checked, shown

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What files may hold, by safetensors' names."""

# Of Python objects that JSON becomes, in bytes; a file of many tensors needs some kilobytes for each.
ROOM = 24 * 2**20
MAX_DEPTH = 64
_MAX_DIMS = 64


class _Entry(TypedDict):
    """A tensor, in the header."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def weight(text: str) -> int:
    """About as many bytes as its JSON takes in Python at most: three characters may make an object of 64."""
    return len(text) + 240 * text.count("{") + 90 * text.count("[") + 64 * text.count(",")


def parsed(text: str, field: str) -> object:
    """JSON of strangers: without double keys, of bounded size and depth, and only of texts that can be printed.

    Raises:
        MalformedError: it is anything else.

    """
    if weight(text) > ROOM:
        raise MalformedError(field, f"is too long: its JSON would take more than {ROOM >> 20} MB of memory")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MalformedError(field, f"has {shown(twice)} twice")
        return found

    try:
        tree: object = json.loads(text, object_pairs_hook=unique)
        _check_tree(tree, field)
    except RecursionError as error:
        raise MalformedError(field, f"is nested more than {MAX_DEPTH} deep") from error
    except MalformedError:
        raise
    except ValueError as error:  # no JSON, numbers of thousands of digits, halves of characters
        raise MalformedError(field, f"is no JSON ({str(error)[:100]})") from error
    return tree


def read(file: BufferedReader, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file of `size` bytes; memory is that of the file, and `ROOM`.

    Raises:
        MalformedError: it is none, is truncated, or says the same twice.

    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise MalformedError("header", f"is longer than the file, which has {size} bytes")
    if length > ROOM:
        raise MalformedError("header", f"has {length} bytes: expected at most {ROOM}")
    try:
        text = file.read(length).decode()
    except UnicodeDecodeError as error:
        raise MalformedError("header", "is no text in UTF-8") from error
    table = checked(parsed(text, "header"), dict[str, dict[str, object]], "header")
    metadata = checked(table.pop("__metadata__", {}), dict[str, str], "header.__metadata__")
    data = bytearray(size - 8 - length)
    if file.readinto(data) != len(data):
        raise MalformedError("data", "end early: somebody shortened the file meanwhile")
    return _tensors(table, data), metadata


def _tensors(table: Mapping[str, object], data: bytearray) -> dict[str, Tensor]:
    """Views of the data, each byte in one tensor."""
    entries = {name: checked(entry, _Entry, f"tensor {shown(name)}") for name, entry in table.items()}
    found, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        field, shape = f"tensor {shown(name)}", entry["shape"]
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise MalformedError(field, f"has dtype {shown(entry['dtype'])}: expected {', '.join(DTYPES)}")
        if len(shape) > _MAX_DIMS or any(n < 0 for n in shape) or math.prod(n or 1 for n in shape) >= 2**60:
            raise MalformedError(field, f"has shape {shown(shape)}, which no tensor has")
        offsets = entry["data_offsets"]
        if len(offsets) != 2 or offsets[0] != end or offsets[1] - end != math.prod(shape) * dtype.itemsize:
            raise MalformedError(
                field,
                f"of {entry['dtype']} {shown(shape)} is said to lie at bytes {shown(offsets)}: expected "
                f"{math.prod(shape) * dtype.itemsize} bytes from {end} on",
            )
        if offsets[1] > len(data):
            raise MalformedError(field, f"ends at byte {offsets[1]} of {len(data)}")
        if end % dtype.itemsize:
            raise MalformedError(field, f"of {entry['dtype']} starts at byte {end}, within a number")
        found[name] = _view(data, dtype, shape, end)
        if dtype is torch.bool and bool((found[name].view(torch.uint8) > 1).any()):
            raise MalformedError(field, "has truth values that are neither 0 nor 1")
        end = offsets[1]
    if end != len(data):
        raise MalformedError("data", f"have {len(data)} bytes, and the tensors {end}")
    return found


def _view(data: bytearray, dtype: torch.dtype, shape: list[int], start: int) -> Tensor:
    count = math.prod(shape)
    if count == 0:  # which torch.frombuffer refuses
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start).reshape(shape)


def _check_tree(tree: object, field: str) -> None:
    """Raise unless all its texts can be printed, and it is no deeper than `MAX_DEPTH`."""
    level: list[object] = [tree]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for node in level:
            if isinstance(node, str):
                node.encode()
            elif isinstance(node, dict):
                below += node
                below += cast(Iterable[object], node.values())
            elif isinstance(node, list):
                below += node
        if not below:
            return
        level = below
    raise MalformedError(field, f"is nested more than {MAX_DEPTH} deep")
