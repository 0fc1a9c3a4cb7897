"""Writers that take rows from top to bottom and put the finished file in place at the end.

JPEG, PNG and TIFF hold no more than a strip, so the size of a result is bounded by the disk alone. WebP, BMP and HEIC
are encoded by libraries that want the whole picture: those hold it, and their formats bound it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import ImageError
from bfsr_edge.files import process_runs
from bfsr_edge.image_metadata import EXIF_PREFIX, Metadata, with_size
from bfsr_edge.image_png import PngEncoder
from bfsr_edge.image_tiff import TiffEncoder

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.unsignedinteger[Any]]

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
SEGMENT_LIMIT = 65_533  # what a JPEG segment can hold
ICC_PIECE = 65_000
ICC_LIMIT = 255 * ICC_PIECE  # a JPEG counts the pieces of a profile in one byte
XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\x00"


class Encoder(Protocol):
    """One format. ``write`` gets ``rows`` rows at a time, fewer only at the end."""

    rows: int

    def write(self, rows: Pixels) -> None: ...

    def finish(self) -> None: ...


class Writer:
    """A picture being written: rows go in from top to bottom, the file appears when it is whole.

    Use it as a context manager. The file grows under a hidden name in the same folder and is renamed when the block
    ends; if anything fails it is removed and the target stays as it was. Made by ``bfsr_edge.images.create``.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: npt.DTypeLike) -> None:
        self.path = path
        self._height, self._width, self._channels = shape
        self._dtype = np.dtype(dtype)
        self._written = 0
        self._pending: list[Pixels] = []
        self._temporary = temporary(path)
        self._file: BinaryIO | None = None
        self._encoder: Encoder | None = None

    def open(self, kind: str, quality: int, metadata: Metadata) -> None:
        """Make the folder and the hidden file, and write what comes before the pixels."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "wb")  # noqa: SIM115  # closed by _commit and abort
            if metadata.exif:
                metadata = replace(metadata, exif=with_size(metadata.exif, self._width, self._height))
            size = (self._width, self._height, self._channels)
            if kind == "jpeg":
                self._encoder = JpegEncoder(self._file, *size, quality, metadata)
            elif kind == "png":
                self._encoder = PngEncoder(self._file, *size, self._dtype, metadata)
            elif kind == "tiff":
                self._encoder = TiffEncoder(self._file, *size, self._dtype, metadata)
            else:
                self._encoder = WholeEncoder(self._file, self._height, kind, quality, metadata)
        except BaseException as error:
            self.abort()
            raise _failed(self.path, error) from error

    def write(self, rows: Pixels) -> None:
        """Append rows: n×width×channels of the type given at the start.

        Raises
        ------
        ImageError
            The rows do not fit the picture, or the disk is full.
        """
        assert self._encoder is not None
        if rows.shape[1:] != (self._width, self._channels) or rows.dtype != self._dtype:
            raise ValueError(f"rows of {rows.shape} {rows.dtype} do not fit {self.path}")
        self._written += len(rows)
        self._pending.append(rows)
        waiting = sum(map(len, self._pending))
        last = self._written >= self._height
        if waiting < self._encoder.rows and not last:
            # the caller may reuse its buffer
            self._pending[-1] = rows.copy()
            return
        block = np.concatenate(self._pending) if len(self._pending) > 1 else rows
        full = waiting if last else waiting - waiting % self._encoder.rows
        try:
            for start in range(0, full, self._encoder.rows):
                self._encoder.write(block[start : min(full, start + self._encoder.rows)])
        except Exception as error:
            raise _failed(self.path, error) from error
        self._pending = [block[full:].copy()] if full < waiting else []

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort()
            return
        try:
            self._commit()
        except BaseException as failure:
            self.abort()
            raise _failed(self.path, failure) from failure

    def _commit(self) -> None:
        assert self._encoder is not None
        assert self._file is not None
        if self._written != self._height:
            raise ValueError(f"{self._written} rows of {self._height} were written")
        self._encoder.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)

    def abort(self) -> None:
        """Remove what was written so far; the target stays as it was."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        with contextlib.suppress(OSError):  # where its folder is none, there is nothing to remove
            self._temporary.unlink()


def temporary(path: Path) -> Path:
    """The hidden file beside ``path`` that this process writes before it takes that name."""
    return path.with_name(f".bfsr-edge-{_host()}-{os.getpid()}-{_digest(os.fsencode(path.name))}.part")


def remove_stale(folder: Path) -> None:
    """Remove the hidden files of runs on this machine that were killed: those whose process is gone.

    What other machines or containers write into the same folder is theirs to remove.
    """
    for path in folder.glob(f".bfsr-edge-{_host()}-*.part"):
        matched = re.fullmatch(r"\.bfsr-edge-[0-9a-f]{12}-(\d+)-[0-9a-f]{12}\.part", path.name)
        if matched and not process_runs(int(matched[1])):
            path.unlink(missing_ok=True)


