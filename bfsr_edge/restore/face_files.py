"""Each face of a picture before and after, as files.

They lie as the results do, below a folder of their own: of ``out/trip/a.jpg`` they are
``trip/a.jpg_face01_before.png`` and ``trip/a.jpg_face01_after.png``, the largest face first. The extension in the name
keeps ``a.jpg`` and ``a.png`` apart. Each holds the record of its result, so that none is ever taken for an input.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bfsr_edge import images
from bfsr_edge.images import Pixels
from bfsr_edge.restore.options import Job, Options
from bfsr_edge.restore.record import record_of


def face_files(folder: Path, job: Job, number: int) -> tuple[Path, Path]:
    """Where a face goes before and after; ``number`` counts from 1."""
    place = job.below if job.below.name else Path(job.target.name)
    before, after = (
        folder / place.with_name(f"{place.name}_face{number:02}_{word}.png") for word in ("before", "after")
    )
    return before, after


def save_faces(
    job: Job, faces: Sequence[tuple[Pixels, Pixels]], metadata: images.Metadata, options: Options
) -> tuple[tuple[tuple[Path, Path], ...], tuple[str, ...]]:
    """Write faces below ``options.save_faces``, each file all or nothing; folders are made where they are missing.

    Parameters
    ----------
    faces
        Before and after of each, H×W×C.
    metadata
        The picture's colour profile, and the record of its result.

    Returns
    -------
    The files of each face, and a sentence for each file that was there, is none of ours, and was kept.

    Raises
    ------
    ImageError
        A file cannot be written.
    """
    assert options.save_faces is not None
    saved, notes = [], []
    for number, pixels in enumerate(faces, 1):
        paths = face_files(options.save_faces, job, number)
        foreign = [path for path in paths if os.path.exists(path) and record_of(path) is None]
        if foreign and not options.overwrite:
            notes += [f"{path} was not made here and was kept" for path in foreign]
            continue
        for path, part in zip(paths, pixels, strict=True):
            images.write(path, part, format="png", metadata=metadata)
        saved.append(paths)
    return tuple(saved), tuple(notes)
