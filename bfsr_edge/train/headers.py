"""Looking at every face before training begins, by its header alone: 4,000 faces take a second."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bfsr_edge.errors import TrainingError
from bfsr_edge.faceset import Face

HEAD = 4096
"""Bytes that hold the size in most files; where they do not, the whole file is read."""
NAMED = 5
"""Files that a message names."""


@dataclass(frozen=True)
class Bad:
    """A face that training cannot take."""

    face: Face
    reason: str
    """As in ``400×300 pixels``."""

    def __str__(self) -> str:
        inside = "" if self.face.file.endswith(self.face.name) else f" in {self.face.file}"
        return f"{self.face.name if inside else self.face.file}{inside}: {self.reason}"


def find_bad(faces: Sequence[Face], size: int) -> list[Bad]:
    """The faces that `faceset.decode_face` would refuse for their shape, or whose header cannot be read.

    A file whose header is whole and whose pixels are damaged is found when it is decoded.
    """
    found = []
    for face, (width, height) in zip(faces, _sizes(faces), strict=True):
        if not width:
            found.append(Bad(face, "no picture, or damaged"))
        elif width != height:
            found.append(Bad(face, f"{width}×{height} pixels, not square"))
        elif width < size:
            found.append(Bad(face, f"{width}×{height} pixels, smaller than {size}"))
    return found


def refuse(bad: Sequence[Bad], count: int, size: int) -> None:
    """TrainingError naming the first of the ``bad`` among ``count`` faces; nothing where there are none."""
    if not bad:
        return
    more = [f"… and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    raise TrainingError(
        f"{len(bad)} of {count} faces cannot be trained on; they must be squares of at least {size} pixels:\n"
        + "\n".join(f"  {line}" for line in [*map(str, bad[:NAMED]), *more]),
        fix="--skip-bad leaves them out; or crop and align them first, as FFHQ does",
    )


def _sizes(faces: Iterable[Face]) -> Iterable[tuple[int, int]]:
    """Width and height of each face; (0, 0) where the header cannot be read."""
    opened, file = "", io.BytesIO()
    try:
        for face in faces:
            try:
                if face.file != opened:  # a tar is opened once for all its faces
                    file.close()
                    opened, file = face.file, open(face.file, "rb")  # type: ignore[assignment]  # noqa: SIM115
                file.seek(face.offset)
                head = file.read(HEAD if face.size < 0 else min(HEAD, face.size))
                yield _size(head) or _size(head + file.read(face.size - len(head) if face.size >= 0 else -1)) or (0, 0)
            except OSError:
                opened = ""
                yield 0, 0
    finally:
        file.close()


def _size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height by the first bytes of a file; None where they do not say."""
    if encoded[:8] == b"\x89PNG\r\n\x1a\n" and len(encoded) >= 24:
        width, height = struct.unpack(">II", encoded[16:24])
        return width, height
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP" and len(encoded) >= 30:
        return _webp_size(encoded)
    if encoded[:2] == b"\xff\xd8":
        return _jpeg_size(encoded)
    return _pillow_size(encoded)


def _webp_size(encoded: bytes) -> tuple[int, int] | None:
    """RFC 9649: the three kinds of first chunk."""
    kind = encoded[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", encoded[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(encoded[24:27], "little") + 1, int.from_bytes(encoded[27:30], "little") + 1
    return None


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """ITU T.81: from marker to marker up to the start of the frame."""
    place = 2
    while place + 9 <= len(encoded):
        if encoded[place] != 0xFF:
            return None
        marker = encoded[place + 1]
        if marker == 0xFF:  # a filling byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", encoded[place + 5 : place + 9])
            return width, height
        place += 2 + int(struct.unpack(">H", encoded[place + 2 : place + 4])[0])
    return None


def _pillow_size(encoded: bytes) -> tuple[int, int] | None:
    """The other formats: Pillow is slower and knows them all."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():  # about EXIF data and the like, which are not looked at here
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                width, height = image.size
                return width, height
    except Exception:  # Pillow's readers raise what they please on damaged files
        return None
