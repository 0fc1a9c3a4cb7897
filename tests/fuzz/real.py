"""Whole files to damage: a crop of a published sample in every format and kind that is met, by us and by Pillow."""

from __future__ import annotations

import functools
import io
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from bfsr_edge import images
from bfsr_edge.errors import ImageError

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "lq" / "hopper-face.png"
HEIGHT, WIDTH = 37, 45


@functools.cache
def crop() -> npt.NDArray[np.uint8]:
    """37×45×3: a piece of a real photograph."""
    with Image.open(SAMPLE) as image:
        return np.asarray(image.convert("RGB"))[40 : 40 + HEIGHT, 40 : 40 + WIDTH]


@functools.cache
def profile() -> bytes:
    """An ICC profile, without the time at which it was made."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content[:24] + bytes(12) + content[36:]


def exif(turn: int = 6, order: str = "<") -> bytes:
    """EXIF with orientation, maker, a directory of exposure and size, one of the place, and a thumbnail's link."""
    begin = b"II*\0" if order == "<" else b"MM\0*"

    def field(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")

    def directory(*fields: bytes, after: int = 0) -> bytes:
        return struct.pack(order + "H", len(fields)) + b"".join(fields) + struct.pack(order + "I", after)

    def long(value: int) -> bytes:
        return struct.pack(order + "I", value)

    short = struct.pack(order + "H", turn)
    at = 8 + 2 + 4 * 12 + 4
    maker, sub = b"Maker of cameras\0", at + 18
    place = sub + 2 + 3 * 12 + 4 + 8
    thumbnail = place + 2 + 12 + 4
    first = directory(
        field(0x010F, 2, len(maker), long(at)), field(0x0112, 3, 1, short), field(0x8769, 4, 1, long(sub)),
        field(0x8825, 4, 1, long(place)), after=thumbnail,
    )  # fmt: skip
    second = directory(
        field(0x829A, 5, 1, long(sub + 2 + 3 * 12 + 4)), field(0xA002, 4, 1, long(WIDTH)), field(0xA003, 3, 1, short)
    )
    third = directory(field(1, 2, 2, b"N\0"))
    last = directory(field(0x0201, 4, 1, long(thumbnail + 30)), field(0x0202, 4, 1, long(20)))
    return begin + long(8) + first + maker + b"\0" + second + long(1) + long(250) + third + last + bytes(20)


@functools.cache
def pictures() -> dict[str, bytes]:
    """File names to contents; each is read as it is, or refused by name, as the tests of images.py say."""
    return {**_ours(), **_pillows()}


def _ours() -> dict[str, bytes]:
    colour = crop()
    grey = colour[:, :, :1]
    alpha = np.concatenate((colour, grey), axis=2)
    metadata = images.Metadata(exif=exif(1), icc=profile(), xmp=b"<x/>")
    made: dict[str, tuple[npt.NDArray[Any], images.Metadata]] = {
        "ours.jpg": (colour, metadata),
        "ours-grey.jpg": (grey, images.Metadata()),
        "ours.png": (colour, metadata),
        "ours-alpha.png": (alpha, images.Metadata()),
        "ours-16.png": (colour.astype(np.uint16) * 257, metadata),
        "ours-16-grey-alpha.png": (alpha[:, :, 2:].astype(np.uint16) * 257, images.Metadata()),
        "ours.webp": (alpha, metadata),
        "ours.tif": (colour, metadata),
        "ours-16.tif": (alpha.astype(np.uint16) * 257, images.Metadata()),
        "ours.bmp": (colour, images.Metadata()),
    }
    if _heif():
        made["ours.heic"] = colour, metadata
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (pixels, carried) in made.items():
            images.write(Path(folder, name), np.ascontiguousarray(pixels), metadata=carried)
            found[name] = Path(folder, name).read_bytes()
    return found


def _heif() -> bool:
    try:
        images.register_heif()
    except ImageError:
        return False
    return True


def _pillows() -> dict[str, bytes]:
    image = Image.fromarray(crop())
    described: dict[str, Any] = {"exif": b"Exif\0\0" + exif(6, ">"), "icc_profile": profile()}

    def frames() -> dict[str, Any]:  # anew each time, as Pillow leaves an encoder's settings in what it wrote
        return {"save_all": True, "append_images": [image.rotate(90)]}

    palette = image.quantize(16)
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "turned.jpg": (image, "JPEG", described),
        "progressive.jpg": (image, "JPEG", {"progressive": True, "subsampling": 2, **described}),
        "cmyk.jpg": (image.convert("CMYK"), "JPEG", {}),
        "cmyk-profile.jpg": (image.convert("CMYK"), "JPEG", {"icc_profile": profile()}),
        "two.mpo.jpg": (image, "MPO", frames()),
        "grey.png": (image.convert("L"), "PNG", {}),
        "bits.png": (image.convert("1"), "PNG", {}),
        "grey-alpha.png": (image.convert("LA"), "PNG", {}),
        "palette.png": (palette, "PNG", {"transparency": 3, **described}),
        "palette-alpha.png": (palette, "PNG", {"transparency": bytes(range(0, 256, 16))}),
        "key.png": (image, "PNG", {"transparency": (9, 9, 9)}),
        "grey-16.png": (Image.fromarray(crop()[:, :, 0].astype(np.uint16) * 257), "PNG", {}),
        "animated.png": (image, "PNG", frames()),
        "lossless.webp": (image, "WEBP", {"lossless": True, **described}),
        "animated.webp": (image, "WEBP", frames()),
        "lzw.tif": (image, "TIFF", {"compression": "tiff_lzw", "icc_profile": profile()}),
        "deflate.tif": (image.convert("RGBA"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (image, "TIFF", {"compression": "jpeg"}),
        "fax.tif": (image.convert("1"), "TIFF", {"compression": "group4"}),
        "packbits.tif": (palette, "TIFF", {"compression": "packbits"}),
        "cmyk.tif": (image.convert("CMYK"), "TIFF", {}),
        "lab.tif": (image.convert("LAB"), "TIFF", {"icc_profile": profile()}),
        "float.tif": (Image.fromarray(crop()[:, :, 0].astype(np.float32)), "TIFF", {}),
        "grey-16.tif": (Image.fromarray(crop()[:, :, 0].astype(np.uint16) * 257), "TIFF", {}),
        "pages.tif": (image, "TIFF", frames()),
        "palette.bmp": (palette, "BMP", {}),
        "grey.bmp": (image.convert("L"), "BMP", {}),
        "gif.png": (palette, "GIF", {}),
        "animated-gif.webp": (palette, "GIF", frames()),
        "portable.png": (image, "PPM", {}),
        "targa.bmp": (image, "TGA", {}),
        "icon.png": (image.resize((32, 32)), "ICO", {}),
        "other.jpg": (image, "PNG", {}),
        "other.png": (image, "JPEG", {}),
    }
    found = {}
    for name, (pixels, kind, options) in made.items():
        content = io.BytesIO()
        pixels.copy().save(content, kind, **options)
        found[name] = content.getvalue()
    return found
