"""Modules that stay as they were where something fails halfway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn


@contextmanager
def unchanged_on_error(module: nn.Module) -> Iterator[None]:
    """Give a module, and all within it, their parts and attributes back where the block raises.

    Values of tensors are not looked at: who changes them does so last.
    """
    before = [(m, dict(m.__dict__), _copies(m.__dict__)) for m in module.modules()]
    try:
        yield
    except BaseException:
        for m, attributes, contents in before:
            m.__dict__.clear()
            m.__dict__.update(attributes)
            for name, content in contents.items():
                _refill(attributes[name], content)
        raise


def _copies(attributes: dict[str, object]) -> dict[str, object]:
    """Of dicts, sets and lists, which others may share, so that they are refilled and not replaced."""
    kinds = (dict, set, list)
    return {name: value.copy() for name, value in attributes.items() if isinstance(value, kinds)}


def _refill(old: object, content: object) -> None:
    if isinstance(old, list):
        old[:] = cast("list[object]", content)
    elif isinstance(old, dict | set):
        old.clear()
        old.update(cast("dict[object, object]", content))
