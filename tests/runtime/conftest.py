"""Tiny networks for the backends: graphs made node by node, and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SCALE, STRIDE = 4, 8
SHAPE = ("N", 3, 16, 24)
METADATA = {"bfsr_edge.scale": "4", "bfsr_edge.stride": "8", "bfsr_edge.receptive_field": "1"}

Write = Callable[..., Path]


def enlarged(shape: tuple[int | str | None, ...]) -> list[int | str | None]:
    return [shape[0], 3, *(side * SCALE if isinstance(side, int) else None for side in shape[2:])]


def graph(
    shape: tuple[int | str | None, ...] = SHAPE,
    *,
    quantized: bool = False,
    element_type: int = TensorProto.FLOAT,
    weight: float = 1.0,
) -> onnx.GraphProto:
    """Conv 3×3 and PixelShuffle: with ``quantized``, Q/DQ nodes on the convolution's input and weights."""
    values = np.random.default_rng(3).normal(size=(3 * SCALE**2, 3, 3, 3)).astype(np.float32) * np.float32(weight)
    inputs, nodes, tensors = ["input", "weight"], [], []
    if quantized:
        tensors += [
            numpy_helper.from_array(np.float32(1 / 127), "scale"),
            numpy_helper.from_array(np.int8(0), "zero"),
            numpy_helper.from_array(np.clip(np.rint(values * 40), -127, 127).astype(np.int8), "weight"),
            numpy_helper.from_array(np.full(len(values), 1 / 40, np.float32), "weight_scale"),
            numpy_helper.from_array(np.zeros(len(values), np.int8), "weight_zero"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["input_q"]),
            helper.make_node("DequantizeLinear", ["input_q", "scale", "zero"], ["input_dq"]),
            helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["weight_dq"], axis=0),
        ]
        inputs = ["input_dq", "weight_dq"]
    else:
        tensors.append(numpy_helper.from_array(values, "weight"))
    nodes += [
        helper.make_node("Conv", inputs, ["cells"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("DepthToSpace", ["cells"], ["output"], blocksize=SCALE, mode="CRD"),
    ]
    source = helper.make_tensor_value_info("input", element_type, shape)
    sink = helper.make_tensor_value_info("output", element_type, enlarged(shape))
    return helper.make_graph(nodes, "tiny", [source], [sink], tensors)


def save(path: Path, tiny: onnx.GraphProto, metadata: Mapping[str, str] = METADATA) -> Path:
    model = helper.make_model(tiny, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))
    return path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a graph made by ``graph(**settings)``; ``metadata`` replaces ours."""

    def written(metadata: Mapping[str, str] = METADATA, **settings: Any) -> Path:
        return save(tmp_path / "tiny.onnx", graph(**settings), metadata)

    return written


@pytest.fixture(params=["openvino", "onnxruntime", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend in turn, those left out that are not installed."""
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture
def model(backend: str, tmp_path: Path) -> Path:
    """A network of scale 4 and stride 8 in the kind of file that the backend reads."""
    if backend != "torch":
        return save(tmp_path / "tiny.onnx", graph())
    return checkpoint(tmp_path)


def checkpoint(folder: Path) -> Path:
    """A tiny EdgeUNet."""
    import torch

    from bfsr_edge.models import create, save_checkpoint

    torch.manual_seed(3)
    network = create("edge-unet", widths=[4, 4, 8, 8], encoder=[0, 0, 0, 1], decoder=[1, 0, 0])
    save_checkpoint(folder / "tiny.safetensors", network)
    return folder / "tiny.safetensors"


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[[], Path]:
    """Write the tiny EdgeUNet."""
    return lambda: checkpoint(tmp_path)


@pytest.fixture
def noise() -> Callable[..., NDArray[np.float32]]:
    """Noise in [0, 1], the same for the same shape."""
    return lambda *shape: np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)
