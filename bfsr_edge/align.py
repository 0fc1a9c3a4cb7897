"""Faces in the frame that the networks are trained on: FFHQ's, 512 pixels a side (Karras 2019, arXiv 1812.04948).

A frame is a similarity transform (turn, one scale, shift), so it is undone without loss of shape. Coordinates are as in
``bfsr_edge.detect``: (0, 0) is the outer corner of the first pixel.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import UsageError

FRAME = 512
TEMPLATE = np.array([[190.4, 244.4], [321.4, 241.1], [254.1, 317.4], [201.1, 373.4], [311.8, 370.3]], np.float64)
"""Where ``bfsr_edge.detect`` finds the five landmarks in FFHQ's frame: medians over 100 aligned training faces."""

Matrix = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


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


def crop(image: Pixels, matrix: Matrix, size: int = FRAME) -> Pixels:
    """The frame cut out of a picture.

    A larger face is reduced by area before it is turned, so that nothing aliases. Beyond the picture's edge comes its
    mirrored image.

    Parameters
    ----------
    image
        uint8, H×W×3.
    matrix
        From ``frame``, for the same ``size``.
    size
        Side of the result in pixels.

    Returns
    -------
    uint8, ``size`` × ``size`` × 3, in the picture's channel order.
    """
    import cv2

    matrix = matrix.copy()
    factor = side(matrix, size) / size
    if factor > 1:
        height, width = image.shape[:2]
        small = (max(1, round(width / factor)), max(1, round(height / factor)))
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        matrix[:, :2] *= (width / small[0], height / small[1])
    # OpenCV counts from the centre of the first pixel
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, np.uint8)
