"""Which graphs were compiled on this machine before: torch's compiler finds them in its cache, and takes little time.

For each there is an empty file in the folder of that cache, which goes where the cache is emptied. A file that is there
and a cache that is not, or the reverse, cost time and change no figure.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule


class Before(Enum):
    """What this machine has compiled before."""

    NOTHING = "nothing"
    OTHERS = "other graphs"
    THIS = "this graph"


def compiled_before(graph: GraphModule, inputs: Sequence[Tensor]) -> Before:
    """What is remembered, of a graph on inputs like these."""
    try:
        mark = _mark(graph, inputs)
        if mark.is_file():
            return Before.THIS
        return Before.OTHERS if mark.parent.is_dir() else Before.NOTHING
    except OSError:
        return Before.NOTHING


def remember(graph: GraphModule, inputs: Sequence[Tensor]) -> None:
    """A graph on inputs like these was compiled; where the folder cannot be written it is forgotten."""
    with suppress(OSError):
        mark = _mark(graph, inputs)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark(graph: GraphModule, inputs: Sequence[Tensor]) -> Path:
    constants = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    told = [
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        graph.code,
        *map(_kind, inputs),
        *(f"{name} {_kind(getattr(graph, name, None))}" for name in sorted(constants)),
    ]
    name = hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()
    return _folder() / "pyrovae" / name


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {value.device} {tuple(value.shape)} {value.stride()}"


def _folder() -> Path:
    """Where torch's compiler keeps its cache; told without importing it."""
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if named:
        return Path(named)
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    return Path(tempfile.gettempdir()) / f"torchinductor_{re.sub(r'[^A-Za-z0-9_.@-]', '_', user)}"
