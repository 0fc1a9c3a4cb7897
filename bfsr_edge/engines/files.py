"""Files that appear whole or not at all, and the lock that lets two processes build once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bfsr_edge.errors import ModelError
from bfsr_edge.files import replace

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

POLL = 0.1
"""Seconds between two looks at a lock that another process holds."""


def temporary_of(path: Path) -> Path:
    """A hidden name beside ``path``, of this process, with the same suffix: readers know files by their suffix."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, synced.

    Raises
    ------
    ModelError
        The folder cannot be written to.
    """
    try:
        replace(path, content, sync=True)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ModelError:
    """The error for a file that cannot be written."""
    return ModelError(
        f"cannot write {path}",
        why=(error.strerror or str(error),),
        fix="free space or choose another folder: --out DIR for engines, BFSR_EDGE_CACHE for caches",
    )


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of ``path``, a hidden file beside it that goes away with the lock.

    The system frees the lock of a process that dies, so nothing has to be cleaned up by hand.

    Parameters
    ----------
    waiting
        Called once if another process holds it.

    Raises
    ------
    ModelError
        The folder cannot be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    told = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            if _try_lock(descriptor) and _is_still(descriptor, lock):
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)
        if not told:
            waiting()
            told = True
        time.sleep(POLL)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one of that name: the last holder may have removed it in between."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
