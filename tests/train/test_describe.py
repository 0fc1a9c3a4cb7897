"""Describing faces: the measures, the test that flags, what is unfit, and the command."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from bfsr_edge import degrade
from bfsr_edge.cli import main
from bfsr_edge.errors import TrainingError, UsageError
from bfsr_edge.train import describe
from bfsr_edge.train.describe import MEASURES, kolmogorov_smirnov, measure
from bfsr_edge.train.recipe import Data, Recipe
from tests.train.helpers import SIZE, make_faces, make_tar


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_faces(tmp_path_factory.mktemp("data") / "faces", 40)


@pytest.fixture(scope="module")
def inputs(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validation inputs that our own degradation made of faces of the same kind, by other draws."""
    folder = tmp_path_factory.mktemp("data") / "lq"
    folder.mkdir()
    for index, file in enumerate(sorted(faces.iterdir())):
        cv2.imwrite(str(folder / file.name), degrade.degrade(read(file), (5, index))[0][:, :, ::-1])
    return folder


def read(file: Path) -> NDArray[np.uint8]:
    """RGB uint8."""
    picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8)


def recipe(low: Path | str = "", true: Path | str = "") -> Recipe:
    return Recipe(data=Data(size=SIZE, val_lq=str(low), val_gt=str(true)))


def test_measures_of_pictures_whose_figures_are_known() -> None:
    black, picture = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 12, 3), np.uint8)
    assert measure(black) == dict.fromkeys(MEASURES, 0.0) | {"side": 8.0}
    picture[:, :3] = 255
    picture[:, 3:6] = (250, 251, 249)  # one channel below the limit
    of = measure(picture)
    assert of["over-exposed"] == 0.25
    assert of["side"] == 8
    red = np.zeros((8, 8, 3), np.uint8)
    red[:4] = (255, 0, 0)
    of = measure(red)
    assert of["brightness"] == pytest.approx(0.299 / 2)
    assert of["contrast"] == pytest.approx(0.299 / 2)
    assert of["saturation"] == pytest.approx(0.5)
    assert of["over-exposed"] == 0
    checks = np.indices((16, 16)).sum(axis=0) % 2 * np.uint8(100)
    assert measure(np.repeat(checks[:, :, None], 3, axis=2))["detail"] == pytest.approx(400)


def test_the_distance_is_the_largest_gap_between_the_distributions() -> None:
    assert kolmogorov_smirnov(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1
    assert kolmogorov_smirnov(np.array([1.0, 2.0, 2.0]), np.array([2.0, 1.0, 2.0])) == 0
    assert kolmogorov_smirnov(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.5, 5.0])) == pytest.approx(0.5)


def test_equal_distributions_are_flagged_one_time_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    limit = describe.CERTAINTY / math.sqrt(500 * 100 / 600)
    flagged = [kolmogorov_smirnov(rng.normal(size=500), rng.normal(size=100)) > limit for _ in range(1000)]
    assert 1 <= sum(flagged) <= 20
    shifted = [kolmogorov_smirnov(rng.normal(size=500), rng.normal(0.8, size=100)) > limit for _ in range(100)]
    assert sum(shifted) >= 99


