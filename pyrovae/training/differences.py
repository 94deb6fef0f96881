"""What differs between two descriptions of a training, with both sides of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import cast

# Of a file that somebody made, too: nothing here depends on what it holds.
_NOTHING = object()
_MOST, _WIDTH = 3, 80
# Learning rates in descriptions of optimizers and schedulers.
RATES = frozenset({"lr", "max_lr", "min_lr", "max_lrs"})


def difference(old: object, new: object, ignored: Set[str] = frozenset()) -> str:
    """In words what differs first; "" where nothing does, entries of ignored names aside."""
    found = list(_differences(old, new, (), ignored))
    # How functions compute says least of what changed in them.
    found = [f for f in found if not _is_operations(f[0])] or found
    if not found:
        return ""
    if found[0][0] == ("kind",):
        del found[1:]  # follows from it
    was, now = (
        ", ".join(_shown(path, pair[side], pair[1 - side]) for path, *pair in found[:_MOST])
        for side in (0, 1)
    )
    named = isinstance(new, Mapping) and "kind" in new and found[0][0][:1] not in ((), ("kind",))
    of = f"{cast('Mapping[str, object]', new)['kind']} " if named else ""
    return f"was {of}{was} and is now {of}{now}"


def _is_operations(path: tuple[str, ...]) -> bool:
    return bool(path) and path[-1].startswith("operations in Python")


def _differences(
    old: object, new: object, path: tuple[str, ...], ignored: Set[str]
) -> Iterator[tuple[tuple[str, ...], object, object]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            pair = old.get(key, _NOTHING), new.get(key, _NOTHING)
            if key in ignored or (_NOTHING in pair and _is_operations((str(key),))):
                continue  # operations of another Python
            yield from _differences(*pair, (*path, str(key)), ignored)
    elif isinstance(old, list) and isinstance(new, list):
        lacking, unknown = ([item for item in a if item not in b] for a, b in ((old, new), (new, old)))
        if len(old) != len(new) and (lacking or unknown) and _are_texts(old, new):
            yield path, lacking, unknown
            return
        for place in range(max(len(old), len(new))):
            pair = (old[place : place + 1] or [_NOTHING])[0], (new[place : place + 1] or [_NOTHING])[0]
            yield from _differences(*pair, (*path, str(place)), ignored)
    elif type(old) is not type(new) or repr(old) != repr(new):  # NaN is like NaN
        yield path, old, new


def _are_texts(*lists: list[object]) -> bool:
    return all(isinstance(item, str) for found in lists for item in found)


def _shown(path: tuple[str, ...], value: object, other: object) -> str:
    # Kinds, and lines of a module's parts, say where they are by themselves.
    label = ".".join(path) if path[:1] not in (("parts",), ("kind",)) else ""
    if value is _NOTHING:
        return f"no {label}" if label else "nothing"
    return f"{label} {_cut(value, other)}".strip()


def _cut(value: object, other: object) -> str:
    """A value as text, of long ones what lies about the first character that differs; of descriptions the kind."""
    if isinstance(value, Mapping):
        return str(value.get("kind") or value.get("name") or ("something" if value else "nothing"))[:_WIDTH]
    if value == []:
        return "nothing"
    text, unlike = (
        v.strip() if isinstance(v, str) else ", ".join(map(str, v)) if isinstance(v, list) else str(v)
        for v in (value, other)
    )
    first = next((n for n, (a, b) in enumerate(zip(text, unlike, strict=False)) if a != b), 0)
    start = max(0, min(first - _WIDTH // 4, len(text) - _WIDTH))
    return (
        ("..." if start else "")
        + text[start : start + _WIDTH]
        + ("..." if len(text) > start + _WIDTH else "")
    )
