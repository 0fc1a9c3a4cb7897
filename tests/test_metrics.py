"""PSNR and SSIM against scikit-image 0.26, whose figures are written down here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bfsr_edge.errors import ImageError
from bfsr_edge.metrics import psnr, ssim, to_8bit

Picture = NDArray[np.uint8]


def picture(height: int, width: int) -> Picture:
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * 7 + y * 3) % 256, (x * x // 5 + y * 11) % 256, 128 + 100 * np.sin(x / 6) * np.cos(y / 9)]
    return np.stack(channels, -1).astype(np.uint8)


def disturbed(truth: Picture, amplitude: int) -> Picture:
    y, x, channel = np.indices(truth.shape)
    noise = (x * 31 + y * 17 + channel * 13) % (2 * amplitude + 1) - amplitude
    return np.asarray(np.clip(truth.astype(int) + noise, 0, 255), np.uint8)


# height, width, amplitude; peak_signal_noise_ratio(a, b); structural_similarity(a, b, data_range=255, channel_axis=-1,
# gaussian_weights=True, sigma=1.5, use_sample_covariance=False); the same of the first channel alone
GOLDEN = [
    (48, 64, 5, 38.17018879848513, 0.981049572256449, 0.9754887381982646),
    (33, 11, 40, 20.944787925608765, 0.4939103051756429, 0.37236580222145077),
    (96, 96, 90, 14.445140175096087, 0.3386170079331352, 0.2647430109708893),
]


@pytest.mark.parametrize(("height", "width", "amplitude", "decibels", "similarity", "of_red"), GOLDEN)
def test_golden(height: int, width: int, amplitude: int, decibels: float, similarity: float, of_red: float) -> None:
    truth = picture(height, width)
    result = disturbed(truth, amplitude)
    assert psnr(result, truth) == pytest.approx(decibels, abs=1e-9)
    assert ssim(result, truth) == pytest.approx(similarity, abs=1e-9)
    assert ssim(result[..., 0], truth[..., 0]) == pytest.approx(of_red, abs=1e-9)
    assert ssim(truth, result) == pytest.approx(similarity, abs=1e-9)


def test_identical() -> None:
    truth = picture(20, 30)
    assert psnr(truth, truth) == math.inf
    assert ssim(truth, truth) == 1


def test_a_known_error() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black, black + 255) == 0
    assert psnr(black, black + 1) == pytest.approx(48.130803608679)


def test_raw_output_scores_as_the_file_would() -> None:
    truth = picture(16, 16)
    raw = truth.astype(np.float32) / 255 + np.float32(0.4 / 255)  # rounds back
    raw[0, 0] = [-3, 0, 7]  # clips
    saved = truth.copy()
    saved[0, 0] = [0, 0, 255]
    assert np.array_equal(to_8bit(raw), saved)
    assert psnr(raw, truth) == psnr(saved, truth)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("result", "truth", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8), "16 × 16 × 3 and 16 × 16"),
        (np.zeros((16, 16, 3), np.uint16), np.zeros((16, 16, 3), np.uint16), "uint16"),
        (np.full((16, 16, 3), np.nan), np.zeros((16, 16, 3)), "NaN"),
        (np.zeros((0, 16, 3), np.uint8), np.zeros((0, 16, 3), np.uint8), "0 × 16 × 3"),
    ],
)
def test_refused(metric: Callable[..., float], result: NDArray[Any], truth: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        metric(result, truth)


def test_ssim_needs_room_for_its_window() -> None:
    small = np.zeros((10, 11, 3), np.uint8)
    with pytest.raises(ImageError, match="at least 11"):
        ssim(small, small)
