"""What a picture file is, from its first bytes and before any pixel is decoded; and why some are refused."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bfsr_edge import image_png
from bfsr_edge.errors import ImageError
from bfsr_edge.image_formats import FORMATS
from bfsr_edge.image_metadata import (
    EXIF_IFD,
    EXIF_PREFIX,
    GPS_IFD,
    ORIENTATION,
    byte_order,
    check,
    directory,
    orientation,
)
from bfsr_edge.image_tiff import DESCRIPTIVE

if TYPE_CHECKING:
    from PIL import Image

MAX_MEGAPIXELS = 512
"""Of an input. What is larger is taken for a decompression bomb: decoding alone would need gigabytes."""
TEXT_LIMIT = 16 << 20
"""Bytes of one unpacked PNG text or ICC profile: Pillow's own 1 MiB is below what printers' profiles take."""
ANEW = "copy it again from where it came, or open it in another program and save it anew"
"""What to do about a file that cannot be decoded."""

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
_KINDS = {
    "F": "floating-point",
    "I": "32-bit integer",
    "LAB": "L*a*b*",
    "YCbCr": "uncompressed YCbCr",
}
"""Of Pillow's modes those that are refused, in words."""
# TIFF tags and their values
BITS, _SUBFILE, _PHOTOMETRIC, _PLANES, _EXTRA, _SAMPLES = 258, 254, 262, 284, 338, 339
_COMPRESSION, _JPEG = 259, (6, 7)
_REDUCED_OR_MASK = 1 | 4
_SAMPLE_KINDS = {2: "signed integer", 3: "floating-point", 5: "complex integer", 6: "complex"}
_PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "L*a*b*"}


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
OPENCV_NO_MEMORY = -4
"""``cv::Error::StsNoMem``."""
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture as Pillow sees it before decoding; every error of Pillow becomes an ImageError."""
    from PIL import Image, PngImagePlugin

    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for whoever writes into it
            raise ImageError(f"cannot read {path}: it is a pipe, a socket or a device", fix="leave it out")
        if _is_heif(path):
            register_heif()
        # not by its name: Pillow then maps raw TIFFs into memory, and turns those that lie on their side wrongly
        with open(path, "rb") as file:
            with _OPENING:
                # Pillow's own limits (89 megapixels, 1 MiB of profile) are below what cameras and printers have; ours
                # are checked instead
                limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, TEXT_LIMIT
                try:
                    image = Image.open(file)
                finally:
                    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits
            with image:
                yield image
    except ImageError:
        raise
    except Exception as error:  # decoders raise many classes for damaged files
        if isinstance(error, MemoryError) or getattr(error, "code", None) == OPENCV_NO_MEMORY:
            raise ImageError(
                f"there is not enough memory to read {path}",
                why=("it is damaged and asks for more than it holds, if it is a small picture",),
                fix="free some memory, or reduce the picture first",
            ) from error
        if type(error).__name__ == "UnidentifiedImageError":
            raise _unidentified(path) from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        fix = "check its permissions, and the disk" if isinstance(error, OSError) and error.strerror else ANEW
        raise ImageError(f"cannot read {path}: {reason}", fix=fix) from error


def _is_heif(path: Path) -> bool:
    """Whether a file's brand (ISO/IEC 23008-12) says HEIC, whatever its name: many a program calls it .jpg."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def _unidentified(path: Path) -> ImageError:
    """What to say of a file that Pillow makes nothing of."""
    reason, fix = "it is damaged, or not a picture of a format read here", ANEW
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                reason = "it is empty"
            else:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    # all that is asked of bytes here
                    kind = _tiff_kind(cast(bytes, content))
                reason, fix = f"{kind} pixels are not read here", "save it with 8 or 16 bits a channel, grey or RGB"
    except (ValueError, struct.error):  # no TIFF, or its directory is damaged
        pass
    except OSError as error:
        reason = error.strerror or str(error)
    return ImageError(f"cannot read {path}: {reason}", fix=fix)