def _host() -> str:
    return _digest(platform.node().encode("utf-8", "surrogateescape"))


def _digest(name: bytes) -> str:
    return hashlib.sha256(name).hexdigest()[:12]


def _failed(path: Path, error: BaseException) -> BaseException:
    """The same for the user: an ImageError, unless it is one or no error at all (an interruption)."""
    if isinstance(error, ImageError) or not isinstance(error, Exception):
        return error
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ImageError(f"cannot write {path}: {reason}", fix="check the free space and the permissions of the folder")


class JpegEncoder:
    """Baseline JPEG, strip by strip.

    Each strip is encoded by libjpeg as a picture of its own. As all strips share their tables and each begins with the
    state that a restart marker resets to, their data joined by restart markers are one valid JPEG: the header of the
    first one, its height corrected, serves for all.
    """

    def __init__(
        self, file: BinaryIO, width: int, height: int, channels: int, quality: int, metadata: Metadata
    ) -> None:
        self._file, self._height, self._quality, self._metadata = file, height, quality, metadata
        # full colour resolution where quality is asked for, as faces show it at the lips
        self._subsampling = 0 if quality >= 90 else 2
        side = 16 if self._subsampling and channels == 3 else 8
        per_row = -(-width // side)
        # the restart interval is a 16-bit number of blocks
        self.rows = side * max(1, min(64 // side, 65_535 // per_row))
        self._interval = per_row * self.rows // side
        self._strips = 0

    def write(self, rows: Pixels) -> None:
        content = BytesIO()
        _pillow(rows).save(
            content,
            "JPEG",
            quality=self._quality,
            subsampling=self._subsampling,
            restart_marker_blocks=self._interval,
        )
        data = content.getvalue()
        segments, scan = _segments(data)
        if self._strips == 0:
            self._file.write(self._header(data, segments, scan))
        else:
            self._file.write(bytes((0xFF, 0xD0 + (self._strips - 1) % 8)))
        self._file.write(memoryview(data)[scan:-2])
        self._strips += 1

    def finish(self) -> None:
        self._file.write(b"\xff\xd9")

    def _header(self, data: bytes, segments: list[tuple[int, int]], scan: int) -> bytes:
        header = bytearray(data[:scan])
        for marker, position in segments:
            if marker == 0xC0:
                struct.pack_into(">H", header, position + 5, self._height)
        first = 2 + 2 + struct.unpack_from(">H", header, 4)[0]  # behind SOI and JFIF
        return bytes(header[:first]) + self._applications() + bytes(header[first:])

    def _applications(self) -> bytes:
        result = b""
        exif, icc, xmp = self._metadata.exif, self._metadata.icc, self._metadata.xmp
        if exif:
            result += _segment(0xE1, EXIF_PREFIX + exif)
        if xmp:
            result += _segment(0xE1, XMP_PREFIX + xmp)
        if icc:
            pieces = [icc[start : start + ICC_PIECE] for start in range(0, len(icc), ICC_PIECE)]
            for number, piece in enumerate(pieces, 1):
                result += _segment(0xE2, b"ICC_PROFILE\x00" + bytes((number, len(pieces))) + piece)
        return result


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _segments(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """Marker and position of each segment of a JPEG, and where the scan's data begin."""
    found, position = [], 2
    while True:
        _, marker, length = struct.unpack_from(">BBH", data, position)
        found.append((marker, position))
        position += 2 + length
        if marker == 0xDA:
            return found, position


class WholeEncoder:
    """WebP, BMP and HEIC through Pillow, which wants the whole picture."""

    def __init__(self, file: BinaryIO, height: int, kind: str, quality: int, metadata: Metadata) -> None:
        self._file, self._kind = file, kind
        self.rows = height  # so the one block that comes is the picture
        self._options: dict[str, object] = {} if kind == "bmp" else {"quality": quality}
        if kind != "bmp":
            for name, value in (("exif", metadata.exif), ("icc_profile", metadata.icc), ("xmp", metadata.xmp)):
                if value:
                    self._options[name] = EXIF_PREFIX + value if name == "exif" else value

    def write(self, rows: Pixels) -> None:
        image = _pillow(rows)
        if self._kind == "heic":
            from bfsr_edge.image_headers import register_heif

            register_heif()
            image.save(self._file, "HEIF", **self._options)
        elif self._kind == "webp":
            image.save(self._file, "WEBP", **self._options)
        else:
            image.save(self._file, "BMP")

    def finish(self) -> None:
        """Nothing is left to write."""


def _pillow(rows: Pixels) -> Image.Image:
    from PIL import Image

    array = np.ascontiguousarray(rows)
    return Image.frombuffer(MODES[array.shape[2]], (array.shape[1], array.shape[0]), array, "raw")
