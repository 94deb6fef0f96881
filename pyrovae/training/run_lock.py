"""One training at a time on one checkpoint: two would write over each other's file in turn."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone_at(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, no other training, in this process or another of this machine, has this checkpoint.

    The system lets go of it where a process dies, so that a killed training leaves nothing that keeps out the next.

    Raises:
        RuntimeError: another has it.

    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.lock")
    file = _locked(beside)
    if file is None:
        raise RuntimeError(
            f"another training that is running keeps its checkpoint in {path}: wait for it, or give this one a file of "
            "its own."
        )
    try:
        yield
    finally:
        if file >= 0:
            if sys.platform != "win32":  # which removes no file that is open
                beside.unlink(missing_ok=True)
            os.close(file)


def _locked(beside: Path) -> int | None:
    """The lock's file, open; None where another has it, and -1 where the file system has no locks."""
    while True:
        file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(file)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError as error:
            os.close(file)
            warnings.warn(
                f"{beside.parent} is on a file system that locks no files ({error}): see to it that no second training "
                "is given this checkpoint.",
                stacklevel=5,
            )
            return -1
        # Another may have removed the file between opening and locking it.
        if beside.exists() and os.path.samestat(os.fstat(file), beside.stat()):
            return file
        os.close(file)


def _take(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
