"""Plain data checked against a declared type before anything reads them: what a file says is only a claim."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from torch import Tensor

T = TypeVar("T")


class MalformedError(ValueError):
    """A field that is not what it was declared to be."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field, self.problem = field, problem


def checked(value: object, kind: type[T], field: str) -> T:
    """The value, if it is of a declared type.

    Args:
        value: plain data, with or without tensors.
        kind: a class, `list[...]`, `dict[str, ...]`, `tuple[...]` (which JSON makes a list), a union, or a
            `TypedDict`, all of whose keys must be there and no others.
        field: where it stands, for the message.

    Raises:
        MalformedError: it is of another type, with the innermost field.

    Example:
        >>> checked([[1, 2], []], list[list[int]], "sizes")
        [[1, 2], []]
        >>> checked([[1, "2"]], list[list[int]], "sizes")
        Traceback (most recent call last):
        pyrovae.schema.MalformedError: sizes.0.1 is '2': expected int

    """
    _check(value, kind, field)
    return cast(T, value)


def check_like(value: object, example: object, field: str) -> None:
    """Raise unless a state is of the kind of another state of the same object, whatever its numbers are.

    Raises:
        MalformedError: other keys, lengths, shapes, or types.

    """
    if example is None:
        return
    if isinstance(example, Mapping):
        keys = _keys_of_any(value, field)
        if lacking := [key for key in example if key not in keys]:
            raise MalformedError(field, f"lacks {shown(lacking[0])}")
        for key in keys:
            if key in example:
                check_like(cast(Mapping[object, object], value)[key], example[key], f"{field}.{key}")
    elif isinstance(example, list | tuple):
        items = _items(value, (list, tuple), field)
        if example and len(items) != len(example):
            raise MalformedError(field, f"has {len(items)} items: expected {len(example)}")
        for place, (item, like) in enumerate(zip(items, example, strict=False)):
            check_like(item, like, f"{field}.{place}")
    elif isinstance(example, Tensor):
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (example.shape, example.dtype):
            raise MalformedError(field, f"is {described(value)}: expected {described(example)}")
    else:
        number = isinstance(example, int | float) and not isinstance(example, bool)
        _check(value, float if number else type(example), field)


def described(value: object) -> str:
    """A tensor by dtype and shape, numbers and texts as they are, others by their type: they may be large."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return shown(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


def shown(value: object) -> str:
    """A name or value of a file in a message: on one line, and short."""
    text = repr(value[:80]) if isinstance(value, str) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _check(value: object, kind: object, field: str) -> None:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is object:
        return
    if origin in (types.UnionType, Union):
        _check_union(value, arguments, field)
    elif is_typeddict(kind):
        hints = _hints(cast(type, kind))
        for key in _keys(value, field, hints):
            _check(cast(Mapping[str, object], value)[key], hints[key], f"{field}.{key}")
    elif origin is dict:
        for key in _keys(value, field, None):
            _check(cast(Mapping[str, object], value)[key], arguments[1], f"{field}.{shown(key)[1:-1]}")
    elif origin is list:
        for place, item in enumerate(_items(value, list, field)):
            _check(item, arguments[0], f"{field}.{place}")
    elif origin is tuple:
        items = _items(value, (list, tuple), field)
        if len(items) != len(arguments):
            raise MalformedError(field, f"has {len(items)} items: expected {len(arguments)}")
        for place, (item, argument) in enumerate(zip(items, arguments, strict=True)):
            _check(item, argument, f"{field}.{place}")
    else:
        _check_class(value, cast(type, kind), field)


def _check_union(value: object, kinds: tuple[object, ...], field: str) -> None:
    if value is None and type(None) in kinds:
        return
    left = [kind for kind in kinds if kind is not type(None)]
    for kind in left:
        try:
            _check(value, kind, field)
        except MalformedError:
            if kind is left[-1]:
                raise
        else:
            return


def _check_class(value: object, kind: type, field: str) -> None:
    # Python takes True for a number.
    numbers = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
    fits = type(value) in numbers[kind] if kind in numbers else isinstance(value, kind)
    if not fits:
        what = "nothing" if value is None else described(value)
        raise MalformedError(field, f"is {what}: expected {kind.__name__}")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise MalformedError(field, "is a whole number of more than 64 bits")


def _keys(value: object, field: str, expected: Mapping[str, object] | None) -> list[str]:
    if not isinstance(value, dict):
        raise MalformedError(field, f"is {described(value)}: expected a dict")
    for key in value:
        if not isinstance(key, str):
            raise MalformedError(field, f"has the key {described(key)}: expected texts")
    if expected is not None:
        if lacking := [key for key in expected if key not in value]:
            raise MalformedError(f"{field}.{lacking[0]}", "is missing")
        if unknown := [key for key in value if key not in expected]:
            raise MalformedError(field, f"has {shown(unknown[0])}, which is unknown")
    return list(value)


def _keys_of_any(value: object, field: str) -> list[object]:
    if not isinstance(value, dict):
        raise MalformedError(field, f"is {described(value)}: expected a dict")
    return list(value)


def _items(value: object, kinds: type | tuple[type, ...], field: str) -> list[object]:
    if not isinstance(value, kinds):
        raise MalformedError(field, f"is {described(value)}: expected a list")
    return cast("list[object]", value)


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind)
