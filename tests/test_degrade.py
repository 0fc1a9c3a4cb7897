"""The blind degradation: reproducible, inside its ranges, and like the challenge's."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bfsr_edge import degrade, images
from bfsr_edge.cli import main
from bfsr_edge.errors import UsageError
from bfsr_edge.evaluate import bicubic
from bfsr_edge.metrics import psnr

Byte = NDArray[np.uint8]


def picture(height: int = 64, width: int = 64) -> Byte:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@given(st.integers(0, 2**32), st.sampled_from(sorted(degrade.SEVERITIES)))
def test_draws_stay_in_their_ranges(seed: int, severity: str) -> None:
    ranges = degrade.SEVERITIES[severity]
    drawn = degrade.draw(np.random.default_rng(seed), ranges)
    assert ranges.sigma[0] <= drawn.sigma_x <= ranges.sigma[1]
    assert ranges.sigma[0] <= drawn.sigma_y <= ranges.sigma[1]
    assert ranges.resize[0] <= drawn.resize <= ranges.resize[1]
    assert ranges.noise[0] <= drawn.noise * 255 <= ranges.noise[1] + 1e-9
    assert ranges.quality[0] <= drawn.quality <= ranges.quality[1]


def test_half_of_the_kernels_are_isotropic_and_all_modes_and_qualities_come_up() -> None:
    rng = np.random.default_rng(1)
    draws = [degrade.draw(rng) for _ in range(2000)]
    assert 0.45 < np.mean([d.sigma_x == d.sigma_y for d in draws]) < 0.55
    assert {d.down for d in draws} == {d.up for d in draws} == {0, 1, 2}
    assert {d.quality for d in draws} == set(range(50, 96))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12))
def test_same_seed_same_picture_a_quarter_of_the_size(seed: int, rows: int, columns: int) -> None:
    image = picture(96, 96)[: rows * 8, : columns * 8]
    low, drawn = degrade.degrade(np.ascontiguousarray(image), seed)
    assert low.shape == (rows * 2, columns * 2, 3)
    assert low.dtype == np.uint8
    again, same = degrade.degrade(np.ascontiguousarray(image), seed)
    assert drawn == same
    assert np.array_equal(low, again)


@pytest.mark.parametrize("sigmas", [(0.2, 0.2), (1.0, 1.0), (5.0, 5.0), (0.2, 5.0), (3.0, 1.0)])
def test_the_short_blur_equals_the_whole_kernel(sigmas: tuple[float, float]) -> None:
    drawn = degrade.Degradation(*sigmas, 0.7, 1.0, 0, 0.0, 90, 0, 0)
    image = (picture() / 255).astype(np.float32)
    whole = cv2.filter2D(image, -1, degrade.blur_kernel(*sigmas, 0.7).astype(np.float32))
    assert np.abs(degrade.blur(image, drawn) - whole).max() < 2e-5


def test_kernel_is_normalised_turned_by_the_angle_and_separable_when_round() -> None:
    kernel = degrade.blur_kernel(4.0, 1.0, np.pi / 2)
    assert kernel.sum() == pytest.approx(1)
    assert kernel[20 + 4, 20] > 10 * kernel[20, 20 + 4], "the long axis should stand upright"
    round_one = degrade.blur_kernel(2.0, 2.0, 1.0)
    assert np.linalg.matrix_rank(round_one, tol=1e-10) == 1


def test_jpeg_exchanges_red_and_blue_as_the_reference_does() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, ::2, 0] = 255  # a fine red pattern: its chroma is averaged, its luma kept
    ours = degrade.jpeg(red, 95)
    luma_of_blue = 0.114 * 255
    assert abs(float(ours[:, ::2].astype(float).sum(2).mean()) / 3 - luma_of_blue) < 60
    straight = degrade.jpeg(np.ascontiguousarray(red[:, :, ::-1]), 95)[:, :, ::-1]
    assert psnr(straight, red) > psnr(ours, red) + 1, "red pays, because it is coded as blue"


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be degraded by 4"):
        degrade.degrade(np.zeros((10, 12, 3), np.uint8), 0)
    with pytest.raises(UsageError):
        degrade.Degradation(0.0, 1.0, 0.0, 0.5, 0, 0.0, 90, 0, 0)


def statistics(low: Byte) -> tuple[float, float]:
    """Spread of chroma, and energy of what a small Gaussian removes from luma."""
    luma, red, blue = (plane.astype(np.float64) for plane in cv2.split(cv2.cvtColor(low, cv2.COLOR_RGB2YCrCb)))
    fine = luma - cv2.GaussianBlur(luma, (0, 0), 1.5)
    return float(red.std() + blue.std()), float(np.sqrt(np.mean(fine**2)))


@pytest.mark.slow
def test_statistics_are_those_of_the_challenge(shared_data: Path) -> None:
    theirs, ours, their_score, our_score = [], [], [], []
    for index, path in enumerate(sorted((shared_data / "val" / "GT").glob("*.png"))):
        truth = np.asarray(images.read(path).pixels, np.uint8)
        low = np.asarray(images.read(shared_data / "val" / "LQ" / path.name).pixels, np.uint8)
        theirs.append(statistics(low))
        their_score.append(psnr(bicubic(low, 4), truth))
        for seed in range(10):
            low, _ = degrade.degrade(truth, (index, seed))
            ours.append(statistics(low))
            our_score.append(psnr(bicubic(low, 4), truth))
    assert np.mean(their_score) == pytest.approx(27.266, abs=0.001)
    assert abs(np.mean(our_score) - np.mean(their_score)) < 0.4
    error = np.std(theirs, axis=0) / np.sqrt(len(theirs))
    assert np.all(np.abs(np.mean(ours, axis=0) - np.mean(theirs, axis=0)) < 2 * error)


def test_statistics_of_the_public_sample(samples: Path) -> None:
    """The stand-in: the mean over draws of one published face, pinned when the test above held."""
    truth = np.asarray(images.read(samples / "gt" / "hopper-face.png").pixels, np.uint8)
    lows = [degrade.degrade(truth, (5, seed))[0] for seed in range(40)]
    chroma, fine = np.mean([statistics(low) for low in lows], axis=0)
    assert np.mean([psnr(bicubic(low, 4), truth) for low in lows]) == pytest.approx(PINNED["score"], abs=0.05)
    assert chroma == pytest.approx(PINNED["chroma"], rel=0.02)
    assert fine == pytest.approx(PINNED["fine"], rel=0.02)


PINNED = {"score": 21.83, "chroma": 51.76, "fine": 14.03}


def test_command_degrades_a_folder_and_says_what_it_did(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    images.write(faces / "a.png", picture())
    images.write(faces / "b.jpg", picture(70, 66))
    (faces / "broken.png").write_bytes(b"not a picture")
    result = CliRunner().invoke(main, ["degrade", str(faces), "--out", str(tmp_path / "low"), "--seed", "3", "--json"])
    assert result.exit_code == 1, "a broken file fails, the rest go on"
    report = json.loads(result.stdout)
    assert [entry["status"] for entry in report["pictures"]] == ["done", "done", "failed"]
    assert images.read(tmp_path / "low" / "a.png").pixels.shape == (16, 16, 3)
    assert images.read(tmp_path / "low" / "b.png").pixels.shape == (17, 16, 3)
    expected, _ = degrade.degrade(picture(), (3, 0))
    assert np.array_equal(images.read(tmp_path / "low" / "a.png").pixels, expected)


def test_command_refuses_collisions_and_what_is_there(tmp_path: Path) -> None:
    images.write(tmp_path / "in" / "a.png", picture())
    images.write(tmp_path / "in" / "a.bmp", picture())
    collide = CliRunner().invoke(main, ["degrade", str(tmp_path / "in"), "--out", str(tmp_path / "low")])
    assert collide.exit_code == 2
    assert "would both become" in collide.stderr
    one = ["degrade", str(tmp_path / "in" / "a.png"), "--out", str(tmp_path / "low")]
    assert CliRunner().invoke(main, one).exit_code == 0
    again = CliRunner().invoke(main, one)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert CliRunner().invoke(main, [*one, "--overwrite"]).exit_code == 0
    missing = CliRunner().invoke(main, ["degrade", "nowhere", "--out", str(tmp_path / "low")])
    assert missing.exit_code == 2