def test_like_is_compared_with_like(faces: Path, inputs: Path, tmp_path: Path) -> None:
    found = describe.describe([str(faces)], recipe(inputs, faces))
    assert [sample.title for sample in found.samples()] == [
        "faces",
        "validation truths",
        "degraded faces",
        "validation inputs",
    ]
    for a, b in found.pairs():
        assert not [c for c in describe.compare(a, b) if c.differs]
    (whole, truths), (degraded, given) = found.pairs()
    assert all(c.distance == 0 for c in describe.compare(whole, truths)), "the same pictures"
    assert set(degraded.sizes) == set(given.sizes) == {(SIZE // 4, SIZE // 4)}
    mean, deviation = whole.channels()
    pixels = np.stack([read(file) for file in faces.iterdir()]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(deviation, pixels.std(axis=(0, 1, 2)), atol=1e-6)

    dark = tmp_path / "dark"
    dark.mkdir()
    for file in inputs.iterdir():
        cv2.imwrite(str(dark / file.name), read(file)[:, :, ::-1] // 2)
    found = describe.describe([str(faces)], recipe(dark))
    ((a, b),) = found.pairs()
    differing = {c.measure: c for c in describe.compare(a, b) if c.differs}
    assert {"brightness", "contrast"} <= set(differing)
    assert "saturation" not in differing
    assert differing["brightness"].shift > 1, "the faces are brighter"
    line = next(
        line for line in describe.report(found).splitlines() if line.startswith("brightness ") and " sd" in line
    )
    assert line.endswith("differs")


def test_what_cannot_be_trained_on_is_counted_and_named_up_to_five(tmp_path: Path) -> None:
    folder = make_faces(tmp_path / "faces", 12)
    for number in (0, 1, 2):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.zeros((32, 32, 3), np.uint8))
    for number in (3, 4):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.zeros((SIZE, SIZE + 4, 3), np.uint8))
    for number in (5, 6):
        path = folder / f"{number:03}.png"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cv2.imwrite(str(folder / "007.jpg"), read(folder / "007.png"))
    (folder / "007.png").unlink()
    cut = folder / "007.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    found = describe.describe([str(folder)], recipe())
    said = describe.report(found)
    assert "smaller: 3, damaged: 3, not square: 2" in said
    named = [line for line in said.splitlines() if line.startswith("  ") and str(folder) in line]
    assert len(named) == 5
    assert "… and 3 more" in said
    assert found.degraded is not None
    assert len(found.degraded.names) == 12 - 8
    assert "nothing to compare with" in said
    for file in folder.iterdir():
        file.write_bytes(b"damaged")
    nothing = describe.describe([str(folder)], recipe())
    assert nothing.samples() == []
    assert "damaged: 12" in describe.report(nothing)
    describe.save(nothing, tmp_path / "out")


def test_many_faces_are_drawn_from_and_that_is_said(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe, "SAMPLE", 7)
    tar = make_tar(tmp_path / "faces.tar", faces)
    steps: list[tuple[int, int]] = []
    found = describe.describe([str(tar)], recipe(), lambda done, total: steps.append((done, total)))
    assert steps == [(n, 7) for n in range(1, 8)]
    assert found.faces is not None
    assert len(set(found.faces.names)) == 7
    assert list(found.faces.names) != sorted(path.name for path in faces.iterdir())[:7]
    assert "40 faces, of which 7, drawn at random, were decoded" in describe.report(found)
    again = describe.describe([str(tar)], recipe())
    assert again.faces is not None
    assert again.faces.names == found.faces.names


def run(*words: Path | str) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, words)], catch_exceptions=False)


def test_the_command_prints_a_table_and_writes_beside_nothing_of_others(
    faces: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(f"[data]\nsize = {SIZE}\n")
    words = ("--describe-data", faces, "--recipe", "small.toml", "--val-lq", inputs)
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "degraded faces against validation inputs" in done.stdout
    out = tmp_path / "runs" / "data"
    assert sorted(path.name for path in out.iterdir()) == ["data.csv", "data.png"]
    with open(out / "data.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["faces"] * 40 + ["degraded faces"] * 40 + ["validation inputs"] * 40
    assert float(rows[0]["contrast"]) == pytest.approx(measure(read(faces / "000.png"))["contrast"], rel=1e-4)
    assert (rows[0]["name"], rows[0]["width"]) == ("000.png", str(SIZE))
    with Image.open(out / "data.png") as picture:
        assert picture.size[0] > 1000

    more = run(*words, "--faces", make_faces(tmp_path / "more", 3))
    assert more.exit_code == 0, "what is ours is replaced"
    assert "43 faces" in more.stdout
    for name in ("data.png", "data.csv"):
        mine = tmp_path / name
        mine.write_bytes((inputs / "000.png").read_bytes())
        refused = run(*words, "--out", tmp_path)
        assert refused.exit_code == 2
        assert f"{name} is there and was not written by" in refused.stderr
        assert mine.read_bytes() == (inputs / "000.png").read_bytes()
        mine.unlink()
    lost = run("--describe-data", tmp_path / "nowhere")
    assert lost.exit_code == 2
    assert "nowhere" in lost.stderr


def test_a_folder_that_cannot_be_written_and_a_damaged_pair_are_errors_of_ours(faces: Path, tmp_path: Path) -> None:
    found = describe.describe([str(faces)], recipe())
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written to"):
        describe.save(found, tmp_path / "file" / "out")
    (tmp_path / "lq").mkdir()
    (tmp_path / "lq" / "a.png").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"a\.png cannot be decoded"):
        describe.describe([str(faces)], recipe(tmp_path / "lq"))
