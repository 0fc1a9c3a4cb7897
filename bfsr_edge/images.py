"""Pictures: files to arrays and back. The only module that knows file formats.

In memory a picture is RGB, uint8 or uint16, H×W×3; grey is H×W×1, alpha the last channel of H×W×4 or H×W×2. EXIF
orientation is applied on reading. Pillow decodes 8 bits and all metadata; OpenCV decodes 16 bits, which Pillow cannot.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import ImageError
from bfsr_edge.image_formats import EXTENSIONS, FORMATS, QUALITY, Format, check_holds, format_of
from bfsr_edge.image_metadata import EXIF_PREFIX, Metadata, orientation, upright
from bfsr_edge.image_writers import SEGMENT_LIMIT, Pixels, Writer, remove_stale

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "QUALITY",
    "Format",
    "Header",
    "Metadata",
    "Picture",
    "Pixels",
    "Writer",
    "check_holds",
    "create",
    "format_of",
    "probe",
    "read",
    "read_xmp",
    "register_heif",
    "remove_stale",
    "write",
]

MAX_PIXELS = 1 << 29
"""More than half a gigapixel is taken for a decompression bomb: decoding alone would need gigabytes."""


_PILLOW_NAMES = {
    "JPEG": "jpeg",
    "MPO": "jpeg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tiff",
    "BMP": "bmp",
    "DIB": "bmp",
    "HEIF": "heic",
}
_CHANNELS = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "RGBX": 3, "CMYK": 3, "I;16": 1, "I;16B": 1, "I;16L": 1}


@dataclass(frozen=True)
class Header:
    """What a file says about its picture before any pixel is decoded."""

    format: str
    """A name from ``FORMATS``, by content and not by extension."""
    width: int
    """In pixels, as seen: EXIF orientation applied."""
    height: int
    """In pixels, as seen."""
    channels: int
    """1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
    bits: int
    """8 or 16 a channel."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what travels with it."""

    pixels: Pixels
    """uint8 or uint16, H×W×C, RGB order."""
    format: str
    """A name from ``FORMATS``."""
    metadata: Metadata = field(default_factory=Metadata)
    """EXIF (orientation 1) and ICC profile."""
    notes: tuple[str, ...] = ()
    """What could not be kept, a sentence each."""


def register_heif() -> None:
    """Let Pillow read and write HEIC; ImageError with the command to install where pillow-heif is missing."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            "HEIC pictures need pillow-heif, which is not installed here", fix="pip install pillow-heif"
        ) from error
    pillow_heif.register_heif_opener()


_OPENING = threading.Lock()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture as Pillow sees it before decoding; every error of Pillow becomes an ImageError."""
    from PIL import Image

    if path.suffix.lower() in FORMATS["heic"].extensions:
        register_heif()
    try:
        with _OPENING:
            # Pillow's own limit (89 megapixels) is below what cameras take; ours is checked instead
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with image:
            yield image
    except ImageError:
        raise
    except Exception as error:  # decoders raise many classes for damaged files
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        if type(error).__name__ == "UnidentifiedImageError":
            reason = "it is damaged, or not a picture of a format read here" if path.stat().st_size else "it is empty"
        raise ImageError(f"cannot read {path}: {reason}") from error


def probe(path: Path) -> Header:
    """Size and kind of a picture, from its first bytes.

    Raises
    ------
    ImageError
        The file is damaged, animated, has several pages, or is of a kind not read here.
    """
    with _opened(path) as image:
        return _header(path, image)


def _header(path: Path, image: Image.Image) -> Header:
    name = _PILLOW_NAMES.get(image.format or "")
    if name is None:
        raise ImageError(f"cannot read {path}: {image.format} is not read here", fix=f"use {', '.join(FORMATS)}")
    # a phone's second picture in an MPO is a preview or gain map, the first is the photograph
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        kind = "several pages" if name in ("tiff", "heic") else "an animation"
        raise ImageError(f"cannot read {path}: it is {kind} ({frames}), and only single pictures are restored")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"cannot read {path}: {width}×{height} pixels are more than {MAX_PIXELS / 1e6:.0f} megapixels")
    mode, (bits, grey) = image.mode, _depth(path, image, name)
    transparent = "transparency" in image.info or mode == "PA"
    if bits == 16 and grey and mode == "RGBA":  # Pillow's idea of grey with alpha in 16 bits
        channels = 2
    elif mode in ("P", "PA"):
        channels = 4 if transparent else 3
    elif mode in _CHANNELS:
        channels = _CHANNELS[mode]
        if transparent and channels in (1, 3):
            channels += 1
    else:
        raise ImageError(f"cannot read {path}: pixels of kind {mode} are not read here", fix="convert it to RGB")
    if _turn(image, _exif(image)[0]) > 4:
        width, height = height, width
    return Header(name, width, height, channels, bits)


