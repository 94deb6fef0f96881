"""What functions compute, in plain data that are the same in every process: a checkpoint sees that one was edited.

Names, constants and operations are those that Python runs, so that comments, docstrings and the place of a function do
not count. Functions of installed packages do not either.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import TypeAlias

from torch import nn

from pyrovae.pair.reachable import variables_of

PLAIN = (bool, int, float, str, type(None))
Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

# Where a module's own code begins; a guide may be built from data.
_ENTRIES = ("forward", "__call__", "build")
_SKIPPED = ("CACHE", "RESUME", "NOP", "EXTENDED_ARG", "PRECALL")
_STORES = ("STORE_GLOBAL", "STORE_DEREF")


def described_functions(*programs: object) -> dict[str, Plain]:
    """The code of functions, methods and modules, and of all of one's own that they call by name."""
    found: dict[str, Plain] = {}
    seen: set[object] = set()
    left = [entry for program in programs for entry in _entries(program)]
    while left:
        name, function, owner = left.pop(0)
        if function.__code__ in seen or not _is_own(function):
            continue
        seen.add(function.__code__)
        label, number = name, 2
        while label in found:
            label, number = f"{name} {number}", number + 1
        found[label] = _described(function)
        left += _called(function, owner)
    return found


def _entries(program: object) -> Iterator[tuple[str, FunctionType, type | None]]:
    """Functions to begin with: their names, and the classes that they are methods of."""
    while isinstance(program, functools.partial):
        program = program.func
    if isinstance(program, FunctionType):
        yield program.__name__, program, None
    elif inspect.ismethod(program):
        owner = program.__self__ if isinstance(program.__self__, type) else type(program.__self__)
        if isinstance(program.__func__, FunctionType):
            yield f"{owner.__name__}.{program.__name__}", program.__func__, owner
        program = program.__self__
    elif not isinstance(program, nn.Module):
        yield from _methods(type(program), _ENTRIES)
    if isinstance(program, nn.Module):
        for kind in dict.fromkeys(type(module) for module in program.modules()):
            yield from _methods(kind, _ENTRIES)


def _methods(owner: type, names: tuple[str, ...]) -> Iterator[tuple[str, FunctionType, type]]:
    for name in names:
        found = inspect.getattr_static(owner, name, None)
        if isinstance(found, property):
            found = found.fget
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
        if isinstance(found, FunctionType):
            yield f"{owner.__name__}.{name}", found, owner


def _called(function: FunctionType, owner: type | None) -> Iterator[tuple[str, FunctionType, type | None]]:
    for value in variables_of(function).values():
        if isinstance(value, FunctionType | functools.partial):
            yield from _entries(value)
    if owner is not None:
        names = {name for code in _codes(function.__code__) for name in code.co_names}
        yield from _methods(owner, tuple(sorted(names)))


def _is_own(function: FunctionType) -> bool:
    if function.__module__ is not None and function.__module__.split(".")[0] == "pyrovae":
        return False
    return not function.__code__.co_filename.startswith(_installed())


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _described(function: FunctionType) -> Plain:
    codes = list(_codes(function.__code__))
    steps = [step for code in codes for step in _steps(code)]
    stored = {step.argval for step in steps if step.opname in _STORES}
    values = {**variables_of(function), **(function.__kwdefaults__ or {})}
    constants = [s.argval for s in steps if s.opcode in dis.hasconst and isinstance(s.argval, PLAIN)]
    text = "\n".join(f"{s.opname} {'' if isinstance(s.argval, CodeType) else s.argrepr}" for s in steps)
    return {
        "constants": [c if isinstance(c, str) else repr(c) for c in constants if c is not None],
        "names": [name for code in codes for name in code.co_names],
        "defaults": [repr(d) for d in function.__defaults__ or () if isinstance(d, PLAIN)],
        "values": {
            name: repr(value)
            for name, value in sorted(values.items())
            if isinstance(value, PLAIN) and name not in stored
        },
        # Each Python has operations of its own.
        f"operations in Python {sys.version_info[0]}.{sys.version_info[1]}": hashlib.sha256(
            text.encode()
        ).hexdigest()[:16],
    }


def _codes(code: CodeType) -> Iterator[CodeType]:
    """It, and those of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _steps(code: CodeType) -> Iterator[dis.Instruction]:
    return (step for step in dis.get_instructions(code) if step.opname not in _SKIPPED)
