"""Evaluation of models and of bicubic interpolation on pairs: figures, pairing, sizes, output and exit codes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import helper, numpy_helper, save

from bfsr_edge import images
from bfsr_edge.cli import main
from bfsr_edge.errors import ImageError, UsageError
from bfsr_edge.evaluate import Upscaler, bicubic, evaluate
from bfsr_edge.metrics import psnr, ssim
from bfsr_edge.pairs import find_pairs, read_rgb

Pixels = NDArray[np.uint8]


def smooth(height: int, width: int, seed: int) -> Pixels:
    """A picture that interpolation can follow, with some noise that it cannot."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / (9 + c) + seed) * np.cos(y / (13 - c)) for c in range(3)]
    noise = np.random.default_rng(seed).normal(0, 1 + 2 * seed, (height, width, 3))
    return np.asarray(np.clip(np.stack(waves, -1) + noise, 0, 255), np.uint8)


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., None]:
    """Write one pair: ``pair(name, height, width)`` gives both folders a picture of that name; sizes of the input."""

    def write(name: str, height: int = 16, width: int = 24, seed: int = 0, truth: Pixels | None = None) -> None:
        large = smooth(4 * height, 4 * width, seed) if truth is None else truth
        images.write(tmp_path / "gt" / name, large)
        images.write(tmp_path / "lq" / name, np.ascontiguousarray(large[2::4, 2::4][:height, :width]))

    return write


