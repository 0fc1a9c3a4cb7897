"""A TIFF writer that takes rows from top to bottom: deflated strips with a predictor, BigTIFF from 4 GB on.

The directory follows the pixels, so nothing but the strip being filled is held. EXIF and GPS directories are copied
field by field, which is why the file takes over the byte order of the EXIF.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bfsr_edge.image_metadata import EXIF_IFD, GPS_IFD, Entry, Metadata, byte_order, directory, pointer

STRIP_BYTES = 1 << 20
CLASSIC_LIMIT = 0xF000_0000
BYTE, ASCII, SHORT, LONG, UNDEFINED, LONG8 = 1, 2, 3, 4, 7, 16
# what describes the photograph; everything else in the first directory describes the layout of the source file
DESCRIPTIVE = {270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, *range(40091, 40096)}
INTEROPERABILITY_IFD = 0xA005

Field = tuple[int, int, int, bytes]


class TiffEncoder:
    """Rows in, one TIFF out."""

    def __init__(
        self, file: BinaryIO, width: int, height: int, channels: int, dtype: npt.DTypeLike, metadata: Metadata
    ) -> None:
        self._file, self._width, self._height, self._channels = file, width, height, channels
        self._dtype = np.dtype(dtype)
        self._metadata = metadata
        self._order = byte_order(metadata.exif) if metadata.exif else "<"
        self._stored = self._dtype.newbyteorder("<" if self._order == "<" else ">")
        row_bytes = width * channels * self._dtype.itemsize
        self._big = row_bytes * height > CLASSIC_LIMIT
        self.rows = max(1, min(height, STRIP_BYTES // row_bytes))
        self._strips: list[tuple[int, int]] = []
        file.write(self._header(0))

    def write(self, rows: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """One strip: ``self.rows`` rows, fewer only at the end."""
        # horizontal predictor: differences of neighbouring pixels, modulo the range of the type
        strip = rows.copy()
        strip[:, 1:] -= rows[:, :-1]
        packed = zlib.compress(strip.astype(self._stored, copy=False).tobytes(), 6)
        self._strips.append((self._file.tell(), len(packed)))
        self._file.write(packed)

    def finish(self) -> None:
        """Write the directories and point the header at them."""
        fields = self._layout()
        exif = self._metadata.exif
        if exif:
            fields += [_field(entry) for entry in directory(exif) if entry.tag in DESCRIPTIVE]
            for tag in (EXIF_IFD, GPS_IFD):
                at = pointer(exif, tag)
                if at is not None:
                    kept = [_field(entry) for entry in directory(exif, at) if entry.tag != INTEROPERABILITY_IFD]
                    fields.append(self._offsets(tag, [self._directory(kept)]))
        start = self._directory(fields)
        self._file.seek(0)
        self._file.write(self._header(start))

    def _layout(self) -> list[Field]:
        bits = 8 * self._dtype.itemsize
        fields = [
            self._long(256, self._width),
            self._long(257, self._height),
            self._short(258, *[bits] * self._channels),
            self._short(259, 8),  # Adobe deflate
            self._short(262, 2 if self._channels > 2 else 1),  # RGB, or black is zero
            self._offsets(273, [offset for offset, _ in self._strips]),
            self._short(277, self._channels),
            self._long(278, self.rows),
            self._offsets(279, [size for _, size in self._strips]),
            self._short(284, 1),
            self._short(317, 2),
        ]
        if self._channels in (2, 4):
            fields.append(self._short(338, 2))  # alpha, not multiplied in
        if self._metadata.xmp:
            fields.append((700, BYTE, len(self._metadata.xmp), self._metadata.xmp))
        if self._metadata.icc:
            fields.append((34675, UNDEFINED, len(self._metadata.icc), self._metadata.icc))
        return fields

    def _short(self, tag: int, *values: int) -> Field:
        return tag, SHORT, len(values), struct.pack(f"{self._order}{len(values)}H", *values)

    def _long(self, tag: int, *values: int) -> Field:
        return tag, LONG, len(values), struct.pack(f"{self._order}{len(values)}I", *values)

    def _offsets(self, tag: int, values: list[int]) -> Field:
        if not self._big:
            return self._long(tag, *values)
        return tag, LONG8, len(values), struct.pack(f"{self._order}{len(values)}Q", *values)

    def _header(self, start: int) -> bytes:
        mark = b"II" if self._order == "<" else b"MM"
        if self._big:
            return mark + struct.pack(self._order + "HHHQ", 43, 8, 0, start)
        return mark + struct.pack(self._order + "HI", 42, start)

    def _directory(self, fields: list[Field]) -> int:
        """Write one directory with its values at the end of the file; where it begins."""
        inline = 8 if self._big else 4
        number, size, link = ("Q", "Q", 8) if self._big else ("H", "I", 4)
        fields = sorted({field[0]: field for field in fields}.values())
        start = self._file.seek(0, 2)
        start += start % 2
        entry_bytes = 4 + 2 * inline
        after = start + struct.calcsize("<" + number) + entry_bytes * len(fields) + link
        table, values = struct.pack(self._order + number, len(fields)), b""
        for tag, kind, count, value in fields:
            table += struct.pack(f"{self._order}HH{size}", tag, kind, count)
            if len(value) <= inline:
                table += value.ljust(inline, b"\0")
            else:
                table += struct.pack(self._order + size, after + len(values))
                values += value + b"\0" * (len(value) % 2)
        self._file.write(bytes(start - self._file.tell()) + table + bytes(link) + values)
        return start


def _field(entry: Entry) -> Field:
    return entry.tag, entry.type, entry.count, entry.value
