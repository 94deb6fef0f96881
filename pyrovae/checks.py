"""Checks of arguments that many functions take."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path

# Where this package's code lies, and what stands between its functions.
_OWN = str(Path(__file__).parent) + os.sep, contextlib.__file__


def is_number(value: object) -> bool:
    """Whether it is a real number, of Python or of NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is a whole number, of Python or of NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_count(name: str, value: object) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}: expected a whole number of at least 1.")


def check_seed(seed: object) -> None:
    """Raise unless `seed` is a whole number that torch's generators take, or None."""
    if seed is None:
        return
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ValueError(f"seed is {seed!r}: expected a whole number, or None.")
    if not -(2**63) <= int(seed) < 2**64:
        raise ValueError(f"seed is {seed!r}: expected a whole number of at most 64 bits, or None.")


@contextlib.contextmanager
def said_of(what: str) -> Iterator[None]:
    """Put before the text of a ValueError or a TypeError what it is about.

    One of another class, which may take other arguments and carry more than a text, is the same error with a note.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = type(error)
        if kind is ValueError or kind is TypeError:
            raise kind(f"{what}: {error}") from error
        error.add_note(f"This is about {what}.")
        raise


def level_of_caller() -> int:
    """The `stacklevel` of a warning that names the line from which this package was called."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        level, frame = level + 1, frame.f_back
    return level
