"""Pixels out of an opened file: Pillow decodes 8 bits, OpenCV 16, which Pillow cannot; what is not RGB is converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bfsr_edge import image_png
from bfsr_edge.errors import ImageError
from bfsr_edge.image_headers import BITS, Header, alpha_is_multiplied, has_other_channel, tag_of, white_is_zero
from bfsr_edge.image_writers import MODES, Pixels

if TYPE_CHECKING:
    from PIL import Image


def decode(path: Path, image: Image.Image, header: Header) -> tuple[Pixels, bytes | None, tuple[str, ...]]:
    """Pixels H×W×C as the file has them (not turned), the ICC profile that describes them, and what was not kept.

    ImageError, or whatever Pillow raises, where the file is damaged or truncated.
    """
    icc: bytes | None = image.info.get("icc_profile") or None
    notes: tuple[str, ...] = ()
    if has_other_channel(image):
        notes += ("its fourth channel is no transparency, and not kept",)
    if header.bits == 16:
        if header.format == "png":
            key = image.info.get("transparency")
            image.verify()  # checksums, as OpenCV fills what is missing with grey and says nothing
            pixels: Pixels = _deep(path, header, key if isinstance(key, int) else None)
        else:
            pixels = _deep(path, header, None)
            if white_is_zero(image):
                pixels = np.invert(pixels)
            if header.channels == 4 and alpha_is_multiplied(image):
                pixels = _divided(pixels)
        return pixels, icc, notes
    if image.mode == "CMYK":
        original = image
        image, note = _from_cmyk(original, icc)
        icc, notes = None, (*notes, note)
        depth = max(tag_of(original, BITS, (8,))) if header.format == "tiff" else 8
    else:
        depth = image.info.get("bit_depth", 8) if header.format == "heic" else 8
    if depth > 8:
        notes += (f"its {depth} bits a channel were reduced to 8",)
    key, small = image.info.get("transparency"), image.mode == "L" and header.format == "png"
    if small and isinstance(key, int):
        # Pillow spreads 2 and 4 bits over 0 to 255, and leaves the transparent one of them as it was
        image.info["transparency"] = key * 255 // (2 ** image_png.depth_and_colour(path)[0] - 1)
    mode = MODES[header.channels]
    converted = image if image.mode == mode else image.convert(mode)
    converted.load()
    decoded: npt.NDArray[np.uint8] = np.asarray(converted, np.uint8)
    return decoded.reshape(converted.height, converted.width, header.channels), icc, notes


def turned(pixels: Pixels, turn: int) -> Pixels:
    """Pixels of EXIF orientation 1 to 8, upright."""
    if turn > 4:
        pixels = pixels.transpose(1, 0, 2)
    # after the transposition of 5 to 8: which axes still run backwards
    flip = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(turn)
    upright: Pixels = np.ascontiguousarray(np.flip(pixels, flip) if flip else pixels)
    return upright


def _deep(path: Path, header: Header, key: int | None) -> Pixels:
    """``key`` is the grey of a PNG that stands for transparency; of colours OpenCV makes alpha itself."""
    import cv2

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageError(f"cannot read {path}: it is damaged, or of a 16-bit kind not read here")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] == 1 and header.channels == 2 and key is not None:
        pixels = np.concatenate((pixels, np.where(pixels == key, 0, 65535)), axis=2)
    elif pixels.shape[2] == 4 and header.channels == 2:
        pixels = pixels[:, :, [0, 3]]  # OpenCV writes grey three times
    elif header.channels == 3 and pixels.shape[2] in (3, 4):
        pixels = pixels[:, :, [2, 1, 0]]
    elif header.channels == 4 and pixels.shape[2] == 4:
        pixels = pixels[:, :, [2, 1, 0, 3]]
    elif pixels.shape[2] != header.channels:
        raise ImageError(f"cannot read {path}: {pixels.shape[2]} channels of 16 bits are not read here")
    return np.asarray(pixels, np.uint16)


def _divided(pixels: Pixels) -> Pixels:
    """Colours that were multiplied by their alpha, as they are by themselves; black where nothing is seen of them."""
    alpha = pixels[:, :, 3:].astype(np.uint32)
    colours = (pixels[:, :, :3].astype(np.uint32) * 65535 + alpha // 2) // np.maximum(alpha, 1)
    divided: Pixels = np.concatenate((np.minimum(colours, 65535) * (alpha > 0), alpha), axis=2).astype(np.uint16)
    return divided


def _from_cmyk(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    """RGB, and a sentence on how. Pillow has turned the inverted values of Adobe's JPEGs already."""
    from io import BytesIO

    from PIL import ImageCms

    reason = "without a profile"
    if icc:
        try:
            profile = ImageCms.getOpenProfile(BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            reason = "without its profile, which is damaged or not for CMYK"
        else:
            assert converted is not None
            return converted, "converted from CMYK to sRGB by its profile"
    return image.convert("RGB"), f"converted from CMYK to RGB {reason}: colours are approximate"
