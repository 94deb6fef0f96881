"""Names of parameters and latents as keys of torch's containers of modules and parameters, which refuse some."""

from __future__ import annotations

from torch import nn

_MARK = "/:"


def as_key(name: str) -> str:
    """A key for any name: torch takes no dots, and no names of its containers' own, such as "values" or "type".

    Example:
        >>> as_key("scale"), as_key("decoder.scale"), as_key("values")
        ('scale', 'decoder/_scale', '/:values')

    """
    escaped = name.replace("/", "//").replace(".", "/_")
    return _MARK + escaped if escaped in _TAKEN else escaped


def name_of(key: str) -> str:
    """The name that a key stands for: the inverse of `as_key`."""
    escaped = key.removeprefix(_MARK)
    return escaped.replace("//", "\0").replace("/_", ".").replace("\0", "/")


_TAKEN = {name for container in (nn.ModuleDict(), nn.ParameterDict()) for name in dir(container)}
