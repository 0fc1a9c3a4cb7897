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
from bfsr_edge import images
from bfsr_edge.errors import BackendError, UsageError
from bfsr_edge.restore.array import ALPHA_REACH
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.picture import restore_picture
from bfsr_edge.restore.transparency import spread

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
def test_alpha_goes_through_the_network(scale: int, channels: int, dtype: Any, nearest: Path, photo: Photo) -> None:
    image = photo(90, 56, channels, dtype)
    result = bfsr_edge.restore(image, bfsr_edge.load(nearest), scale=scale, overlap=4, reduce=1)
    # what is invisible takes a visible colour first: test_transparency.py
    np.testing.assert_array_equal(result, spread(image).repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("scale", "reduce"), [(4, 1), (2, 1), (2, 2), (1, 2), (1, 4)])
def test_alpha_stays_exactly_what_it_is_where_it_does_not_change(
    scale: int, reduce: int, dtype: Any, convolutions: Path, photo: Photo
) -> None:
    """And nowhere does it leave the range of what lies around: no halo beside an edge."""
    image, peak = photo(130, 91, 4, dtype), np.iinfo(dtype).max
    image[:, :, 3] = 0
    image[40:, 30:, 3] = peak
    image[:, 70:, 3] = peak // 3
    result = bfsr_edge.restore(image, bfsr_edge.load(convolutions), scale=scale, overlap=8, reduce=reduce)[:, :, 3]
    near = np.ones((2 * ALPHA_REACH * reduce + 1,) * 2, np.uint8)
    least = cv2.erode(image[:, :, 3], near).repeat(scale, 0).repeat(scale, 1)
    most = cv2.dilate(image[:, :, 3], near).repeat(scale, 0).repeat(scale, 1)
    assert ((least <= result) & (result <= most)).all()
    constant = least == most
    assert 0.5 < constant.mean() < 1
    assert set(np.unique(result[constant])) == {0, peak // 3, peak}
    assert len(np.unique(result[~constant])) > 3  # the network did run there


class Counting:
    """A network that counts the tiles it was given."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.info, self.tiles, self.largest = engine, engine.info, 0, 0

    def run(self, batch: Array, /) -> Array:
        self.tiles += len(batch)
        self.largest = max(self.largest, len(batch))
        return np.asarray(self.engine.run(batch))


@pytest.mark.parametrize("batch", [1, 3])
def test_only_tiles_whose_alpha_changes_are_run_for_it(batch: int, nearest: Path, photo: Photo) -> None:
    engine, image = Counting(bfsr_edge.load(nearest)), photo(90, 90, 4)
    restore_picture(image[:, :, :3], engine, Options(overlap=4, batch=batch))
    colours = engine.tiles
    counts = []
    for left in (90, 70, 0):  # the same everywhere, an edge in the last tiles of each row, an edge at the very border
        image[:, :, 3] = 255
        image[:, left:, 3] = 128
        image[:, :1, 3] = image[:, :1, 3] if left else 7
        engine.tiles = 0
        result = restore_picture(image, engine, Options(overlap=4, batch=batch))
        np.testing.assert_array_equal(result, image.repeat(4, 0).repeat(4, 1))
        counts.append(engine.tiles - colours)
    rows = round(colours**0.5)
    assert counts[0] == 0
    assert counts[1:] == [rows, rows]
    assert engine.largest == batch


def test_alpha_becomes_sharper_than_interpolated(samples: Path) -> None:
    """A matte as cut-outs have it, of half of the samples' size, against the true one."""
    y, x = np.mgrid[:384, :384]
    angle = np.arctan2(y - 190, x - 200)
    true = np.clip((130 + 25 * np.sin(5 * angle) - np.hypot(y - 190, x - 200)) * 128 + 128, 0, 255).astype(np.uint8)
    colours = images.read(samples / "lq" / "hopper-face.png").pixels[:96, :96]
    alpha = cv2.resize(true, (96, 96), interpolation=cv2.INTER_AREA)
    result = bfsr_edge.restore(np.dstack((colours, alpha)), bfsr_edge.load("edge", tile=96))[:, :, 3]
    interpolated = cv2.resize(alpha, (384, 384), interpolation=cv2.INTER_CUBIC)
    errors = [float(np.mean((made.astype(float) - true) ** 2)) for made in (result, interpolated)]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("image", [None, [[1, 2]], "a.png"])
def test_what_is_no_array_is_refused(image: Any, nearest: Path) -> None:
    with pytest.raises(UsageError, match="a picture is a NumPy array"):
        bfsr_edge.restore(image, bfsr_edge.load(nearest))


def test_grey_without_a_channel_axis_stays_so(nearest: Path, photo: Photo) -> None:
    image = photo(channels=1)[:, :, 0]
    assert bfsr_edge.restore(image, bfsr_edge.load(nearest), overlap=4).shape == (160, 224)


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
    result = bfsr_edge.restore(image, engine, scale=scale, overlap=8, reduce=1)
    assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("offset", [0, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiled_equals_whole(offset: int, batch: int, convolutions: Path, photo: Photo) -> None:
    image = photo(128, 160)
    tiled = restore_picture(image, bfsr_edge.load(convolutions), Options(overlap=8, batch=batch, offset=offset))
    whole = bfsr_edge.restore(image, bfsr_edge.load(convolutions, tile=(128, 160)))
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
        bfsr_edge.restore(image, bfsr_edge.load(nearest))


def test_options_that_do_not_fit_the_engine_are_refused(nearest: Path, photo: Photo) -> None:
    engine = bfsr_edge.load(nearest)
    with pytest.raises(UsageError, match="reduce 4 does not go with scale 2"):
        bfsr_edge.restore(photo(), engine, scale=2, reduce=4)
    with pytest.raises(UsageError, match="reduce 3"):
        bfsr_edge.restore(photo(), engine, scale=1, reduce=3)
    with pytest.raises(UsageError, match="scale 3"):
        bfsr_edge.restore(photo(), engine, scale=3)
    with pytest.raises(UsageError, match="overlap of 16"):
        bfsr_edge.restore(photo(), engine, overlap=16)


def test_nan_is_an_error(broken: Path, photo: Photo) -> None:
    with pytest.raises(BackendError, match="NaN"):
        bfsr_edge.restore(np.full((40, 40, 3), 255, np.uint8), bfsr_edge.load(broken), overlap=4)


def test_the_public_face_is_what_it_says() -> None:
    errors = {"BackendError", "BfsrError", "ImageError", "ModelError", "TrainingError", "UsageError"}
    assert set(bfsr_edge.__all__) == errors | {"__version__", "load", "restore"}
    assert all(hasattr(bfsr_edge, name) for name in bfsr_edge.__all__)
