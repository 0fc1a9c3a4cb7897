"""Restored faces into the restored picture, a band of rows at a time.

Each face lies in its aligned frame of 512 pixels; only the rows and columns that it touches in a band are warped, so
memory does not grow with the picture. A smooth mask lets nothing of the frame's border show: it is 1 on the face and
falls to 0 inside the frame. Where masks overlap, each face counts by the square of its mask, so that every point comes
mostly from the face that it belongs to, in whatever order they were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge.align import FRAME, Matrix, inverse

Float = npt.NDArray[np.float32]

CENTRE = (256.0, 272.0)
"""Of the mask, in pixels of the frame: x, y."""
CORE = (150.0, 176.0)
"""Half axes of the ellipse inside of which the mask is 1."""
REACH = (236.0, 236.0)
"""Half axes of the ellipse outside of which it is 0."""


@dataclass(frozen=True)
class Patch:
    """One restored face."""

    pixels: npt.NDArray[np.uint16]
    """Its frame, n×n×3, RGB; n is ``FRAME``, or less where the result shows it smaller."""
    matrix: Matrix
    """From the input picture to the frame of ``FRAME`` pixels, 2×3; coordinates as in ``bfsr_edge.align``."""
    whole: bool = False
    """The frame is all of the picture: it is pasted without a mask."""


def mask_at(x: Float, y: Float) -> Float:
    """How much of the restored face is taken at points of the frame: 0 to 1, with a continuous slope."""
    inner = np.hypot((x - CENTRE[0]) / CORE[0], (y - CENTRE[1]) / CORE[1])
    outer = np.hypot((x - CENTRE[0]) / REACH[0], (y - CENTRE[1]) / REACH[1])
    # along each ray from the centre: 0 on the inner ellipse, 1 on the outer one
    outer, inner = np.maximum(outer, 1e-6), np.maximum(inner, 1)
    along = np.clip((1 - 1 / inner) / np.maximum(1 / outer - 1 / inner, 1e-6), 0, 1)
    return np.asarray(1 - along * along * (3 - 2 * along), np.float32)


class Paster:
    """Puts faces into the result; called by ``array.finish`` with each band of rows.

    Parameters
    ----------
    patches
        The faces, in any order.
    scale
        Size of the result relative to the input.
    strength
        0 to 1: how much of the restored face is blended in.
    """

    def __init__(self, patches: Sequence[Patch], scale: int, strength: float = 1.0) -> None:
        self._places = [_Place(patch, scale) for patch in patches]
        self._strength = np.float32(strength)

    def __call__(self, planes: list[Float], top: int) -> None:
        """Change R, G and B of some rows, in place; ``top`` is the number of the first."""
        rows, width = planes[0].shape
        touched = [place for place in self._places if place.top < top + rows and place.bottom > top]
        for left, right, group in _groups(touched, width):
            self._paste([plane[:, left:right] for plane in planes], group, top, left)

    def _paste(self, planes: list[Float], group: list[_Place], top: int, left: int) -> None:
        """Faces whose columns overlap, into that part of a band."""
        shape = planes[0].shape
        free, total = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        colours = np.zeros((*shape, 3), np.float32)
        for place in group:
            mask, pixels = place.warp(shape, top, left)
            free *= 1 - mask
            mask *= mask
            total += mask
            pixels *= mask[:, :, None]
            colours += pixels
        share = (1 - free) * self._strength
        colours /= np.maximum(total, 1e-12)[:, :, None]
        for channel, plane in enumerate(planes):
            plane += share * (colours[:, :, channel] - plane)


class _Place:
    """Where a patch comes to lie in the result."""

    def __init__(self, patch: Patch, scale: int) -> None:
        self._patch = patch
        # from the result to the frame, and to the pixels of the patch
        self._to_frame = patch.matrix.copy()
        self._to_frame[:, :2] /= scale
        side = patch.pixels.shape[0]
        self._to_pixels = self._to_frame * (side / FRAME)
        back = inverse(self._to_frame)
        corners = np.array([(0, 0), (FRAME, 0), (0, FRAME), (FRAME, FRAME)]) @ back[:, :2].T + back[:, 2]
        self.left, self.top = (int(edge) for edge in np.floor(corners.min(0)))
        self.right, self.bottom = (int(edge) for edge in np.ceil(corners.max(0)))

    def warp(self, shape: tuple[int, int], top: int, left: int) -> tuple[Float, Float]:
        """The mask, h×w, and the colours, h×w×3 in [0, 1], of a part of the result that begins there."""
        height, width = shape
        if self._patch.whole:
            mask = np.ones(shape, np.float32)
        else:
            x = np.arange(left, left + width, dtype=np.float32) + np.float32(0.5)
            y = np.arange(top, top + height, dtype=np.float32)[:, None] + np.float32(0.5)
            (a, b, c), (d, e, f) = self._to_frame.astype(np.float32)
            mask = mask_at(a * x + b * y + c, d * x + e * y + f)
        matrix = self._to_pixels.copy()
        # OpenCV counts from the centre of the first pixel
        matrix[:, 2] += matrix[:, :2] @ (left + 0.5, top + 0.5) - 0.5
        warped = cv2.warpAffine(
            self._patch.pixels,
            matrix,
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return mask, np.multiply(warped, np.float32(1 / 65535), dtype=np.float32)


def _groups(places: list[_Place], width: int) -> Iterator[tuple[int, int, list[_Place]]]:
    """Places that share columns, with the columns that they cover."""
    group: list[_Place] = []
    for place in sorted(places, key=lambda each: each.left):
        if place.left >= width or place.right <= 0:
            continue
        if group and place.left >= max(each.right for each in group):
            yield max(0, group[0].left), min(width, max(each.right for each in group)), group
            group = []
        group.append(place)
    if group:
        yield max(0, group[0].left), min(width, max(each.right for each in group)), group