def _tiff_kind(content: bytes) -> str:
    """The pixels of a TIFF in words, from its own fields; ValueError where it is none."""
    order = byte_order(content)
    fields = {
        entry.tag: struct.unpack(f"{order}{entry.count}H", entry.value)
        for entry in directory(content)
        if entry.tag in (BITS, _PHOTOMETRIC, _SAMPLES) and entry.type == 3 and entry.count
    }
    if BITS not in fields or _PHOTOMETRIC not in fields:
        raise ValueError("fields are missing")
    words = [f"{max(fields[BITS])}-bit", _SAMPLE_KINDS.get(fields.get(_SAMPLES, (1,))[0], "")]
    words.append(_PHOTOMETRICS.get(fields[_PHOTOMETRIC][0], "unusual"))
    return " ".join(filter(None, words))


def header_of(path: Path, image: Image.Image, max_megapixels: float) -> Header:
    """What an opened picture is; ImageError where it is of a kind not read here, or too large."""
    name = _PILLOW_NAMES.get(image.format or "")
    pictures = _pictures(image)
    if pictures > 1:
        kind = f"it has {pictures} pages" if name in ("tiff", "heic") else f"it is an animation of {pictures} pictures"
        raise ImageError(
            f"cannot read {path}: {kind}, and only single pictures are restored",
            fix="save each of them as a file of its own",
        )
    if name is None:
        raise ImageError(f"cannot read {path}: {image.format} is not read here", fix=f"use {', '.join(FORMATS)}")
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            f"cannot read {path}: its {width}×{height} pixels are more than {max_megapixels:g} megapixels",
            why=("a small file that unpacks to gigabytes can be made to harm",),
            fix=f"if it is trusted, add --max-megapixels {-(-width * height // 1_000_000)}",
        )
    channels, bits = _kind(path, image, name)
    if exif_of(path, image)[1] > 4:
        width, height = height, width
    return Header(name, width, height, channels, bits)


def _pictures(image: Image.Image) -> int:
    """How many the file holds, without previews and masks of the first."""
    # a phone's second picture in an MPO is a preview or gain map, the first is the photograph
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1 and image.format == "TIFF":
        pages = 0
        for page in range(frames):
            image.seek(page)
            pages += not tag_of(image, _SUBFILE, (0,))[0] & _REDUCED_OR_MASK
        image.seek(0)
        return max(1, pages)
    return int(frames)


def _kind(path: Path, image: Image.Image, name: str) -> tuple[int, int]:
    """Channels, and bits a channel."""
    mode, transparent = image.mode, "transparency" in image.info or image.mode == "PA"
    refused = _KINDS.get(mode, "" if mode in _CHANNELS or mode in ("P", "PA") else mode)
    deep = mode.startswith("I;16")
    if name == "png":
        depth, colour = image_png.depth_and_colour(path)
        deep = depth == 16
        if deep and colour == image_png.COLOURS[2]:
            return 2, 16  # Pillow calls it RGBA
    elif name == "tiff":
        deep, refused = _tiff_depth(image, refused)
    if refused:
        raise ImageError(
            f"cannot read {path}: {refused} pixels are not read here",
            fix="save it with 8 or 16 bits a channel, grey or RGB",
        )
    if mode in ("P", "PA"):
        return (4 if transparent else 3), 8
    channels = _CHANNELS[mode]
    return channels + (transparent and channels in (1, 3)), 16 if deep else 8


