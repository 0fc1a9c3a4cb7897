"""PNG: its chunks, and a writer that takes rows from top to bottom."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bfsr_edge.image_metadata import Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Colour type by number of channels."""
COLOUR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
"""How to read the colours, where no ICC profile (iCCP) says it; the first of them counts (PNG 3rd edition, 4.3)."""
SRGB_GAMMA = 45_455
"""gAMA of pictures in sRGB, 1/2.2 (PNG 3rd edition, 11.3.2.5)."""
SRGB_CHROMATICITIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
SRGB_CODE = bytes((1, 13, 0, 1))
"""cICP of sRGB: BT.709 primaries, sRGB transfer, RGB, full range (ITU-T H.273)."""
CHUNK_LIMIT = 1 << 20


def chunks(file: BinaryIO, wanted: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of the chunks asked for, in the order of the file; damaged files end early.

    What is larger than 1 MiB is passed over. Only the heads of other chunks are read.
    """
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in wanted and length <= CHUNK_LIMIT:
            content = file.read(length)
            if file.read(4) != struct.pack(">I", zlib.crc32(content, zlib.crc32(name))):
                return
            yield name, content
        else:
            file.seek(length + 4, 1)


def depth_and_colour(path: Path) -> tuple[int, int]:
    """Bits a channel and the colour type of a PNG, as its header says."""
    with open(path, "rb") as file:
        depth, colour = file.read(26)[24:]
    return depth, colour


def is_srgb(described: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether colour chunks say no more than every program assumes of a picture that says nothing."""
    said = dict(described)
    if b"cICP" in said:
        return said[b"cICP"] == SRGB_CODE
    if b"sRGB" in said:
        return True
    gamma = int.from_bytes(said.get(b"gAMA", SRGB_GAMMA.to_bytes(4, "big")), "big")
    primaries = said.get(b"cHRM", struct.pack(">8I", *SRGB_CHROMATICITIES))
    if len(primaries) != 32:
        return True  # damaged: nobody can follow it
    # writers round 1/2.2 and the primaries in their own ways
    near = all(abs(a - b) <= 100 for a, b in zip(struct.unpack(">8I", primaries), SRGB_CHROMATICITIES, strict=True))
    return near and abs(gamma - SRGB_GAMMA) <= 100


class PngEncoder:
    """PNG, deflated as the rows come; each row takes the better of two filters (left or above neighbour)."""

    def __init__(
        self, file: BinaryIO, width: int, height: int, channels: int, dtype: npt.DTypeLike, metadata: Metadata
    ) -> None:
        self._file = file
        self._pixel = channels * np.dtype(dtype).itemsize
        self._above = np.zeros((1, width * self._pixel), np.uint8)
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
        self.rows = max(1, min(height, (1 << 20) // (width * self._pixel)))
        depth = 8 * np.dtype(dtype).itemsize
        file.write(SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, COLOURS[channels], 0, 0, 0))
        for name, content in metadata.png:
            self._chunk(name, content)
        if metadata.icc:
            self._chunk(b"iCCP", b"icc\0\0" + zlib.compress(metadata.icc))
        if metadata.exif:
            self._chunk(b"eXIf", metadata.exif)
        if metadata.xmp:
            self._chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)

    def write(self, rows: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """Some rows: ``self.rows``, fewer only at the end."""
        values = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder(">")).view(np.uint8).reshape(len(rows), -1)
        left = values.copy()
        left[:, self._pixel :] -= values[:, : -self._pixel]
        above = values - np.concatenate((self._above, values[:-1]))
        # the usual heuristic: the filter whose differences, taken as signed bytes, are smaller in sum
        costs = [np.abs(filtered.view(np.int8).astype(np.int16)).sum(axis=1) for filtered in (left, above)]
        use_left = costs[0] <= costs[1]
        lines = np.empty((len(rows), values.shape[1] + 1), np.uint8)
        lines[:, 0] = np.where(use_left, 1, 2)
        np.copyto(lines[:, 1:], np.where(use_left[:, None], left, above))
        self._above = values[-1:].copy()
        packed = self._deflate.compress(lines.data)
        if packed:
            self._chunk(b"IDAT", packed)

    def finish(self) -> None:
        """The rest of the pixels, and the end."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, content: bytes) -> None:
        self._file.write(struct.pack(">I", len(content)) + name + content)
        self._file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))
