"""What a run does about disks: errors of writing in plain words, leftovers of a killed run swept away."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bfsr_edge.errors import TrainingError
from bfsr_edge.files import process_runs

FULL = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not grow as large here (ulimit -f, or the file system's limit)",
}
_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")
"""What ``files.replace`` calls a file until it is whole."""


@contextlib.contextmanager
def writing(out: Path, kept: int) -> Iterator[None]:
    """What is written to the run's folder inside; an error of the disk becomes one of ours.

    Parameters
    ----------
    out
        The run's folder.
    kept
        Iteration of the last state on disk; 0: there is none.

    Raises
    ------
    TrainingError
        The disk is full, or cannot be written to.
    """
    try:
        yield
    except OSError as error:
        full = FULL.get(error.errno or 0)
        there = f"{out}/state.safetensors of iteration {kept} is whole"
        raise TrainingError(
            f"{'the disk is full' if full else 'the disk cannot be written to'}: the run in {out} cannot go on",
            why=(full or str(error),),
            fix=f"{'free some space' if full else 'look after the disk'} and give the same command again; "
            + (f"{there}, and it goes on from there" if kept else "nothing was saved yet"),
        ) from error


def sweep(out: Path) -> None:
    """Remove the unfinished files that a killed run left in its folder."""
    for path in out.iterdir():
        match = _TEMPORARY.match(path.name)
        if not match:
            continue
        process = int(match[1])
        # of this number: nothing is being written yet, so that an earlier process had it, as in every container
        if process == os.getpid() or not process_runs(process):
            path.unlink(missing_ok=True)
