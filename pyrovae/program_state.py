"""What of a pair's Python state a trace takes for fixed: plain values in modules, closures, globals, containers.

A trace bakes in whatever Python value a program reads, such as `self.training` or a weight that a callback
raises from epoch to epoch. `ProgramState` remembers them and tells when one has changed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.rows import Pair

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_DEPTH = 4


class ProgramState:
    """The plain values that model and guide can reach, and the versions of the tensors among them.

    Not seen: values behind functions that the programs call, and attributes that come into being later.
    """

    def __init__(self, pair: Pair) -> None:
        self._places: list[tuple[str, Mapping[Any, Any], Any]] = []
        self._tensors: list[Tensor] = []
        self._seen: set[int] = set()
        for name, program in (("model", pair.model), ("guide", pair.guide)):
            self._walk_program(name, program)

    def values(self) -> tuple[Any, ...]:
        """All values now: two such tuples differ if a trace between them may be out of date."""
        return (*[holder.get(key) for _, holder, key in self._places], *[t._version for t in self._tensors])

    def changes(self, before: tuple[Any, ...], after: tuple[Any, ...]) -> list[str]:
        """Names of the places at which two such tuples differ."""
        names = [name for name, _, _ in self._places] + ["a tensor of the program"] * len(self._tensors)
        return [
            name
            for name, old, new in zip(names, before, after, strict=True)
            if type(old) is not type(new) or old != new
        ]

    def _walk_program(self, name: str, program: Any) -> None:
        if isinstance(program, nn.Module):
            self._walk(name, program, _DEPTH)
        elif isinstance(program, functools.partial):
            self._walk_items(name, {**dict(enumerate(program.args)), **program.keywords}, _DEPTH)
            self._walk_program(name, program.func)
        elif inspect.ismethod(program):
            self._walk(name, program.__self__, _DEPTH)
            self._walk_program(name, program.__func__)
        elif inspect.isfunction(program):
            self._walk_function(name, program, _DEPTH)

    def _walk_function(self, name: str, function: Any, depth: int) -> None:
        if self._known(function):
            return
        code = function.__code__
        # Cells and globals change by being bound anew: they are read where the function reads them.
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        for key, cell in cells.items():
            self._visit(f"{name}.{key}", _Cell(cell), "cell_contents", depth)
        for key in code.co_names:
            if key in function.__globals__:
                self._visit(f"{name}.{key}", function.__globals__, key, depth)

    def _walk(self, name: str, value: Any, depth: int) -> None:
        """Into one object: a module, a container or a plain object."""
        if depth == 0 or isinstance(value, (type, ModuleType, *_PLAIN)):
            return
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter) and not self._known(value):
                self._tensors.append(value)
            return
        if inspect.isfunction(value):
            self._walk_function(name, value, depth - 1)
        elif not self._known(value):
            if isinstance(value, nn.Module):
                self._walk_module(name, value)
            elif isinstance(value, Mapping):
                self._walk_items(name, value, depth - 1)
            elif isinstance(value, list):
                self._walk_items(name, _Listed(value), depth - 1)
            elif isinstance(value, tuple):
                self._walk_items(name, dict(enumerate(value)), depth - 1)
            elif hasattr(value, "__dict__"):
                self._walk_items(name, vars(value), depth - 1)

    def _walk_module(self, name: str, module: nn.Module) -> None:
        own = {"_parameters", "_buffers"}  # these are inputs of the trace; what Pyro adds is its bookkeeping
        for key, value in vars(module).items():
            if key == "_modules":
                for child, submodule in module._modules.items():
                    self._walk(f"{name}.{child}", submodule, _DEPTH)
            elif key not in own and not key.startswith("_pyro") and not isinstance(value, set):
                self._visit(f"{name}.{key}", vars(module), key, _DEPTH - 1)

    def _walk_items(self, name: str, holder: Mapping[Any, Any], depth: int) -> None:
        for key in list(holder):
            self._visit(f"{name}.{key}", holder, key, depth)

    def _visit(self, name: str, holder: Mapping[Any, Any], key: Any, depth: int) -> None:
        value = holder.get(key)
        if isinstance(value, _PLAIN):
            self._places.append((name, holder, key))
        else:
            self._walk(name, value, depth)

    def _known(self, value: Any) -> bool:
        known = id(value) in self._seen
        self._seen.add(id(value))
        return known


class _Cell(Mapping[str, Any]):
    """A closure's variable as a mapping of one entry."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    def __getitem__(self, key: str) -> Any:
        try:
            return self._cell.cell_contents
        except ValueError:  # not bound yet
            return None

    def __iter__(self) -> Iterator[str]:
        return iter(["cell_contents"])

    def __len__(self) -> int:
        return 1


class _Listed(Mapping[int, Any]):
    """A list as a mapping from its places."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __getitem__(self, key: int) -> Any:
        return self._values[key] if key < len(self._values) else None

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._values)))

    def __len__(self) -> int:
        return len(self._values)
