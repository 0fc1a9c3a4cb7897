"""Small pictures of an input and its result, made while the result is written: the whole, and one part in detail.

The rows of a result are seen once and never held: each band is averaged into the small pictures as it passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import images

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

WHOLE = 640
"""Longest side of the whole picture, in pixels."""
DETAIL = 480
"""Side of the part in detail, in pixels of the result."""
FACE_ROOM = 1.7
"""The part in detail is so many times as large as the face that it shows."""
SEARCH = 256
"""Longest side of the picture in which a part with much to see is looked for."""
QUALITY = 85
ROWS = 128
"""Averaged at a time."""
WHITE = 255


@dataclass(frozen=True)
class Pair:
    """The same part of a picture before and after, as JPEG in sRGB."""

    before: bytes
    """Of its own size where that is small: the viewer enlarges it."""
    after: bytes
    size: tuple[int, int]
    """Width and height of ``after``, in pixels."""


@dataclass(frozen=True)
class Window:
    """A part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def times(self, scale: int) -> Window:
        """The same part of the picture enlarged."""
        return Window(self.left * scale, self.top * scale, self.width * scale, self.height * scale)

    def fitted(self, side: int) -> tuple[int, int]:
        """Width and height at which its longer side is at most that long."""
        factor = min(1.0, side / max(self.width, self.height))
        return max(1, round(self.width * factor)), max(1, round(self.height * factor))


class Average:
    """A part of a picture reduced by area: the exact mean over each cell, from bands of rows of any height.

    Parameters
    ----------
    window
        The part.
    size
        Width and height that it is reduced to, neither larger than it is.
    channels
        Of the bands: H×W×C, uint8 or uint16.
    """

    def __init__(self, window: Window, size: tuple[int, int], channels: int) -> None:
        self._window, self._size = window, size
        self._sum = np.zeros((size[1], size[0], channels), np.float32)
        self._row = 0

    def add(self, band: images.Pixels) -> None:
        """The next rows of the whole picture."""
        for first in range(0, len(band), ROWS):
            self._add(band[first : first + ROWS])

    def _add(self, band: images.Pixels) -> None:
        window, first = self._window, self._row
        self._row += len(band)
        top, bottom = max(first, window.top), min(self._row, window.top + window.height)
        if top >= bottom:
            return
        part = band[top - first : bottom - first, window.left : window.left + window.width]
        rows = _narrowed(part, self._size[0])
        ratio = window.height / self._size[1]
        at = np.arange(top - window.top, bottom - window.top)
        cells = np.arange(int(at[0] / ratio), min(self._size[1], int(np.ceil((at[-1] + 1) / ratio))))
        ends = np.minimum((cells[:, None] + 1) * ratio, at + 1)
        share = np.clip(ends - np.maximum(cells[:, None] * ratio, at), 0, None) / ratio
        peak = np.iinfo(band.dtype).max
        self._sum[cells] += np.tensordot((share * (WHITE / peak)).astype(np.float32), rows, 1)

    def result(self) -> npt.NDArray[np.uint8]:
        """RGB or grey, uint8 H×W×C, alpha over white."""
        pixels = self._sum
        if pixels.shape[2] in (2, 4):
            alpha = pixels[:, :, -1:] / WHITE
            pixels = np.asarray(pixels[:, :, :-1] * alpha + WHITE * (1 - alpha), np.float32)
        return np.clip(np.rint(pixels), 0, WHITE).astype(np.uint8)


def _narrowed(part: images.Pixels, width: int) -> npt.NDArray[np.float32]:
    """Each row by itself reduced to that width."""
    if part.shape[1] == width:
        return part.astype(np.float32)
    # OpenCV drops the axis of a single channel
    reduced = cv2.resize(part, (width, len(part)), interpolation=cv2.INTER_AREA).reshape(len(part), width, -1)
    return np.asarray(reduced, np.float32)


