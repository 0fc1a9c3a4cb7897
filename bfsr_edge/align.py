"""Faces in the frame that the networks are trained on: FFHQ's, 512 pixels a side (Karras 2019, arXiv 1812.04948).

A frame is a similarity transform (turn, one scale, shift), so it is undone without loss of shape. Coordinates are as in
``bfsr_edge.detect``: (0, 0) is the outer corner of the first pixel.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import UsageError

FRAME = 512
TEMPLATE = np.array([[190.4, 244.4], [321.4, 241.1], [254.1, 317.4], [201.1, 373.4], [311.8, 370.3]], np.float64)
"""Where ``bfsr_edge.detect`` finds the five landmarks in FFHQ's frame: medians over 100 aligned training faces."""

Matrix = npt.NDArray[np.float64]
Depth = TypeVar("Depth", np.uint8, np.uint16)
Float = npt.NDArray[np.float32]


def frame(landmarks: npt.NDArray[np.floating], size: int = FRAME) -> Matrix:
    """The similarity transform from picture to frame that brings five landmarks closest to the template.

    Parameters
    ----------
    landmarks
        5×2, in pixels of the picture, in the order of ``bfsr_edge.detect.Face``.
    size
        Side of the frame in pixels.

    Returns
    -------
    2×3 matrix: frame = matrix[:, :2] @ (x, y) + matrix[:, 2]. Least squares over all five points.

    Raises
    ------
    UsageError
        They are no five points, or all lie in one place.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != TEMPLATE.shape or not np.isfinite(points).all():
        raise UsageError(f"a face is aligned by five landmarks, 5×2; these are {points.shape}")
    target = TEMPLATE * (size / FRAME)
    # as complex numbers a similarity is z -> a z + b, and the least squares have a closed form
    source, goal = points @ (1, 1j), target @ (1, 1j)
    centred = source - source.mean()
    spread = float(np.sum(np.abs(centred) ** 2))
    if spread < 1e-6:
        raise UsageError("the landmarks of the face lie in one place, so it has no frame")
    turn = np.sum(np.conj(centred) * (goal - goal.mean())) / spread
    shift = goal.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def inverse(matrix: Matrix) -> Matrix:
    """The transform back, from frame to picture, 2×3."""
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])


def side(matrix: Matrix, size: int = FRAME) -> float:
    """How many pixels of the picture one side of the frame spans: below ``size``, the face is enlarged."""
    return size / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))


def crop(image: npt.NDArray[Depth], matrix: Matrix, size: int = FRAME) -> npt.NDArray[Depth]:
    """The frame cut out of a picture.

    A larger face is reduced by area before it is turned, so that nothing aliases. Beyond the picture's edge comes its
    mirrored image. Only what the frame covers is looked at, however large the picture is.

    Parameters
    ----------
    image
        uint8 or uint16, H×W×C.
    matrix
        From ``frame``, for the same ``size``.
    size
        Side of the result in pixels.

    Returns
    -------
    The picture's type and channels, ``size`` × ``size`` × C.
    """
    cut = _cut(image, matrix, size)
    return np.clip(np.rint(cut), 0, np.iinfo(image.dtype).max).astype(image.dtype)


def crop_deep(image: npt.NDArray[Any], matrix: Matrix, size: int = FRAME) -> npt.NDArray[np.uint16]:
    """As ``crop``, in 16 bits: 255 becomes 65535, and what interpolation finds between two values of 8 bits is kept."""
    cut = _cut(image, matrix, size) * np.float32(65535 / np.iinfo(image.dtype).max)
    return np.asarray(np.clip(np.rint(cut), 0, 65535), np.uint16)


def _cut(image: npt.NDArray[Any], matrix: Matrix, size: int) -> Float:
    import cv2

    factor = max(1.0, side(matrix, size) / size)
    left, top, right, bottom = _region(matrix, size, 4 * factor, image.shape[1], image.shape[0])
    part = np.asarray(image[top:bottom, left:right], np.float32)
    matrix = matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ (left, top)
    if factor > 1:
        height, width = part.shape[:2]
        small = (max(1, round(width / factor)), max(1, round(height / factor)))
        part = np.asarray(cv2.resize(part, small, interpolation=cv2.INTER_AREA), np.float32)
        matrix[:, :2] *= (width / small[0], height / small[1])
    # one row or column cannot be mirrored, and OpenCV would try for ever
    missing = [(0, 1 if length == 1 else 0) for length in part.shape[:2]]
    part = np.pad(part.reshape(*part.shape[:2], -1), (*missing, (0, 0)), mode="edge")
    # OpenCV counts from the centre of the first pixel
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    warped = cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, np.float32).reshape(size, size, image.shape[2])


def _region(matrix: Matrix, size: int, margin: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what a crop looks at: the frame, a margin, and what is mirrored beyond an edge."""
    back = inverse(matrix)
    corners = np.array([(0, 0), (size, 0), (0, size), (size, size)]) @ back[:, :2].T + back[:, 2]
    found = []
    for low, high, length in zip(corners.min(0) - margin, corners.max(0) + margin, (width, height), strict=True):
        # what lies beyond one edge is the mirrored picture inside of it
        first = int(np.clip(min(np.floor(low), 2 * length - np.ceil(high)), 0, length - 1))
        last = int(np.clip(max(np.ceil(high), -np.floor(low)), first + 1, length))
        found.append((first, last))
    (left, right), (top, bottom) = found
    return left, top, right, bottom
