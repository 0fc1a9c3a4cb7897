"""What is found out about faces before training begins."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bfsr_edge.errors import TrainingError
from bfsr_edge.faceset import find_faces
from bfsr_edge.train.headers import find_bad
from bfsr_edge.train.log import read_log
from bfsr_edge.train.loop import train
from bfsr_edge.train.recipe import Data
from tests.train.helpers import SIZE, make_faces, make_tar, tiny_recipe


def picture(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_format_gives_its_size_and_tars_too(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for name in ("a.png", "b.jpg", "c.webp", "d.bmp", "e.tif"):
        assert cv2.imwrite(str(faces / name), picture(70, 90))
    image = Image.fromarray(picture(70, 90))
    image.save(faces / "f.webp", lossless=True)
    image.save(faces / "g.webp", exif=b"Exif\0\0" + bytes(5000))  # the extended kind
    image.save(faces / "h.jpg", exif=b"Exif\0\0" + bytes(60_000), progressive=True)  # the size lies far behind
    expected = ["90×70 pixels, not square"] * 8
    assert [bad.reason for bad in find_bad(find_faces([faces]), SIZE)] == expected
    in_tar = find_bad(find_faces([make_tar(tmp_path / "faces.tar", faces)]), SIZE)
    assert [bad.reason for bad in in_tar] == expected
    assert str(in_tar[0]) == f"faces/a.png in {tmp_path / 'faces.tar'}: 90×70 pixels, not square"


def spoiled(folder: Path) -> Path:
    """Ten good faces, one of them larger, and seven bad ones."""
    faces = make_faces(folder, 10)
    cv2.imwrite(str(faces / "larger.png"), picture(100, 100))
    (faces / "000.png").unlink()
    for index in range(4):
        cv2.imwrite(str(faces / f"small{index}.png"), picture(SIZE - 1, SIZE - 1))
    cv2.imwrite(str(faces / "wide.jpg"), picture(SIZE, 2 * SIZE))
    (faces / "text.png").write_text("no picture")
    (faces / "void.jpg").write_bytes(b"")
    return faces


def test_faces_of_a_wrong_shape_are_named_before_anything_is_written(tmp_path: Path) -> None:
    faces = spoiled(tmp_path / "faces")
    with pytest.raises(TrainingError) as caught:
        train(tiny_recipe(faces), tmp_path / "run")
    text = str(caught.value)
    assert "7 of 17 faces cannot be trained on; they must be squares of at least 64 pixels" in text
    assert "small0.png: 63×63 pixels, smaller than 64" in text
    assert "text.png: no picture, or damaged" in text
    assert "wide.jpg" not in text
    assert "… and 2 more" in text
    assert "--skip-bad" in text
    assert not list((tmp_path / "run").iterdir())


def test_skip_bad_leaves_them_out_with_a_list(tmp_path: Path) -> None:
    faces = spoiled(tmp_path / "faces")
    said: list[str] = []
    assert train(tiny_recipe(faces), tmp_path / "run", skip_bad=True, announce=said.append).finished
    assert any(line.startswith("7 faces are left out") for line in said)
    assert any("8 faces; validation on 2 held-out faces" in line for line in said)
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert len(listed) == 7
    assert any("wide.jpg: 128×64 pixels, not square" in line for line in listed)
    assert read_log(tmp_path / "run" / "log.csv")
    for index in range(1, 8):
        (faces / f"{index:03}.png").unlink()
    few = tiny_recipe(faces, data=Data((str(faces),), size=SIZE, holdout=4, workers=0))
    with pytest.raises(TrainingError, match="3 faces are too few: 4 are held out"):
        train(few, tmp_path / "few", skip_bad=True)
