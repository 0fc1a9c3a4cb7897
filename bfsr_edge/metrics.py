"""How close a result is to the truth: PSNR and SSIM.

Both take two pictures of the same shape, H×W or H×W×C in RGB order, each either uint8 or floating point in [0, 1].
Floating point is rounded and clipped to 8 bits first, as a saved picture would be, so that a network's raw output and
the file made from it score the same. The whole picture counts: no border is cropped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import ImageError

PEAK = 255.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def psnr(result: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels together; ``inf`` for identical pictures.

    ``10 log10(255² / mean squared error)`` on 8-bit values. This is the score of the challenge: mean over pictures of
    each picture's dB, in RGB.

    Raises
    ------
    ImageError
        The shapes differ, or the type is neither uint8 nor floating point.
    """
    a, b = _comparable(result, truth)
    error = float(np.mean(np.square(a - b)))
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(result: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Structural similarity, at most 1: computed on each channel (of RGB, not on luma), then averaged.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004: an 11×11 Gaussian window of σ 1.5, K1 = 0.01, K2 = 0.03, population
    covariance, averaged over the positions where the window fits into the picture. Equal to scikit-image's
    ``structural_similarity(a, b, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``.

    Raises
    ------
    ImageError
        The shapes differ, a side is below 11 pixels, or the type is neither uint8 nor floating point.
    """
    a, b = _comparable(result, truth)
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise ImageError(
            f"SSIM needs pictures of at least {SSIM_WINDOW} × {SSIM_WINDOW} pixels, this one has {_size(a)}",
            fix="compare larger pictures",
        )
    stabiliser_mean, stabiliser_variance = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_a, mean_b = _window(a), _window(b)
    variance_a = _window(a * a) - mean_a * mean_a
    variance_b = _window(b * b) - mean_b * mean_b
    covariance = _window(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + stabiliser_mean) * (2 * covariance + stabiliser_variance)
    denominator = (mean_a**2 + mean_b**2 + stabiliser_mean) * (variance_a + variance_b + stabiliser_variance)
    return float(np.mean(numerator / denominator))


def to_8bit(picture: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """uint8 as it is; floating point in [0, 1] times 255, rounded (half to even) and clipped.

    Raises
    ------
    ImageError
        Any other type, or a value that is not a number.
    """
    if picture.dtype == np.uint8:
        return picture
    if not np.issubdtype(picture.dtype, np.floating):
        raise ImageError(
            f"pictures are compared as uint8 or as floating point in [0, 1], this one is {picture.dtype}",
            fix="convert it to uint8 first",
        )
    if np.isnan(picture).any():
        raise ImageError("the picture holds values that are not numbers (NaN)", fix="look at what produced it")
    return np.clip(np.rint(picture * PEAK), 0, PEAK).astype(np.uint8)


def _comparable(result: npt.NDArray[Any], truth: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], ...]:
    if result.shape != truth.shape:
        raise ImageError(
            f"pictures of different shapes cannot be compared: {_size(result)} and {_size(truth)}",
            why=("one was not enlarged, or by another factor", "one is grey or has transparency"),
        )
    if result.ndim not in (2, 3) or result.size == 0:
        raise ImageError(f"a picture is H×W or H×W×C with at least one pixel, this one is {_size(result)}")
    return to_8bit(result).astype(np.float64), to_8bit(truth).astype(np.float64)


def _window(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gaussian mean around each position where the whole window lies inside."""
    import cv2

    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    margin = SSIM_WINDOW // 2
    blurred = cv2.sepFilter2D(values, cv2.CV_64F, weights, weights)
    return np.asarray(blurred[margin:-margin, margin:-margin], dtype=np.float64)


def _size(picture: npt.NDArray[Any]) -> str:
    return " × ".join(str(side) for side in picture.shape)
