"""Arrays in, arrays out: kinds of pictures, scales, tiled against whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import bfsr_edge
from bfsr_edge.errors import BackendError, UsageError
from bfsr_edge.restore.array import restore_array

Array = npt.NDArray[Any]
Photo = Callable[..., Array]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (40, 56), (32, 32), (90, 33)])
def test_colours_and_grey_keep_their_kind(
    height: int, width: int, channels: int, dtype: Any, nearest: Path, photo: Photo
) -> None:
    image = photo(height, width, channels, dtype)
    result = bfsr_edge.restore(image, bfsr_edge.load(nearest), overlap=4)
    np.testing.assert_array_equal(result, image.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_alpha_is_enlarged_bicubically(scale: int, channels: int, dtype: Any, nearest: Path, photo: Photo) -> None:
    image = photo(90, 56, channels, dtype)
    result = restore_array(image, bfsr_edge.load(nearest), scale=scale, overlap=4)
    size = (56 * scale, 90 * scale)
    alpha = np.ascontiguousarray(image[:, :, -1])
    np.testing.assert_array_equal(result[:, :, -1], cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC))
    np.testing.assert_array_equal(result[:, :, :-1], image[:, :, :-1].repeat(scale, 0).repeat(scale, 1))


def test_grey_without_a_channel_axis_stays_so(nearest: Path, photo: Photo) -> None:
    image = photo(channels=1)[:, :, 0]
    assert restore_array(image, bfsr_edge.load(nearest), overlap=4).shape == (160, 224)


@pytest.mark.parametrize("scale", [1, 2])
def test_smaller_scales_are_the_whole_reduced_by_area(scale: int, convolutions: Path, photo: Photo) -> None:
    image = photo(130, 75, 3, np.uint16)
    engine = bfsr_edge.load(convolutions)
    batch = (image.transpose(2, 0, 1)[None] / np.float32(65535)).astype(np.float32)
    whole = bfsr_edge.load(convolutions, tile=(132, 76))
    padded = np.pad(batch, ((0, 0), (0, 0), (0, 2), (0, 1)), mode="reflect")
    large = whole.run(padded)[0, :, : 130 * 4, : 75 * 4].transpose(1, 2, 0)
    reduced = cv2.resize(large, (75 * scale, 130 * scale), interpolation=cv2.INTER_AREA)
    expected = np.rint(np.clip(reduced, 0, 1) * 65535)
    result = restore_array(image, engine, scale=scale, overlap=8)
    assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("offset", [0, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiled_equals_whole(offset: int, batch: int, convolutions: Path, photo: Photo) -> None:
    image = photo(128, 160)
    tiled = restore_array(image, bfsr_edge.load(convolutions), overlap=8, batch=batch, offset=offset)
    whole = restore_array(image, bfsr_edge.load(convolutions, tile=(128, 160)))
    difference = np.abs(tiled.astype(int) - whole)
    assert difference.max() <= 1  # rounding of floats just at one half
    assert difference.mean() < 0.01


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=["float", "5 channels", "empty", "1-D"],
)
def test_what_is_no_picture_is_refused(image: Array, nearest: Path) -> None:
    with pytest.raises(UsageError):
        restore_array(image, bfsr_edge.load(nearest))


def test_options_that_do_not_fit_the_engine_are_refused(nearest: Path, photo: Photo) -> None:
    engine = bfsr_edge.load(nearest)
    with pytest.raises(UsageError, match="scale 3"):
        restore_array(photo(), engine, scale=3)
    with pytest.raises(UsageError, match="overlap of 16"):
        restore_array(photo(), engine, overlap=16)


def test_nan_is_an_error(broken: Path, photo: Photo) -> None:
    with pytest.raises(BackendError, match="NaN"):
        restore_array(np.full((40, 40, 3), 255, np.uint8), bfsr_edge.load(broken), overlap=4)


def test_the_public_face_is_what_it_says() -> None:
    errors = {"BackendError", "BfsrError", "ImageError", "ModelError", "TrainingError", "UsageError"}
    assert set(bfsr_edge.__all__) == errors | {"__version__", "load", "restore"}
    assert all(hasattr(bfsr_edge, name) for name in bfsr_edge.__all__)