def _tiff_depth(image: Image.Image, refused: str) -> tuple[bool, str]:
    """Whether 16 bits a channel are to be read, or else what is wrong with the pixels."""
    bits = max(tag_of(image, BITS, (1,)))
    for sample in tag_of(image, _SAMPLES, (1,)):
        refused = f"{bits}-bit {_SAMPLE_KINDS[sample]}" if sample in _SAMPLE_KINDS else refused
    if bits not in (1, 2, 4, 8, 16) and not refused:
        refused = f"{bits}-bit"
    # some versions of Pillow take it for RGB and then miss a part of it
    if tag_of(image, _PHOTOMETRIC, (2,))[0] == 6 and tag_of(image, _COMPRESSION, (1,))[0] not in _JPEG:
        refused = refused or _KINDS["YCbCr"]
    deep = bits == 16 and image.mode != "CMYK"  # of which Pillow reads the upper 8 bits, enough for a conversion
    if deep and image.mode not in ("I;16", "I;16B", "I;16L"):
        if tag_of(image, _PLANES, (1,))[0] == 2:
            refused = refused or "16-bit (in separate planes)"
        elif tag_of(image, _PHOTOMETRIC, (2,))[0] != 2:
            refused = refused or f"16-bit {_PHOTOMETRICS.get(tag_of(image, _PHOTOMETRIC, (2,))[0], 'unusual')}"
    return deep, refused


def tag_of(image: Image.Image, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """The value of a TIFF's field, one number or several."""
    value: Any = image.tag_v2.get(tag, default)  # type: ignore[attr-defined]
    return value if isinstance(value, tuple) and value else default if isinstance(value, tuple) else (int(value),)


def white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF's grey runs from white to black."""
    return image.format == "TIFF" and tag_of(image, _PHOTOMETRIC, (1,))[0] == 0


def alpha_is_multiplied(image: Image.Image) -> bool:
    """Whether a TIFF's colours are stored multiplied by their alpha."""
    return image.format == "TIFF" and tag_of(image, _EXTRA, (2,))[0] == 1


def has_other_channel(image: Image.Image) -> bool:
    """Whether a TIFF has one more channel that is no alpha."""
    return image.format == "TIFF" and image.mode in ("RGB", "RGBX") and tag_of(image, _EXTRA, (2,))[0] == 0


def exif_of(path: Path, image: Image.Image) -> tuple[bytes | None, int, tuple[str, ...]]:
    """EXIF as stored, or collected from a TIFF's fields; the orientation to apply; what to tell where it is damaged."""
    content = image.info.get("exif")
    try:
        if image.format == "TIFF":
            content = _of_tiff(image)
        elif image.format == "PNG" and not content:
            content = _of_png(path, image)
        content = content.removeprefix(EXIF_PREFIX) if isinstance(content, bytes) else b""
        if not content:
            return None, 1, ()
        check(content)
        return content, _turn(image, content), ()
    except Exception:  # Pillow raises many classes for damaged EXIF
        return None, _turn(image, content), ("its EXIF is damaged and not kept",)


def _turn(image: Image.Image, exif: Any) -> int:
    """The orientation, which may stand in sound fields of a damaged whole; Pillow and OpenCV turn TIFFs themselves."""
    if image.format == "TIFF" or not isinstance(exif, bytes):
        return 1
    try:
        return orientation(exif.removeprefix(EXIF_PREFIX))
    except ValueError:
        return 1


def _of_tiff(image: Image.Image) -> bytes:
    """What describes the photograph: the other fields describe how this file is laid out, or are kept by themselves."""
    exif = image.getexif()
    kept = DESCRIPTIVE | {EXIF_IFD, GPS_IFD, ORIENTATION}
    for tag in [tag for tag in exif if tag not in kept]:
        del exif[tag]
    exif.bigtiff = False  # its fields are stored in the classic layout, which is what EXIF means elsewhere
    return exif.tobytes() if len(exif) else b""


def _of_png(path: Path, image: Image.Image) -> bytes:
    """The chunk may also stand behind the pixels; before there was one, ImageMagick wrote hexadecimal text."""
    with open(path, "rb") as file:
        for _, content in image_png.chunks(file, (b"eXIf",)):
            return content
    words = str(image.info.get("Raw profile type exif", "")).split()
    return bytes.fromhex("".join(words[2:]))
