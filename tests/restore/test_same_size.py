"""Pictures reduced before the network sees them, and by how much they are: on the samples with the default network."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

import bfsr_edge
from bfsr_edge import images, metrics
from bfsr_edge.cli import main
from bfsr_edge.restore.blur import measure, reduction

Array = npt.NDArray[Any]
Photo = Callable[..., Array]

BLURS = (0.0, 1.5, 3.0, 5.0)
NOISES = (0, 6, 15)


@pytest.fixture(scope="module")
def engine() -> Any:
    return bfsr_edge.load("edge", tile=128)


@pytest.fixture(scope="module")
def truths(samples: Path) -> list[Array]:
    """Parts of the samples at half their size: they are enlarged photographs, and this is how sharp cameras are."""
    pictures = [images.read(samples / "gt" / name).pixels for name in ("hopper.png", "hopper-face.png")]
    halves = [cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in pictures]
    return [np.ascontiguousarray(halves[0][20:276, 100:356]), np.ascontiguousarray(halves[1][40:232, 32:224])]


def degraded(image: Array, blur: float, noise: float, quality: int = 0) -> Array:
    """Blurred by a Gaussian of that sigma, with white noise of that deviation, as JPEG of that quality."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), blur) if blur else image.astype(np.float32)
    noisy = smooth + np.random.default_rng(0).normal(0, noise, image.shape)
    result = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if quality:
        coded = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        result = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return result


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("scale", "reduce"), [(1, 2), (1, 4), (2, 2)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (130, 75), (64, 64), (259, 33)])
def test_a_picture_reduced_first_is_the_network_on_its_means(
    height: int, width: int, scale: int, reduce: int, dtype: Any, nearest: Path, photo: Photo
) -> None:
    """Sides that are no multiple are continued by reflection and cut afterwards; tiles change nothing."""
    image = photo(height, width, 3, dtype)
    padded = np.pad(image, ((0, -height % reduce), (0, -width % reduce), (0, 0)), mode="reflect").astype(np.float64)
    blocks = padded.reshape(padded.shape[0] // reduce, reduce, padded.shape[1] // reduce, reduce, 3).mean(axis=(1, 3))
    expected = blocks.repeat(scale * reduce, 0).repeat(scale * reduce, 1)[: height * scale, : width * scale]
    result = bfsr_edge.restore(image, bfsr_edge.load(nearest), scale=scale, overlap=4, reduce=reduce)
    assert result.shape == (height * scale, width * scale, 3)
    assert np.abs(result - expected).max() <= 0.51


def test_reduced_tiles_join_as_those_of_the_reduced_picture(convolutions: Path, photo: Photo) -> None:
    image = photo(301, 202)
    tiled = bfsr_edge.restore(image, bfsr_edge.load(convolutions), scale=1, overlap=8, reduce=2)
    whole = bfsr_edge.restore(image, bfsr_edge.load(convolutions, tile=(152, 104)), scale=1, reduce=2)
    difference = np.abs(tiled.astype(int) - whole)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_blurred_photographs_gain_and_sharp_ones_do_not_lose(truths: list[Array], engine: Any) -> None:
    """PSNR at the picture's own size against the truth: better than the input, and than without reducing."""
    for blur, (noise, truth) in itertools.product(BLURS, zip((0, 15, 6), (truths[0], *truths), strict=True)):
        given = degraded(truth, blur, noise)
        result = bfsr_edge.restore(given, engine, scale=1)
        if blur == noise == 0:
            np.testing.assert_array_equal(result, given)
            continue
        plain = bfsr_edge.restore(given, engine, scale=1, reduce=1) if blur else result
        before, after, unreduced = (metrics.psnr(image, truth) for image in (given, result, plain))
        told = f"blur {blur}, noise {noise}: {before:.2f} -> {after:.2f} dB, not reduced {unreduced:.2f}"
        print(told)  # pytest -s shows the table
        assert after > before + 1, told
        assert after > unreduced + (0.7 if blur >= 3 else -1), told


@pytest.mark.parametrize("quality", [0, 70])
def test_noise_grain_and_blocks_are_no_detail(quality: int, truths: list[Array]) -> None:
    """The more a picture is blurred the more it bears; noise and JPEG do not make a blurred one sharp."""
    for truth in truths:
        for noise in NOISES[:2] if quality else NOISES:
            steps = [reduction(degraded(truth, blur, noise, quality), 1) for blur in BLURS]
            assert steps == sorted(steps)
            assert steps[0] <= 1
            assert steps[1] in (1, 2, 4)
            assert steps[2] >= 2
            assert steps[3] == 4 or noise == 15
        # grain: noise that is correlated over a pixel or two, as film and demosaicing have it
        grain = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 20, truth.shape).astype(np.float32), (0, 0), 0.8)
        grainy = np.clip(degraded(truth, 4, 0) + grain, 0, 255).astype(np.uint8)
        assert reduction(grainy, 1) >= 2


