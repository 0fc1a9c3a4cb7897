"""The calibration as a file: read back as written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bfsr_edge.calibration import Calibration, Drop, Layer, short_layer
from bfsr_edge.errors import ModelError

MADE = Calibration(
    scales={"input": 0.004, "/head/Conv_output_0": 0.02},
    graph_sha256="ab" * 32,
    model="edge",
    method="percentile",
    percentile=99.999,
    excluded=("/head/Conv",),
    faces=("cd" * 32,),
    seed=3,
    versions={"openvino": "2026.4.1"},
    created="2026-11-28T12:00:00+00:00",
    drop=Drop(0.012, 0.086, "00120.png", 100, 29.549, 29.536, "openvino 2026.4.1"),
    budget=0.03,
    layers=(
        Layer("/head/Conv", "input", 0.1, "fp16"),
        Layer("/tail/Conv", "/head/Conv_output_0", 0.9, "int8", 0.001, 0.01),
    ),
)


def test_read_back_as_written(tmp_path: Path) -> None:
    MADE.save(tmp_path / "it.calibration.json")
    assert Calibration.load(tmp_path / "it.calibration.json") == MADE
    assert MADE.int8_share == 0.9


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-6])
def test_scales_that_cannot_be(scale: float, tmp_path: Path) -> None:
    path = tmp_path / "it.calibration.json"
    MADE.save(path)
    content = json.loads(path.read_text())
    content["scales"]["input"] = scale
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"the calibration's scale of input is "):
        Calibration.load(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "bfsr-edge calibration", "version": 9}'])
def test_damaged_calibration(content: str, tmp_path: Path) -> None:
    path = tmp_path / "it.calibration.json"
    path.write_text(content)
    with pytest.raises(ModelError, match="cannot be read as a calibration"):
        Calibration.load(path)
    with pytest.raises(ModelError, match="cannot be read as a calibration"):
        Calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/encoder.1/encoder.1.0/conv1/Conv", "encoder.1.0.conv1"),
        ("/head/Conv", "head"),
        ("Conv", "Conv"),
        ("", ""),
    ],
)
def test_layers_have_short_names(name: str, short: str) -> None:
    assert short_layer(name) == short
