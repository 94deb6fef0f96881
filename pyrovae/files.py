"""Safe files: tensors and JSON in one safetensors file with a checksum. Reading executes nothing; writing is atomic."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pyrovae import container
from pyrovae.schema import MalformedError, checked, shown

FORMAT = 1
# The one entry of metadata, for safetensors writes several in an order that differs from time to time.
_HEADER = "pyrovae"


class FileError(ValueError):
    """A file that cannot be read; nothing that it was to be loaded into has changed.

    Attributes:
        path: the file.
        field: which part of it is wrong.

    """

    def __init__(self, path: str | os.PathLike[str], field: str, message: str) -> None:
        # A file's own words may hold what a terminal obeys.
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"{path} {message}")
        super().__init__(shown)
        self.path, self.field = Path(path), field


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Say of what file and field it is where something in it is malformed."""
    try:
        yield
    except MalformedError as error:
        message = f"is not a saved {kind}, or it is truncated or damaged: {error}."
        raise FileError(path, error.field, message) from error


# Of the folders that hold a file while it is written: nobody else's have it in their names.
_UNFINISHED = "pyrovae-"


def file_path(path: object) -> Path:
    """A path that a file may have.

    Raises:
        TypeError: no path.
        ValueError: an empty one, or one with a character that no path has.
        IsADirectoryError: that of a folder.

    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is {path!r}: expected the path of a file.")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"path is {text!r}: expected the path of a file, such as 'vae.safetensors'.")
    if Path(text).is_dir():
        raise IsADirectoryError(
            f"{text} is a folder: expected a file, such as {Path(text) / 'vae.safetensors'}."
        )
    return Path(text)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: readers see the old file or the whole new one, never a part.

    An old file's permissions stay; a new one has those that `open` gives.

    Raises:
        OSError: the folder is missing or full; an old file at `path` is left as it was.

    """
    path = file_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into.")
    # A folder of its own, for some writers make temporary files beside the one that they are asked for.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.{_UNFINISHED}", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        permissions = _permissions(path, Path(folder) / "new")
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # Some writers let nobody else read what they write.
        if stat.S_IMODE(temporary.stat().st_mode) != permissions:
            temporary.chmod(permissions)
        temporary.replace(path)


def _permissions(path: Path, new: Path) -> int:
    """Those of an old file at `path`, else what a file gets that is made at `new`: asking for the umask sets it."""
    if not path.exists():
        path = new
        path.touch(exist_ok=False)
    found = stat.S_IMODE(path.stat().st_mode)
    new.unlink(missing_ok=True)
    return found


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{_UNFINISHED}????????"):
        shutil.rmtree(leftover, ignore_errors=True)


def save_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, object]
) -> None:
    """Write tensors and JSON-able facts; `kind` says what the file is.

    Raises:
        OSError: as `write_atomically`.
        ValueError: more facts, or tensors of another dtype, than `load_tensors` reads.

    """
    path = file_path(path)
    facts = {"kind": kind, "format": FORMAT, **meta}
    # Own memory for each: safetensors refuses tensors that share storage.
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    check_savable(kind, copies, meta)
    header = json.dumps({"sha256": _digest(facts, copies), **facts})

    def write(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(copies, temporary, metadata={_HEADER: header})
        except safetensors.SafetensorError as error:  # a full disk, above all
            raise OSError(f"{path} could not be written: {error}") from error

    write_atomically(path, write)


def load_tensors(
    path: str | os.PathLike[str], kind: str, *others: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote, of this kind or of others that will do.

    Tensors share the memory of the file's bytes; the facts say of what kind it is.

    Raises:
        FileNotFoundError: no such file.
        FileError: not such a file, of another kind or format, truncated or damaged; says which field.

    """
    path = file_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    with reading(path, kind):
        with path.open("rb") as file:
            tensors, metadata = container.read(file, os.fstat(file.fileno()).st_size)
        header = metadata.get(_HEADER)
        if header is None:
            raise FileError(
                path, "metadata", f"is not a saved {kind} but a safetensors file of another program."
            )
        facts = checked(container.parsed(header, "metadata"), dict[str, object], "metadata")
        found = checked(facts.get("kind"), str, "metadata.kind")
        if found not in (kind, *others):
            raise FileError(path, "metadata.kind", f"is not a saved {kind} but a saved {shown(found)[1:-1]}.")
        checksum = facts.pop("sha256", None)
        _check_format(path, kind, facts.get("format"), checksum)
        if checksum != _digest(facts, tensors):
            raise MalformedError(
                "metadata.sha256", "is that of other contents: some bytes of the file have changed"
            )
    return tensors, {name: fact for name, fact in facts.items() if name != "format"}


def _check_format(path: Path, kind: str, found: object, checksum: object) -> None:
    if found is None or checksum is None:
        raise FileError(
            path,
            "metadata.format",
            f"is not a saved {kind} with a format and a checksum: those of development versions have none. "
            "Save it anew; safetensors.torch.load_file gives the tensors of such a file.",
        )
    if found != FORMAT or type(found) is not int:
        raise FileError(
            path,
            "metadata.format",
            f"is a saved {kind} of format {shown(found)}: this pyrovae reads format {FORMAT}. Upgrade pyrovae.",
        )


def check_savable(kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> None:
    """Raise ValueError where `load_tensors` would not take what `save_tensors` made of these."""
    header = json.dumps(meta)
    known = set(container.DTYPES.values())
    for name, tensor in tensors.items():
        if tensor.dtype not in known:
            raise ValueError(
                f"'{name}' is {tensor.dtype}: expected one of {', '.join(sorted(map(str, known)))}."
            )
    if container.weight(header) > container.ROOM // 2:
        raise ValueError(
            f"a {kind} with {len(header)} characters of numbers and texts cannot be saved: keep long lists of numbers "
            "in tensors, or less in the states of callbacks."
        )


def _digest(facts: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Of all that a file says: the facts, and each tensor's name, dtype, shape and bytes."""
    found = hashlib.sha256(json.dumps(facts).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