def _depth(path: Path, image: Image.Image, name: str) -> tuple[int, bool]:
    """Bits a channel, and whether the file (not Pillow) calls itself grey."""
    if name == "png":
        with open(path, "rb") as file:
            depth, colour = file.read(26)[24:]
        return (16 if depth == 16 else 8), colour in (0, 4)
    if name == "tiff" and max(image.tag_v2.get(258, (1,))) == 16:  # type: ignore[attr-defined]
        return 16, image.tag_v2.get(262) in (0, 1)  # type: ignore[attr-defined]
    return 8, image.mode in ("1", "L", "LA")


def _turn(image: Image.Image, exif: bytes | None) -> int:
    """The orientation still to be applied: Pillow and OpenCV apply that of a TIFF themselves."""
    return 1 if image.format == "TIFF" else orientation(exif)


def _exif(image: Image.Image) -> tuple[bytes | None, tuple[str, ...]]:
    """EXIF as stored, or collected from a TIFF's own fields, and what to tell where it is damaged."""
    content = image.info.get("exif")
    try:
        if image.format == "TIFF":
            content = image.getexif().tobytes()
        content = content.removeprefix(EXIF_PREFIX) if isinstance(content, bytes) else b""
        if not content:
            return None, ()
        orientation(content)
        return content, ()
    except Exception:  # Pillow raises many classes for damaged EXIF
        return None, ("its EXIF is damaged and not kept",)


def read(path: Path) -> Picture:
    """Decode a picture.

    Returns
    -------
    Picture
        Upright, RGB or grey, uint8 or uint16, with its metadata. Palettes and 1-bit pictures become RGB and grey;
        CMYK becomes RGB, by its profile where it has one.

    Raises
    ------
    ImageError
        The file is damaged or truncated, animated, has several pages, or is of a kind not read here.
    """
    with _opened(path) as image:
        header = _header(path, image)
        exif, notes = _exif(image)
        icc = image.info.get("icc_profile") or None
        turn = _turn(image, exif)
        if header.bits == 16:
            if header.format == "png":
                image.verify()  # checksums, as OpenCV fills what is missing with grey and says nothing
            pixels: Pixels = _read_deep(path, header)
        else:
            if image.mode == "CMYK":
                image, icc, note = _from_cmyk(image, icc)
                notes += (note,)
            mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[header.channels]
            converted = image if image.mode == mode else image.convert(mode)
            converted.load()
            depth = image.info.get("bit_depth", 8) if header.format == "heic" else 8
            if depth > 8:
                notes += (f"its {depth} bits a channel were reduced to 8",)
            decoded: npt.NDArray[np.uint8] = np.asarray(converted, np.uint8)
            pixels = decoded.reshape(converted.height, converted.width, header.channels)
    return Picture(_turned(pixels, turn), header.format, Metadata(upright(exif) if exif else None, icc), notes)


def _turned(pixels: Pixels, turn: int) -> Pixels:
    if turn > 4:
        pixels = pixels.transpose(1, 0, 2)
    # after the transposition of 5 to 8: which axes still run backwards
    flip = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(turn)
    turned: Pixels = np.ascontiguousarray(np.flip(pixels, flip) if flip else pixels)
    return turned


def _read_deep(path: Path, header: Header) -> Pixels:
    import cv2

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageError(f"cannot read {path}: it is damaged, or of a 16-bit kind not read here")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] == 4 and header.channels == 2:
        return np.asarray(pixels[:, :, [0, 3]], np.uint16)  # OpenCV writes grey three times
    if pixels.shape[2] != header.channels:
        raise ImageError(f"cannot read {path}: {pixels.shape[2]} channels of 16 bits are not read here")
    if header.channels > 2:
        pixels = pixels[:, :, [2, 1, 0, 3][: header.channels]]
    return np.asarray(pixels, np.uint16)


def _from_cmyk(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None, str]:
    from io import BytesIO

    from PIL import ImageCms

    if icc:
        profile = ImageCms.getOpenProfile(BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None
        return converted, None, "converted from CMYK to sRGB by its profile"
    return image.convert("RGB"), None, "converted from CMYK to RGB without a profile: colours are approximate"


def read_xmp(path: Path) -> bytes:
    """The XMP packet of a picture, empty where there is none; ImageError where it cannot be read."""
    with _opened(path) as image:
        packet = image.info.get("xmp", b"")
        if not packet and image.format == "TIFF":
            packet = image.tag_v2.get(700, b"")  # type: ignore[attr-defined]
        if not packet and image.format == "PNG":
            packet = image.info.get("XML:com.adobe.xmp", "")
        return packet.encode() if isinstance(packet, str) else bytes(packet)


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
    if name == "jpeg" and metadata.exif and len(metadata.exif) > SEGMENT_LIMIT - len(EXIF_PREFIX):
        raise ImageError(f"jpeg cannot hold the {len(metadata.exif)} bytes of EXIF", fix="use --format png or tiff")
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
