"""A network that a user trained, through every command: train, export, calibrate, build-engine, benchmark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bfsr_edge.benchmarks.results import Run
from tests.benchmarks.helpers import make_pairs
from tests.calibrate.helpers import make_faces

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

RECIPE = """
name = "mine"
iterations = 4
batch = 2
validate_every = 4
checkpoint_every = 4
log_every = 2

[network]
architecture = "edge-unet"
settings = { widths = [8, 16], encoder = [0, 1], decoder = [1] }

[data]
size = 128
holdout = 2
workers = 0
"""
SUITE = """
models = ["mine.onnx"]
engines = ["openvino-fp32", "openvino-int8", "onnxruntime-fp32"]
baselines = ["bicubic"]
peers = []
tile = 128
warm_runs = 2
seconds = 0.3
runs = 10
rounds = 2
batches = [1]
megapixels = []
peak_seconds = 0.02
"""


def run(folder: Path, *arguments: str) -> str:
    """A command that must succeed, in that folder."""
    done = subprocess.run(
        [sys.executable, "-m", "bfsr_edge.cli", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_network_of_the_user_s_from_faces_to_its_report(tmp_path: Path) -> None:
    make_faces(tmp_path / "faces", 8, 512)
    make_pairs(tmp_path / "pairs", 3, 128)
    (tmp_path / "mine.toml").write_text(RECIPE, "utf-8")
    (tmp_path / "suite.toml").write_text(SUITE, "utf-8")
    run(tmp_path, "train", "--recipe", "mine.toml", "--faces", "faces", "--out", "runs/mine", "--device", "cpu")
    run(tmp_path, "export", "--model", "runs/mine/last.safetensors", "--out", "mine.onnx")
    run(
        tmp_path, "calibrate", "--faces", "faces", "--model", "mine.onnx", "--plan", "quick", "--count", "4",
        "--lq", "pairs/lq", "--gt", "pairs/gt", "--sensitivity",
    )  # fmt: skip
    assert (tmp_path / "mine.calibration.json").is_file()
    run(tmp_path, "build-engine", "--model", "mine.onnx", "--int8", "--target", "cpu", "--out", "engines")
    engine = "engines/mine-cpu-int8.engine"
    assert (tmp_path / engine).is_file()
    run(
        tmp_path, "benchmark", "--suite", "suite.toml", "--model", "mine.onnx", "--model", engine, "--lq", "pairs/lq",
        "--gt", "pairs/gt", "--curves", "runs/mine/log.csv", "--out", "report", "--threads", "1",
    )  # fmt: skip
    found = Run.load(tmp_path / "report")
    rows = {row.id: row for row in found.engines}
    assert {"mine-fp32-openvino", "mine-int8-openvino", "mine-fp32-onnxruntime"} <= set(rows)
    (built,) = [row for row in found.engines if row.id.endswith("-engine")]
    assert built.precision == rows["mine-int8-openvino"].precision == "fp32+int8"
    # the engine that the user built is the one that the benchmark builds
    assert built.psnr_mean == pytest.approx(rows["mine-int8-openvino"].psnr_mean, abs=1e-4)
    assert rows["mine-int8-openvino"].drop_mean is not None
    assert found.layers
    assert [row["iteration"] for row in found.curves["mine"]][-1] == "4"
    assert (tmp_path / "report" / "report.html").is_file()
