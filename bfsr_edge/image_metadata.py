"""What travels beside the pixels: EXIF, the ICC profile, and our own XMP packet.

EXIF is kept as the bytes that were read. Only what the restoration made wrong is changed in place: orientation, size,
and the link to the thumbnail, which would show the old picture.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

EXIF_PREFIX = b"Exif\x00\x00"
ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
WIDTHS, HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
"""As TIFF and as EXIF name them."""
SHORT, LONG = 3, 4
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


@dataclass(frozen=True)
class Metadata:
    """What is carried from a picture to its result, as far as the format can hold it."""

    exif: bytes | None = None
    """A TIFF structure that begins with its byte order, without the ``Exif\\0\\0`` that JPEG puts before it."""
    icc: bytes | None = None
    """An ICC profile."""
    xmp: bytes | None = None
    """An XMP packet: ours, never the source's, whose edits and embedded films no longer fit the result."""
    png: tuple[tuple[bytes, bytes], ...] = ()
    """Chunks of a PNG that say how to read its colours, name and content: kept in PNG, no other format holds them."""


@dataclass(frozen=True)
class Entry:
    """One field of an EXIF directory."""

    tag: int
    type: int
    count: int
    value: bytes
    """As stored, in the byte order of the whole structure."""
    position: int
    """Of the 12 bytes of the field within the structure."""


def byte_order(exif: bytes) -> str:
    """As ``struct`` writes it, "<" or ">"; ValueError where this is no EXIF."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or exif[2:4] != struct.pack(order + "H", 42):
        raise ValueError("EXIF does not begin with a byte order")
    return order


def directory(exif: bytes, offset: int | None = None) -> list[Entry]:
    """The fields of the directory at that offset, the first one by default; ValueError where it is damaged."""
    order = byte_order(exif)
    try:
        start = struct.unpack_from(order + "I", exif, 4)[0] if offset is None else offset
        return list(_entries(exif, order, start))
    except struct.error as error:
        raise ValueError("EXIF is cut off") from error


def _entries(exif: bytes, order: str, start: int) -> Iterator[Entry]:
    (number,) = struct.unpack_from(order + "H", exif, start)
    for position in range(start + 2, start + 2 + 12 * number, 12):
        tag, kind, count = struct.unpack_from(order + "HHI4x", exif, position)
        size = TYPE_SIZES.get(kind, 1) * count
        at = position + 8 if size <= 4 else struct.unpack_from(order + "I", exif, position + 8)[0]
        if at + size <= len(exif):  # some cameras leave one field that points outside
            yield Entry(tag, kind, count, exif[at : at + size], position)


def orientation(exif: bytes | None) -> int:
    """1 to 8 as EXIF counts them; 1 where nothing (or nonsense) is said."""
    if exif is None:
        return 1
    for entry in directory(exif):
        if entry.tag == ORIENTATION and entry.type == SHORT and entry.count == 1:
            (value,) = struct.unpack(byte_order(exif) + "H", entry.value)
            return value if 1 <= value <= 8 else 1
    return 1


def pointer(exif: bytes, tag: int) -> int | None:
    """Where the sub-directory named by that tag lies."""
    for entry in directory(exif):
        if entry.tag == tag and entry.type == LONG and entry.count == 1:
            return int(struct.unpack(byte_order(exif) + "I", entry.value)[0])
    return None


def check(exif: bytes) -> None:
    """ValueError where a directory that is read later, or the way to it, is damaged."""
    directory(exif)
    for tag in (EXIF_IFD, GPS_IFD):
        at = pointer(exif, tag)
        if at is not None:
            directory(exif, at)


def upright(exif: bytes) -> bytes:
    """The same EXIF with orientation 1 and without the link to the thumbnail."""
    order, changed = byte_order(exif), bytearray(exif)
    for entry in directory(exif):
        if entry.tag == ORIENTATION:
            struct.pack_into(order + "HHIHH", changed, entry.position, ORIENTATION, SHORT, 1, 1, 0)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (number,) = struct.unpack_from(order + "H", exif, start)
    after = start + 2 + 12 * number
    changed[after : after + 4] = bytes(len(exif[after : after + 4]))
    return bytes(changed)


def with_size(exif: bytes, width: int, height: int) -> bytes:
    """The same EXIF with the result's size where it names the picture's."""
    order, changed = byte_order(exif), bytearray(exif)
    at = pointer(exif, EXIF_IFD)
    for entry in (*directory(exif), *(directory(exif, at) if at is not None else ())):
        if entry.tag in (*WIDTHS, *HEIGHTS):
            side = width if entry.tag in WIDTHS else height
            struct.pack_into(order + "HHII", changed, entry.position, entry.tag, LONG, 1, side)
    return bytes(changed)
