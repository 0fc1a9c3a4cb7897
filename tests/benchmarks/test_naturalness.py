"""benchmarks/naturalness.py: the figures move as their docstring says, and golden values of small cases."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfsr_edge import images

ROOT = Path(__file__).parents[2]
TRUTH = ROOT / "samples/gt"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("naturalness", ROOT / "benchmarks/naturalness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


naturalness = _script()


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A photograph of a face, grey, 512×512."""
    return np.asarray(naturalness.grey(np.asarray(images.read(TRUTH / "astronaut-face.png").pixels)))


def test_blur_lowers_sharpness_and_grain_raises_it(face: np.ndarray) -> None:
    grain = np.random.default_rng(0).normal(0, 5, face.shape)
    sharp = naturalness.sharpness(face)
    assert naturalness.sharpness(cv2.GaussianBlur(face, (0, 0), 2)) < 0.2 * sharp
    assert naturalness.sharpness(face + grain) > 1.5 * sharp
    assert naturalness.sharpness(np.full((64, 64), 7.0)) == 0


def test_grids_of_four_and_eight_pixels_show_and_one_of_another_period_does_not(face: np.ndarray) -> None:
    plain = naturalness.peaks(face)
    rows, columns = np.indices(face.shape)
    assert 0.4 < plain < 2.5
    for period, height in ((4, 4.0), (8, 16.0)):
        assert naturalness.peaks(face + height * ((rows % period == 0) & (columns % period == 0))) > 2 * plain
    seven = naturalness.peaks(face + 4.0 * ((rows % 7 == 0) & (columns % 7 == 0)))
    assert seven == pytest.approx(plain, rel=0.5)


@given(st.sampled_from([0.7, 1.0, 2.0, 4.0]), st.floats(0.5, 20.0), st.integers(0, 50))
def test_the_shape_and_scale_of_a_generalised_gaussian_are_found(shape: float, scale: float, seed: int) -> None:
    draws = np.random.default_rng(seed)
    size = draws.gamma(1 / shape, size=40_000) ** (1 / shape)
    values = scale * size * draws.choice([-1.0, 1.0], size.shape)
    found, mean, left, right = naturalness.asymmetric(values)
    assert found == pytest.approx(shape, rel=0.1)
    assert (left, right) == (pytest.approx(scale, rel=0.1), pytest.approx(scale, rel=0.1))
    assert abs(mean) < 0.1 * scale


def test_an_asymmetric_one_leans_to_its_wider_side() -> None:
    draws = np.random.default_rng(1)
    values = np.abs(draws.normal(size=50_000))
    values = np.where(draws.random(values.shape) < 1 / 4, -values, 3 * values)  # weights as the density has them
    shape, mean, left, right = naturalness.asymmetric(values)
    assert shape == pytest.approx(2, rel=0.1)
    assert left == pytest.approx(math.sqrt(2), rel=0.05)
    assert right == pytest.approx(3 * math.sqrt(2), rel=0.05)
    assert mean == pytest.approx(float(values.mean()), rel=0.05)


def test_coefficients_of_a_photograph_are_local_and_normalised(face: np.ndarray) -> None:
    coefficients, deviation = naturalness.normalised(face)
    brighter, same = naturalness.normalised(face + 20)
    np.testing.assert_allclose(coefficients, brighter, atol=1e-6)
    np.testing.assert_allclose(deviation, same, atol=1e-6)
    assert 0.3 < coefficients.std() < 1.2
    flat, none = naturalness.normalised(np.full((64, 64), 100.0))
    assert np.abs(flat).max() < 1e-9
    assert none.max() < 1e-5


def test_what_was_done_to_a_photograph_takes_it_further_away(face: np.ndarray) -> None:
    photograph = naturalness.Set([face])
    assert photograph.patches.shape == (25, 36)
    assert 1 <= len(photograph.sharp) < 25
    assert naturalness.distance(photograph.patches, photograph.patches) == 0
    grain = np.random.default_rng(0).normal(0, 12, face.shape)
    far = [
        naturalness.distance(photograph.patches, naturalness.Set([changed]).patches)
        for changed in (cv2.GaussianBlur(face, (0, 0), 3), face + grain)
    ]
    mirrored = naturalness.distance(photograph.patches, naturalness.Set([face[:, ::-1]]).patches)
    assert min(far) > 2 * mirrored


def test_one_row_for_each_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces, blurred = tmp_path / "faces", tmp_path / "blurred"
    for folder in (faces, blurred):
        folder.mkdir()
    for number, name in enumerate(("astronaut-face.png", "hopper-face.png")):
        picture = cv2.imread(str(TRUTH / name))
        assert picture is not None
        cv2.imwrite(str(faces / f"{number}.png"), picture)
        cv2.imwrite(str(blurred / f"{number}.png"), cv2.GaussianBlur(picture, (0, 0), 3))
    assert naturalness.main([str(blurred), "--faces", str(faces)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in table[1:]] == ["1", "2"]
    assert float(table[2].split()[2]) < 0.2
    assert naturalness.main([str(tmp_path), "--faces", str(faces)]) == 2
    assert "there is no PNG in" in capsys.readouterr().err
