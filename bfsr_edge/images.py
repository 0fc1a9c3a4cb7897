"""Pictures: files to arrays and back. Everything that knows file formats stands here and in the ``image_*`` modules.

In memory a picture is RGB, uint8 or uint16, H×W×3; grey is H×W×1, alpha the last channel of H×W×4 or H×W×2. EXIF
orientation is applied on reading. Colour values are never converted to another colour space, but for CMYK: the profile
(or what a PNG says of its colours) travels with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bfsr_edge import image_png
from bfsr_edge.errors import ImageError
from bfsr_edge.image_decode import decode, turned
from bfsr_edge.image_formats import EXTENSIONS, FORMATS, QUALITY, Format, check_holds, format_of
from bfsr_edge.image_headers import MAX_MEGAPIXELS, Header, exif_of, header_of, opened, register_heif
from bfsr_edge.image_metadata import EXIF_PREFIX, Metadata, upright
from bfsr_edge.image_writers import ICC_LIMIT, SEGMENT_LIMIT, Pixels, Writer, remove_stale, temporary

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "MAX_MEGAPIXELS",
    "QUALITY",
    "Format",
    "Header",
    "Metadata",
    "Picture",
    "Pixels",
    "Writer",
    "carried",
    "check_holds",
    "create",
    "format_of",
    "probe",
    "read",
    "read_xmp",
    "register_heif",
    "remove_stale",
    "temporary",
    "write",
]


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what travels with it."""

    pixels: Pixels
    """uint8 or uint16, H×W×C, RGB order."""
    format: str
    """A name from ``FORMATS``."""
    metadata: Metadata = field(default_factory=Metadata)
    """EXIF (orientation 1), ICC profile, and what a PNG says of its colours."""
    notes: tuple[str, ...] = ()
    """What could not be kept, a sentence each."""


def probe(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Header:
    """Size and kind of a picture, from its first bytes.

    Raises
    ------
    ImageError
        The file is damaged, animated, has several pages, is of a kind not read here, or holds more pixels than allowed.
    """
    with opened(path) as image:
        return header_of(path, image, max_megapixels)


def read(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Decode a picture.

    Returns
    -------
    Picture
        Upright, RGB or grey, uint8 or uint16, with its metadata. Palettes and 1-bit pictures become RGB and grey;
        CMYK becomes RGB, by its profile where it has one.

    Raises
    ------
    ImageError
        As ``probe``, or the file is truncated.
    """
    with opened(path) as image:
        header = header_of(path, image, max_megapixels)
        exif, turn, damaged = exif_of(path, image)
        pixels, icc, notes = decode(path, image, header)
    described: tuple[tuple[bytes, bytes], ...] = ()
    if header.format == "png":
        with open(path, "rb") as file:
            described = tuple(image_png.chunks(file, image_png.COLOUR_CHUNKS))
    metadata = Metadata(upright(exif) if exif else None, icc, png=described)
    return Picture(turned(pixels, turn), header.format, metadata, damaged + notes)


def read_xmp(path: Path) -> bytes:
    """The XMP packet of a picture, empty where there is none; ImageError where it cannot be read."""
    with opened(path) as image:
        packet = image.info.get("xmp", b"")
        if not packet and image.format == "TIFF":
            packet = image.tag_v2.get(700, b"")  # type: ignore[attr-defined]
        if not packet and image.format == "PNG":
            packet = image.info.get("XML:com.adobe.xmp", "")
        return packet.encode() if isinstance(packet, str) else bytes(packet)


def carried(metadata: Metadata, format: str, channels: int, *, strip: bool = False) -> tuple[Metadata, tuple[str, ...]]:
    """What a file of that format can hold of the metadata, and a sentence for each thing it cannot.

    Parameters
    ----------
    metadata
        Of the source.
    format
        A name from ``FORMATS``.
    channels
        Of the result, as in ``Header``.
    strip
        Carry what says how to read the colours, and nothing else; that the rest is left out is not told.
    """
    notes = []
    exif, icc, described = None if strip else metadata.exif, metadata.icc, metadata.png
    if format == "bmp":
        notes += [f"bmp holds no {name}" for name, value in (("EXIF", exif), ("colour profile", icc)) if value]
        exif = icc = None
    if format == "jpeg" and exif and len(exif) > SEGMENT_LIMIT - len(EXIF_PREFIX):
        notes.append(f"jpeg holds 64 KB of EXIF at most: its {len(exif):,} bytes are left out")
        exif = None
    if icc and format == "webp" and channels < 3 and icc[16:20] == b"GRAY":
        notes.append("webp holds grey as RGB, so the profile for grey is left out")
        icc = None
    if described and format != "png":
        names = ", ".join(name.decode() for name, _ in described)
        if not icc and not image_png.is_srgb(described):
            notes.append(f"{format} cannot hold what the PNG says of its colours ({names}): they may look different")
        described = ()
    return Metadata(exif, icc, metadata.xmp, described), tuple(notes)


def create(
    path: Path,
    shape: tuple[int, int, int],
    dtype: npt.DTypeLike,
    *,
    format: str | None = None,
    quality: int = QUALITY,
    metadata: Metadata | None = None,
) -> Writer:
    """Begin a picture that is written row by row; see ``Writer``.

    Parameters
    ----------
    path
        Where the finished file goes. Its folder is made.
    shape
        (height, width, channels); channels as in ``Header``.
    dtype
        uint8 or uint16.
    format
        A name from ``FORMATS``; by default what the extension says.
    quality
        1 to 100, for JPEG, WebP and HEIC.
    metadata
        What to carry, as far as the format can: BMP holds none of it.

    Raises
    ------
    ImageError
        The format cannot hold the picture, or the folder cannot be written.
    """
    name = format or format_of(path).name
    height, width, channels = shape
    check_holds(name, width, height, channels, 8 * np.dtype(dtype).itemsize)
    metadata = metadata or Metadata()
    for what, content, most in (
        ("EXIF", metadata.exif, SEGMENT_LIMIT - len(EXIF_PREFIX)),
        ("colour profile", metadata.icc, ICC_LIMIT),
    ):
        if name == "jpeg" and content and len(content) > most:
            raise ImageError(f"jpeg cannot hold the {len(content)} bytes of {what}", fix="use --format png or tiff")
    if name == "heic":
        register_heif()
    writer = Writer(path, shape, dtype)
    writer.open(name, quality, metadata)
    return writer


def write(
    path: Path,
    pixels: Pixels,
    *,
    format: str | None = None,
    quality: int = QUALITY,
    metadata: Metadata | None = None,
) -> None:
    """Write a whole picture, H×W×C; all or nothing. Parameters and errors as in ``create``."""
    with create(path, pixels.shape, pixels.dtype, format=format, quality=quality, metadata=metadata) as writer:
        writer.write(pixels)