def test_room_is_left_for_the_scale(truths: list[Array]) -> None:
    blurred = degraded(truths[0], 5, 0)
    assert [reduction(blurred, scale) for scale in (1, 2, 4)] == [4, 2, 1]
    assert reduction(truths[0], 2) == 1  # sharp: never left out where it has to be enlarged


def test_alpha_with_sharp_edges_is_not_reduced(truths: list[Array]) -> None:
    blurred = degraded(truths[0], 5, 0)
    alpha = np.full(blurred.shape[:2], 255, np.uint8)
    assert reduction(np.dstack((blurred, alpha)), 1) == 4
    cv2.circle(alpha, (128, 128), 80, 0, -1, cv2.LINE_AA)
    assert reduction(np.dstack((blurred, alpha)), 1) == 1
    assert reduction(np.dstack((blurred, cv2.GaussianBlur(alpha, (0, 0), 5))), 1) == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_and_sixteen_bits_measure_alike(dtype: Any, truths: list[Array]) -> None:
    grey = cv2.cvtColor(degraded(truths[0], 3, 6), cv2.COLOR_RGB2GRAY)[:, :, None]
    first, other = (
        measure(np.asarray(grey, np.uint8)),
        measure(np.asarray(grey.astype(dtype) * (np.iinfo(dtype).max // 255), dtype)),
    )
    assert first is not None
    assert other is not None
    assert first.lost == pytest.approx(other.lost, rel=1e-3)


@pytest.mark.parametrize("image", [np.zeros((1, 1, 3), np.uint8), np.full((90, 90, 1), 7, np.uint8)])
def test_what_has_no_edges_is_not_reduced(image: Array) -> None:
    assert measure(image) is None
    assert reduction(image, 1) == 1


def test_a_large_picture_is_measured_by_parts_of_it(truths: list[Array]) -> None:
    """Spread over all of it; as much memory and time as a small one takes, and about the same answer."""
    blurred = degraded(truths[0], 3, 6)
    mirrored: Array = np.tile(
        np.block([[[blurred], [blurred[:, ::-1]]], [[blurred[::-1]], [blurred[::-1, ::-1]]]]), (10, 12, 1)
    )
    large, small = measure(np.asarray(mirrored, np.uint8)), measure(blurred)
    assert large is not None
    assert small is not None
    assert large.lost[2] == pytest.approx(small.lost[2], abs=0.05)
    assert measure(np.asarray(mirrored[:, :40], np.uint8)) is not None


@pytest.mark.parametrize(("scale", "reduced"), [(1, 2), (2, 1)])
def test_a_network_that_doubles_is_given_no_more_than_it_makes_up_for(
    scale: int, reduced: int, truths: list[Array], doubling: Path, tmp_path: Path
) -> None:
    images.write(tmp_path / "blurred.png", degraded(truths[0], 5, 0))
    words = ["restore", tmp_path / "blurred.png", "--out", tmp_path / "out", "--model", doubling, "--faces", "off"]
    result = CliRunner().invoke(
        main, [*map(str, words), "--tile", "32", "--overlap", "4", "--scale", str(scale), "--json"]
    )
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)["files"]
    assert entry["reduced"] == reduced
    assert images.probe(tmp_path / "out" / "blurred.png").width == scale * truths[0].shape[1]


def test_the_reduction_is_told(truths: list[Array], tmp_path: Path) -> None:
    images.write(tmp_path / "in" / "blurred.png", degraded(truths[0], 5, 0))
    images.write(tmp_path / "in" / "sharp.png", truths[0])

    def run(*more: str) -> Result:
        words = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--scale", "1", "--faces", "off"]
        return CliRunner().invoke(main, [*words, "--tile", "128", "-v", "--json", *more])

    result = run()
    assert result.exit_code == 0, result.output
    told = {Path(entry["source"]).stem: entry for entry in json.loads(result.stdout)["files"]}
    assert told["blurred"]["reduced"] == 4
    assert told["blurred"]["notes"] == ["so blurred that it was reduced 4 times first"]
    assert "reduced 4 times" in result.stderr
    assert told["sharp"]["reduced"] is None
    assert "so sharp" in told["sharp"]["notes"][0]
    np.testing.assert_array_equal(images.read(tmp_path / "out" / "sharp.png").pixels, truths[0])

    result = run("--reduce", "2")
    told = {Path(entry["source"]).stem: entry for entry in json.loads(result.stdout)["files"]}
    assert [told[name]["reduced"] for name in ("blurred", "sharp")] == [2, 2]
    assert told["blurred"]["reason"].startswith("made anew")
    assert not np.array_equal(images.read(tmp_path / "out" / "sharp.png").pixels, truths[0])
    assert run("--reduce", "8").exit_code == 2
