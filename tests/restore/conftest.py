"""Tiny ONNX networks whose results are known, run by the real backends; and pictures to restore."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from bfsr_edge.cli import main

Array = npt.NDArray[Any]


@pytest.fixture(scope="session")
def nearest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each input pixel becomes a block of 4×4."""
    weight = np.zeros((48, 3, 1, 1), np.float32)
    weight[np.arange(48), np.arange(48) // 16] = 1
    return save(tmp_path_factory.mktemp("models") / "nearest.onnx", [weight], receptive_field=1)


@pytest.fixture(scope="session")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each input pixel becomes a block of 2×2."""
    weight = np.zeros((12, 3, 1, 1), np.float32)
    weight[np.arange(12), np.arange(12) // 4] = 1
    return save(tmp_path_factory.mktemp("models") / "doubling.onnx", [weight], receptive_field=1, scale=2)


@pytest.fixture(scope="session")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven random 3×3 convolutions with ReLU: a receptive field of 7 pixels, a stride of 4."""
    random = np.random.default_rng(0)
    sides = [3, *[8] * 6, 48]
    weights = [
        (random.standard_normal((after, before, 3, 3)) * np.sqrt(1.5 / (9 * before))).astype(np.float32)
        for before, after in pairwise(sides)
    ]
    return save(tmp_path_factory.mktemp("models") / "convolutions.onnx", weights, receptive_field=7, stride=4)


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives NaN for bright pictures: 0·∞."""
    weights = [np.full((48, 3, 1, 1), 3e38, np.float32), np.zeros((48, 48, 1, 1), np.float32)]
    return save(tmp_path_factory.mktemp("models") / "broken.onnx", weights, receptive_field=1)


def save(
    path: Path, weights: list[Array], *, receptive_field: int, stride: int = 1, tile: int = 32, scale: int = 4
) -> Path:
    """Convolutions with ReLU between them, then DepthToSpace by ``scale``."""
    nodes, initializers, name = [], [], "input"
    for index, weight in enumerate(weights):
        initializers.append(numpy_helper.from_array(weight, f"weight{index}"))
        padding = [weight.shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", [name, f"weight{index}"], [f"conv{index}"], pads=padding))
        name = f"conv{index}"
        if index + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [name], [f"relu{index}"]))
            name = f"relu{index}"
    nodes.append(helper.make_node("DepthToSpace", [name], ["output"], blocksize=scale, mode="CRD"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, tile, tile])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 3, scale * tile, scale * tile])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    about = {"scale": scale, "stride": stride, "receptive_field": receptive_field, "name": path.stem}
    helper.set_model_props(model, {f"bfsr_edge.{key}": str(value) for key, value in about.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def photo() -> Callable[..., Array]:
    """A made picture: smooth colours with some grain."""

    def make(height: int = 40, width: int = 56, channels: int = 3, dtype: Any = np.uint8, seed: int = 0) -> Array:
        y, x = np.mgrid[:height, :width]
        planes = np.stack([x / width, y / height, (x + y) / (height + width), 1 - x / width], axis=2)[:, :, :channels]
        grain = np.random.default_rng(seed).normal(0, 0.05, planes.shape)
        return np.asarray((np.clip(planes + grain, 0, 1) * np.iinfo(dtype).max).astype(dtype))

    return make


@pytest.fixture
def restore(nearest: Path) -> Callable[..., Result]:
    """``bfsr-edge restore ARGUMENTS --model nearest.onnx`` in this process; faces are for test_faces.py to look for."""

    def call(*arguments: str | Path, model: Path = nearest) -> Result:
        words = ["restore", *map(str, arguments), "--model", str(model), "--tile", "32", "--overlap", "4"]
        words += [] if "--faces" in arguments else ["--faces", "off"]
        return CliRunner().invoke(main, words)

    return call
