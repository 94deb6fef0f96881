"""What of a pair's Python state a trace takes for fixed: values in modules, closures, globals and containers.

A trace bakes in whatever a program reads besides parameters, buffers and data, such as `self.training`, a weight
that a callback raises from epoch to epoch, or which tensor an attribute names. `ProgramState` remembers these.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import attrgetter, getitem, is_
from types import CellType, CodeType, ModuleType
from typing import Any, Protocol, TypeAlias

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.distributions import Transform

from pyrovae.pair.parameters import PairParameters

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_CLOSED = (*PLAIN, Tensor, ModuleType)
_BOOKKEEPING = vars(nn.Module()).keys() - {"training"}
_DEPTH = 4
_GONE = object()
_VERSION, _TRAINS = attrgetter("_version"), attrgetter("requires_grad")


class _Holder(Protocol):
    def __getitem__(self, key: Any, /) -> object: ...


# What a value is called, and where it is read again: holder[key].
Place: TypeAlias = tuple[str, _Holder, object]


class ProgramState:
    """What model and guide can reach, as it is now; `changes` tells what is another later.

    Plain values are compared by value, all others by identity; parameters also by whether they train, tensors
    that are neither parameters nor buffers also by torch's count of their changes in place.

    Not seen: attributes that are new later, globals that methods of modules read, what Python modules hold, and what
    lies deeper than four containers or functions.
    """

    def __init__(self, pair: PairParameters) -> None:
        seen: set[int] = set()
        places = [*_walk("model", pair.model, _DEPTH, seen), *_walk("guide", pair.guide, _DEPTH, seen)]
        self._names = [name for name, _, _ in places]
        self._holders, self._keys = [holder for _, holder, _ in places], [key for _, _, key in places]
        self._values = [_now(holder, key) for _, holder, key in places]
        self._parameters = dict(pair.named_parameters())
        inputs = {id(tensor) for tensor in (*pair.parameters(), *pair.buffers())}
        # An inference tensor counts no changes.
        self._tensors = {
            name: value
            for name, value in zip(self._names, self._values, strict=True)
            if isinstance(value, Tensor) and id(value) not in inputs and not value.is_inference()
        }
        self._marks = self._marks_now()

    def _marks_now(self) -> list[int]:
        return [*map(_VERSION, self._tensors.values()), *map(_TRAINS, self._parameters.values())]

    def changes(self) -> list[str]:
        """Names of what is not as it was."""
        marks = self._marks_now()
        try:  # each step asks: this takes microseconds
            if all(map(is_, map(getitem, self._holders, self._keys), self._values)) and marks == self._marks:
                return []
        except (AttributeError, LookupError, ValueError):
            pass  # something is gone
        now = map(_now, self._holders, self._keys)
        values = zip(self._names, self._values, now, strict=True)
        marked = zip((*self._tensors, *self._parameters), self._marks, marks, strict=True)
        return [name for name, old, new in (*values, *marked) if not _same(old, new)]


def _walk(name: str, value: object, depth: int, seen: set[int]) -> Iterator[Place]:
    """Into one object: a module, a function, a container or a plain object."""
    if depth == 0 or isinstance(value, _CLOSED) or id(value) in seen:
        return
    seen.add(id(value))
    for part in _wrapped(value):
        yield from _walk(name, part, depth, seen)
    for holder, keys in _holders(value):
        for key in keys:
            if _is_of_one_call(value, key):
                continue
            part, place = _now(holder, key), f"{name}.{key}"
            yield place, holder, key
            yield from _walk(place, part, _DEPTH if isinstance(part, nn.Module) else depth - 1, seen)


def _is_of_one_call(holder: object, key: object) -> bool:
    """What each call writes before it reads it: a transform's last draw, the plates of Pyro's automatic guides."""
    if isinstance(holder, Transform):
        return str(key).startswith("_cache") and key != "_cache_size"
    return isinstance(holder, AutoGuide) and key == "plates"


def _wrapped(value: object) -> tuple[object, ...]:
    """What an object is another form of, and passes its name on to."""
    if inspect.ismethod(value):
        return (value.__self__, value.__func__)
    return (value.func, value.args, value.keywords) if isinstance(value, functools.partial) else ()


def _holders(value: object) -> Iterator[tuple[_Holder, Collection[object]]]:
    """Where the parts of an object are bound, and to which keys there."""
    if isinstance(value, nn.Module):
        yield vars(value), [k for k in vars(value) if k not in _BOOKKEEPING and not k.startswith("_pyro")]
        hooks = (value._forward_pre_hooks, value._forward_hooks)
        for held in (value._parameters, value._buffers, value._modules, *hooks):
            yield held, list(held)
    elif inspect.isfunction(value):
        # Variables change by being bound anew: they are read where the function reads them.
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield _Read(functools.partial(_contents, cell)), [variable]
        globally = value.__globals__
        yield globally, [key for key in dict.fromkeys(_names_in(value.__code__)) if key in globally]
    elif isinstance(value, Mapping | list | tuple):
        yield value, list(value if isinstance(value, Mapping) else range(len(value)))
        yield _Read(lambda _: len(value)), ["len()"]
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield vars(value), list(vars(value))
    own: Collection[str] = () if isinstance(value, type) else getattr(value, "__dict__", ())
    inherited = _class_values(value if isinstance(value, type) else type(value))
    yield _Read(functools.partial(getattr, value)), [key for key in inherited if key not in own]


class _Read:
    """What is read otherwise, read like entries."""

    def __init__(self, read: Callable[[str], object]) -> None:
        self._read = read

    def __getitem__(self, key: str) -> object:
        return self._read(key)


def _contents(cell: CellType, variable: str) -> object:
    return cell.cell_contents


def _class_values(kind: type) -> list[str]:
    """Names of the plain values that a class gives to what has none of its own."""
    found = (name for base in kind.__mro__ for name, value in vars(base).items() if isinstance(value, PLAIN))
    return [name for name in dict.fromkeys(found) if name[:2] != "__" and not hasattr(nn.Module, name)]


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # of a comprehension or an inner function
            yield from _names_in(constant)


def _now(holder: _Holder, key: object) -> object:
    try:
        return holder[key]
    except (AttributeError, LookupError, ValueError):  # not there, or not bound yet
        return _GONE


def _same(old: object, new: object) -> bool:
    return old is new or (type(old) is type(new) and isinstance(old, PLAIN) and bool(old == new))