@pytest.fixture
def nearest(tmp_path: Path) -> Path:
    """A graph that repeats each pixel 4×4 times and has a stride of 8: its result is known at every size."""
    weights = np.zeros((48, 3, 1, 1), np.float32)
    for channel in range(48):
        weights[channel, channel // 16] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "weights"], ["cells"]),
            helper.make_node("DepthToSpace", ["cells"], ["output"], blocksize=4, mode="CRD"),
        ],
        "nearest",
        [helper.make_tensor_value_info("input", 1, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("output", 1, ["N", 3, 64, 64])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, {"bfsr_edge.scale": "4", "bfsr_edge.stride": "8"})
    save(model, str(tmp_path / "nearest.onnx"))
    return tmp_path / "nearest.onnx"


def run(folder: Path, *options: str | Path) -> Result:
    arguments = ["evaluate", "--lq", folder / "lq", "--gt", folder / "gt", *options]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_figures(pair: Callable[..., None], nearest: Path, tmp_path: Path) -> None:
    """Every figure, by other means: pictures of three sizes, two of them off the stride, in batches and alone."""
    sizes = {"a.png": (16, 24), "b.png": (13, 17), "c.png": (16, 24), "d.png": (5, 40), "e.png": (16, 24)}
    for seed, (name, size) in enumerate(sizes.items()):
        pair(name, *size, seed=seed)
    report = evaluate(find_pairs(tmp_path / "lq", tmp_path / "gt"), Upscaler(nearest), batch=2)
    assert [score.name for score in report.scores] == list(sizes)
    for score in report.scores:
        low, truth = read_rgb(tmp_path / "lq" / score.name), read_rgb(tmp_path / "gt" / score.name)
        result = low.repeat(4, 0).repeat(4, 1)
        assert score.psnr == pytest.approx(psnr(result, truth))
        assert score.ssim == pytest.approx(ssim(result, truth))
        assert score.bicubic_psnr == pytest.approx(psnr(bicubic(low, 4), truth))
    assert report.mean("psnr") == pytest.approx(np.mean([score.psnr for score in report.scores]))
    assert report.complete
    assert report.ranked[0].psnr == min(score.psnr for score in report.scores)


def test_the_line(pair: Callable[..., None], nearest: Path, tmp_path: Path) -> None:
    pair("a.png", seed=1)
    pair("b.png", seed=5)
    done = run(tmp_path, "--model", nearest)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert line.startswith("nearest.onnx: PSNR ")
    for part in (" dB, SSIM ", ", bicubic ", ", n 2, worst b.png ", ", openvino fp32 on cpu"):
        assert part in line


def test_json(pair: Callable[..., None], nearest: Path, tmp_path: Path) -> None:
    pair("a.png", seed=1)
    pair("flat.png", truth=np.full((64, 96, 3), 90, np.uint8))
    pytest.importorskip("onnxruntime")
    done = run(tmp_path, "--model", nearest, "--json", "--backend", "onnxruntime")
    told = json.loads(done.stdout)
    assert [entry["name"] for entry in told["images"]] == ["a.png", "flat.png"]
    assert told["images"][1] == {"name": "flat.png", "psnr": None, "ssim": 1, "bicubic_psnr": None}  # infinite
    assert (told["summary"]["n"], told["summary"]["worst"]) == (2, "a.png")
    assert told["summary"]["engine"]["backend"] == "onnxruntime"
    assert told["summary"]["engine"]["precision"] == "fp32"
    assert told["failures"] == {}


def test_results_made_before(pair: Callable[..., None], tmp_path: Path) -> None:
    """They are what is scored, each with its own name, and the network does not run."""
    pair("a.png", seed=1)
    pair("b.png", seed=2)
    grey = {name: np.full((64, 96, 3), level, np.uint8) for name, level in (("a.png", 50), ("b.png", 200))}
    upscaler = Upscaler("bicubic")
    report = evaluate(find_pairs(tmp_path / "lq", tmp_path / "gt"), upscaler, results=grey.__getitem__)
    assert [score.psnr for score in report.scores] == [
        pytest.approx(psnr(grey[name], read_rgb(tmp_path / "gt" / name))) for name in ("a.png", "b.png")
    ]


def test_bicubic_alone(pair: Callable[..., None], tmp_path: Path) -> None:
    pair("a.png", seed=2)
    report = evaluate(find_pairs(tmp_path / "lq", tmp_path / "gt"), Upscaler("bicubic"))
    assert report.info is None
    assert report.mean("psnr") == report.mean("bicubic_psnr")
    assert run(tmp_path, "--model", "bicubic").stdout.startswith("bicubic: PSNR ")


def test_unmatched_files_are_named(pair: Callable[..., None], tmp_path: Path) -> None:
    pair("a.png")
    images.write(tmp_path / "lq" / "lonely.png", smooth(8, 8, 0))
    images.write(tmp_path / "gt" / "other.png", smooth(8, 8, 0))
    (tmp_path / "gt" / "notes.txt").write_text("not a picture")
    done = run(tmp_path, "--model", "bicubic")
    assert done.exit_code == 1
    assert ", n 1, " in done.stdout
    assert "left out lonely.png" in done.stderr
    assert "left out other.png" in done.stderr
    assert "notes.txt" not in done.output


def test_what_does_not_fit_is_named_and_the_rest_go_on(pair: Callable[..., None], tmp_path: Path) -> None:
    pair("a.png")
    pair("damaged.png")
    (tmp_path / "lq" / "damaged.png").write_bytes(b"\x89PNG\r\n")
    pair("size.png", truth=smooth(62, 96, 0), height=15)
    images.write(tmp_path / "lq" / "see-through.png", np.zeros((16, 16, 4), np.uint8))
    images.write(tmp_path / "gt" / "see-through.png", np.zeros((64, 64, 4), np.uint8))
    done = run(tmp_path, "--model", "bicubic", "--json")
    assert done.exit_code == 1
    failures = json.loads(done.stdout)["failures"]
    assert sorted(failures) == ["damaged.png", "see-through.png", "size.png"]
    assert "96×62 pixels, not 4 times the 24×15" in failures["size.png"]
    for name in failures:
        assert f"left out {name}: " in done.stderr


def test_nothing_to_score(pair: Callable[..., None], tmp_path: Path) -> None:
    pair("a.png", truth=smooth(60, 90, 0))
    with pytest.raises(ImageError, match="none of 1 pairs"):
        evaluate(find_pairs(tmp_path / "lq", tmp_path / "gt"), Upscaler("bicubic"))
    assert run(tmp_path, "--model", "bicubic").exit_code == 1


def test_wrong_usage(pair: Callable[..., None], tmp_path: Path) -> None:
    pair("a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no folder"):
        find_pairs(tmp_path / "nowhere", tmp_path / "gt")
    with pytest.raises(UsageError, match="no picture of the same name"):
        find_pairs(tmp_path / "lq", tmp_path / "empty")
    assert run(tmp_path, "--model", "nothing").exit_code == 2
    assert run(tmp_path, "--model", "bicubic", "--sheet", "sheet.doc").exit_code == 2
    assert CliRunner().invoke(main, ["evaluate"]).exit_code == 2


def test_grey_and_16_bits(tmp_path: Path) -> None:
    images.write(tmp_path / "grey.png", np.full((4, 5, 1), 7, np.uint8))
    images.write(tmp_path / "deep.png", np.full((4, 5, 3), 257 * 7 + 100, np.uint16))
    for name in ("grey.png", "deep.png"):
        picture = read_rgb(tmp_path / name)
        assert (picture.shape, picture.dtype, int(picture.min())) == ((4, 5, 3), np.dtype(np.uint8), 7)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_sheet(pair: Callable[..., None], nearest: Path, tmp_path: Path, count: int) -> None:
    """Three columns, a row for each of worst, lower quartile, median and best, none twice; no input is left out."""
    for seed in range(count):
        pair(f"{seed}.png", 16, 16, seed=seed)
    sheet = tmp_path / "results" / "sheet.png"
    done = run(tmp_path, "--model", nearest, "--sheet", sheet)
    assert done.exit_code == 0, done.output
    picture: Any = images.read(sheet).pixels
    rows = min(count, 4)
    assert picture.shape == (32 + rows * (32 + 384 + 8), 3 * 392 + 8, 3)
    worst = read_rgb(tmp_path / "lq" / f"{count - 1}.png")  # the noisiest
    assert np.array_equal(picture[64 : 64 + 384 : 24, 8 : 8 + 384 : 24], worst)


@pytest.mark.shared_data
def test_the_challenge_pairs(shared_data: Path) -> None:
    """The published figure of the baseline: reading, pairing and PSNR are right."""
    pairs = find_pairs(shared_data / "val" / "LQ", shared_data / "val" / "GT")
    report = evaluate(pairs, Upscaler("bicubic"))
    assert len(report.scores) == 100
    assert report.mean("psnr") == pytest.approx(27.266, abs=0.0005)
    assert not math.isinf(report.ranked[-1].psnr)


def test_the_samples(samples: Path) -> None:
    """The same on what ships, the figure computed by OpenCV's own means."""
    import cv2

    report = evaluate(find_pairs(samples / "lq", samples / "gt"), Upscaler("bicubic"))
    assert report.complete
    for score in report.scores:
        low, truth = (cv2.imread(str(samples / folder / score.name)) for folder in ("lq", "gt"))
        assert low is not None
        assert truth is not None
        larger = cv2.resize(low, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        assert score.psnr == pytest.approx(cv2.PSNR(larger, truth), abs=1e-6)
