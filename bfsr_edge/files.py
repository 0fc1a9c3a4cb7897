"""Files: written whole or not at all, hashed; and whether the process that left one behind still runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from bfsr_edge.errors import BfsrError

BLOCK = 1 << 20
"""Bytes of a file in memory while it is hashed."""


def replace(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all: beside it as ``.NAME.PID.tmp`` first, then renamed over it.

    Parameters
    ----------
    path
        Its folder is made where it is missing.
    sync
        Whether the content is on the disk before the file gets its name, so that a power cut leaves the old one.

    Raises
    ------
    OSError
        The folder cannot be written to, or is full; an older file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what counts
            temporary.unlink(missing_ok=True)
        raise


def unwritable(path: Path, error: OSError) -> BfsrError:
    """The error for a file or folder, named by ``--out``, that cannot be written."""
    return BfsrError(
        f"cannot write {path}", why=(error.strerror or str(error),), fix="free space, or choose another --out"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside becomes ``unwritable(path, …)``."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def sha256(path: Path) -> str:
    """The sha256 of a file's content, 64 hexadecimal digits; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def process_runs(process: int) -> bool:
    """Whether a process of that number runs on this machine; on Windows only this one is known to."""
    if os.name == "nt":  # there os.kill ends the process instead of asking for it
        return process == os.getpid()
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or a number that no process has: nothing says that it is gone
        return True
    return True
