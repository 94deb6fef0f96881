"""Safe files: tensors and JSON in one safetensors file. Reading executes nothing; writing is atomic."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

HEADER = "pyrovae"


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: readers see the old file or the whole new one, never a part.

    Raises:
        OSError: the folder is missing or full; an old file at `path` is left as it was.

    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into.")
    # A folder of its own, for some writers make temporary files beside the one that they are asked for.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        shutil.rmtree(leftover, ignore_errors=True)


def save_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, object]
) -> None:
    """Write tensors and JSON-able facts; `kind` says what the file is.

    Raises:
        OSError: as `write_atomically`.

    """
    header = json.dumps({"kind": kind, **meta})
    # Own memory for each: safetensors refuses tensors that share storage.
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(copies, temporary, metadata={HEADER: header})
        except safetensors.SafetensorError as error:  # a full disk, above all
            raise OSError(f"{path} could not be written: {error}") from error

    write_atomically(path, write)


def load_tensors(
    path: str | os.PathLike[str], kind: str, *others: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote, of this kind or of others that will do.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, of another kind, or truncated.

    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a saved {kind}, or it is truncated or damaged: {error}.") from error
    try:
        facts = json.loads(header) if header is not None else {}
    except json.JSONDecodeError:
        facts = {}
    if not isinstance(facts, dict):
        facts = {}
    if facts.get("kind") not in (kind, *others):
        found = f"a saved {facts['kind']}" if "kind" in facts else "a safetensors file of another program"
        raise ValueError(f"{path} is not a saved {kind} but {found}.")
    return tensors, facts