class Look:
    """What the report shows of one picture. Bands of the result go in from top to bottom.

    Parameters
    ----------
    picture
        The input.
    scale
        The result is so many times as large.
    faces
        Boxes in pixels of the input: the largest is what is shown in detail. Without any it is the part with the
        strongest edges.
    """

    def __init__(self, picture: images.Picture, scale: int, faces: Sequence[Box] = ()) -> None:
        height, width, channels = picture.pixels.shape
        self._icc = picture.metadata.icc
        whole = Window(0, 0, width, height)
        shown = [(whole, WHOLE)]
        if max(width, height) * scale > WHOLE:  # else the whole is shown pixel by pixel
            shown.append((detail_of(picture.pixels, scale, faces), DETAIL))
        self._pairs: list[tuple[bytes, Average]] = []
        for window, side in shown:
            large = window.times(scale)
            size = large.fitted(side)
            before = Average(window, (min(size[0], window.width), min(size[1], window.height)), channels)
            before.add(picture.pixels)
            self._pairs.append((_jpeg(before.result(), self._icc), Average(large, size, channels)))

    def add(self, band: images.Pixels) -> None:
        """The next rows of the result."""
        for _, after in self._pairs:
            after.add(band)

    def pairs(self) -> list[Pair]:
        """The whole, then the part in detail where the whole does not show every pixel."""
        made = []
        for before, average in self._pairs:
            after = average.result()
            made.append(Pair(before, _jpeg(after, self._icc), (after.shape[1], after.shape[0])))
        return made


def look_at(picture: images.Picture, result: images.Picture, faces: Sequence[Box] = ()) -> list[Pair]:
    """The same of a result that is finished; both in memory."""
    look = Look(picture, max(1, result.pixels.shape[0] // picture.pixels.shape[0]), faces)
    look.add(result.pixels)
    return look.pairs()


def face_pair(before: images.Picture, after: images.Picture, side: int) -> Pair:
    """Two pictures of one face, reduced to that many pixels where they are larger."""
    small = []
    for picture in (before, after):
        height, width, channels = picture.pixels.shape
        window = Window(0, 0, width, height)
        average = Average(window, window.fitted(side), channels)
        average.add(picture.pixels)
        small.append(average.result())
    return Pair(
        _jpeg(small[0], before.metadata.icc),
        _jpeg(small[1], after.metadata.icc),
        (small[1].shape[1], small[1].shape[0]),
    )


def detail_of(pixels: images.Pixels, scale: int, faces: Sequence[Box] = ()) -> Window:
    """The part of an input that is worth a closer look: about its largest face, or where edges are strongest."""
    height, width = pixels.shape[:2]
    side = -(-DETAIL // scale)
    if faces:
        left, top, right, bottom = max(faces, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        side = max(side, round(FACE_ROOM * max(right - left, bottom - top)))
        centre = ((left + right) / 2, (top + bottom) / 2)
    else:
        centre = _busiest(pixels, side)
    wide, high = min(side, width), min(side, height)
    at = [
        int(np.clip(round(middle - size / 2), 0, whole - size))
        for middle, size, whole in ((centre[0], wide, width), (centre[1], high, height))
    ]
    return Window(at[0], at[1], wide, high)


def _busiest(pixels: images.Pixels, side: int) -> tuple[float, float]:
    """Centre of the square of that side with the strongest edges."""
    height, width = pixels.shape[:2]
    whole = Window(0, 0, width, height)
    size = whole.fitted(SEARCH)
    average = Average(whole, size, pixels.shape[2])
    average.add(pixels)
    grey = average.result().mean(axis=2, dtype=np.float32)
    strength = np.zeros_like(grey)
    strength[:, 1:] += np.abs(np.diff(grey, axis=1))
    strength[1:] += np.abs(np.diff(grey, axis=0))
    factor = (size[0] / width, size[1] / height)
    wide, high = (int(np.clip(round(side * f), 1, limit)) for f, limit in zip(factor, size, strict=True))
    total = np.pad(strength.cumsum(0, np.float64).cumsum(1), ((1, 0), (1, 0)))
    inside = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return (float(left) + wide / 2) / factor[0], (float(top) + high / 2) / factor[1]


def _jpeg(pixels: npt.NDArray[np.uint8], icc: bytes | None) -> bytes:
    from PIL import Image

    image: Any = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    image = _in_srgb(image, icc)
    file = BytesIO()
    # full colour resolution: what was before is enlarged by the viewer, and must not look worse than it was
    image.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return file.getvalue()


def _in_srgb(image: Any, icc: bytes | None) -> Any:
    """The same colours without a profile, which may be larger than the picture; as it is where the profile is odd."""
    from PIL import ImageCms

    if icc:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            profile = ImageCms.getOpenProfile(BytesIO(icc))
            return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    return image
