"""A tiny network with its calibration, pairs of its size, and a suite that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bfsr_edge.benchmarks import results
from bfsr_edge.benchmarks.results import GalleryRow, Run
from tests.benchmarks.report_run import write_csv
from tests.engines.helpers import calibration, network

TILE = 32
SUITE = """
models = ["MODEL"]
engines = ["openvino-fp32", "openvino-int8", "onnxruntime-int8", "torch-fp32"]
baselines = ["bicubic"]
peers = ["realesr-animevideov3-x4"]
tile = 32
pairs = 3
looks = 1
warm_seconds = 0.01
warm_runs = 2
seconds = 0.2
runs = 12
rounds = 3
batches = [1, 2]
throughput_seconds = 0.05
megapixels = [0.05]
network_tiles = 4
gallery = 2
peak_seconds = 0.02
"""


def make_model(folder: Path) -> Path:
    """A tiny ONNX file with a calibration beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = network(folder / "mini.onnx")
    calibration(path)
    return path


def make_pairs(folder: Path, count: int = 4, size: int = TILE) -> tuple[Path, Path]:
    """Two folders of smooth random pictures, ``size`` and four times that."""
    rng = np.random.default_rng(5)
    for name in ("lq", "gt"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        truth = cv2.resize(coarse, (4 * size, 4 * size), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "gt" / f"{index}.png"), truth)
        low = cv2.resize(truth, (size, size), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "lq" / f"{index}.png"), low)
    return folder / "lq", folder / "gt"


def make_suite(folder: Path, model: Path, **changes: str) -> Path:
    """The suite as a TOML; ``changes`` are keys to their new values, written as TOML has them."""
    lines = SUITE.replace("MODEL", str(model)).strip().splitlines()
    for key, value in changes.items():
        lines = [line for line in lines if not line.startswith(f"{key} ")] + [f"{key} = {value}"]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def save_run(run: Run, folder: Path) -> None:
    """Every table that has rows, and machine.json, as a finished run leaves them; no pictures."""
    results.write_json(folder / results.MACHINE, run.machine)
    for name, kind in results.TABLES.items():
        rows = getattr(run, name)
        if rows or name == "engines":
            results.write_table(folder / f"{name}.csv", rows, kind)
    if run.gallery:
        results.write_table(folder / results.GALLERY / "gallery.csv", run.gallery, GalleryRow)
    for name, logged in run.curves.items():
        columns = list(dict.fromkeys(key for row in logged for key in row))
        write_csv(
            folder / results.CURVES / f"{name}.csv", columns, [[row.get(key, "") for key in columns] for row in logged]
        )


def command(*arguments: object) -> list[str]:
    """`bfsr-edge benchmark` with those arguments."""
    return [sys.executable, "-m", "bfsr_edge.cli", "benchmark", *map(str, arguments)]


def benchmark(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, check=False, **options)
