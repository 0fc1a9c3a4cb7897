"""Faces on disk, as a list: folders and tars, read one at a time by number."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bfsr_edge.errors import TrainingError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Face:
    """Where one encoded face lies."""

    name: str
    """Its file name, for messages."""
    file: str
    """The picture itself, or the tar that holds it."""
    offset: int = 0
    """First byte inside ``file``."""
    size: int = -1
    """Bytes; -1: the whole file."""

    def encoded(self) -> bytes:
        """The file's bytes; fewer than ``size`` where the tar is cut off."""
        with open(self.file, "rb") as file:
            rest = max(0, os.fstat(file.fileno()).st_size - self.offset)
            file.seek(self.offset)
            # a damaged tar may claim any size, and read() takes memory for all that it is asked for
            return file.read(rest if self.size < 0 else min(self.size, rest))


def find_faces(sources: Sequence[str | os.PathLike[str]]) -> list[Face]:
    """Every picture in folders (recursive) and uncompressed tars, in a fixed order. Tars are indexed, never unpacked.

    Raises
    ------
    UsageError
        A source is missing or holds no picture.
    """
    faces: list[Face] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = [
                Face(str(file.relative_to(path)), str(file))
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in SUFFIXES and file.is_file()
            ]
        elif path.is_file():
            found = _in_tar(path)
        else:
            raise UsageError(f"there is no folder or tar of faces {path}", fix="bfsr-edge train --faces DIR")
        if not found:
            raise UsageError(f"{path} holds no picture", why=(f"it has no file ending in {', '.join(SUFFIXES)}",))
        faces += found
    return faces


def _in_tar(path: Path) -> list[Face]:
    try:
        with tarfile.open(path, "r:") as archive:
            return [
                Face(member.name, str(path), member.offset_data, member.size)
                for member in archive
                if member.isfile() and member.name.lower().endswith(SUFFIXES)
            ]
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:  # the last two: fields that are no numbers
        raise UsageError(
            f"{path} cannot be read as a tar of faces",
            why=(str(error), "a compressed tar cannot be read at random"),
            fix=f"unpack it and give the folder: tar xf {path}",
        ) from error


def decode_face(face: Face, size: int) -> NDArray[np.uint8]:
    """RGB uint8, ``size`` × ``size`` × 3; a larger square face is reduced by area.

    Raises
    ------
    TrainingError
        The file is damaged, not square, or smaller than ``size``.
    """
    import cv2

    encoded = np.frombuffer(face.encoded(), np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error:  # for sizes above its own limit, among others
        image = None
    if image is None:
        raise TrainingError(f"{face.name} in {face.file} cannot be decoded", fix="remove it, or give a whole copy")
    height, width = image.shape[:2]
    if height != width or height < size:
        raise TrainingError(
            f"{face.name} in {face.file} has {width}×{height} pixels; training takes squares of at least {size}",
            fix="crop and align the faces first, as FFHQ does",
        )
    if height > size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)
