"""The modules that programs are, whose methods they are, or that plain functions reach by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType

from pyro.poutine.messenger import _context_wrap
from torch import nn

from pyrovae.pair.programs import Program


def modules_of(*programs: Program) -> list[nn.Module]:
    """The modules that programs are, whose methods they are, or that they can reach by name."""
    found: list[nn.Module] = []
    for program in programs:
        owner, reached = _program_modules(program)
        own = [program] if isinstance(program, nn.Module) else []
        found += [*own, *([] if owner is None else [owner]), *reached.values()]
    return found


def _program_modules(program: Program) -> tuple[nn.Module | None, dict[str, nn.Module]]:
    """The module whose method a program is, or that is inside a handler, and those that it can reach by name."""
    if isinstance(program, nn.Module):
        return None, {}
    inside = _inside_handlers(program)
    if inside is not program:
        return (inside, {}) if isinstance(inside, nn.Module) else _program_modules(inside)
    given: dict[str, object]
    if isinstance(program, functools.partial):
        owner, found = _program_modules(program.func)
        owner = program.func if isinstance(program.func, nn.Module) else owner
        given = {str(place): value for place, value in enumerate(program.args)} | program.keywords
    else:
        owner = getattr(program, "__self__", None)
        function = getattr(program, "__func__", program)
        found = {}
        given = variables_of(function) if inspect.isfunction(function) else {}
        if owner is not None and not isinstance(owner, nn.Module):
            given |= vars(owner)
    for name, value in given.items():
        found |= _modules_within(name, value, depth=3)
    return owner if isinstance(owner, nn.Module) else None, found


def variables_of(function: FunctionType) -> dict[str, object]:
    """Those from outside that a function reads by name, as far as they are bound."""
    with suppress(ValueError):
        names = inspect.getclosurevars(function)
        return {**names.globals, **names.nonlocals}
    # One of an enclosing function is not bound yet.
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = {
        name: function.__globals__[name]
        for name in function.__code__.co_names
        if name in function.__globals__
    }
    for name, cell in cells:
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _inside_handlers(program: Program) -> Program:
    """What Pyro's handlers, such as `config_enumerate`, are around."""
    while isinstance(program, functools.partial) and program.func is _context_wrap:
        _, program, *owner = program.args
        if owner:  # of a method that was decorated
            program = MethodType(program, owner[0])
    return program


def _modules_within(name: str, value: object, depth: int) -> dict[str, nn.Module]:
    """Modules that a variable holds: itself, or in containers and plain objects."""
    if isinstance(value, nn.Module):
        return {name: value}
    inside: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    elif hasattr(value, "__dict__") and not isinstance(value, type | ModuleType) and not callable(value):
        inside = vars(value).items()
    found: dict[str, nn.Module] = {}
    if depth:
        for key, item in inside:
            found |= _modules_within(f"{name}_{key}".replace(".", "_"), item, depth - 1)
    return found


def bound_modules(model: Program, guide: Program) -> dict[str, nn.Module]:
    """Those whose methods model and guide are."""
    owners = {"of_model": _program_modules(model)[0], "of_guide": _program_modules(guide)[0]}
    if owners["of_guide"] is owners["of_model"]:
        del owners["of_guide"]
    return {name: owner for name, owner in owners.items() if owner is not None}


def reachable_modules(model: Program, guide: Program) -> dict[str, nn.Module]:
    """Those that model and guide can reach by name, each once."""
    found: dict[str, nn.Module] = {}
    for which, program in (("model", model), ("guide", guide)):
        for name, module in _program_modules(program)[1].items():
            if not any(module is other for other in found.values()):
                found[f"{which}_{name}"] = module
    return found
