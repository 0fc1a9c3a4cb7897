"""Small networks of every architecture as float32 graphs, faces, pairs, and calibrations made by hand."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bfsr_edge import weights
from bfsr_edge.calibration import Calibration
from bfsr_edge.precision import MOVES_ONLY
from bfsr_edge.quantization import end_convolutions, graph_sha256, read, source_tensors

TILE = 32
NETWORKS: dict[str, dict[str, Any]] = {
    "edge-unet": {"widths": [8, 8, 16, 16], "encoder": [0, 1, 0, 1], "decoder": [1, 0, 1]},
    "msrresnet": {"blocks": 2, "channels": 16},
    "edsr": {"blocks": 2, "channels": 16},
}
SHIPPED = "shipped default"
GRAPHS = (*NETWORKS, SHIPPED)


@cache
def exported(architecture: str, settings: str = "{}") -> bytes:
    """The ONNX file of an untrained network, as ``bfsr-edge export`` writes it; zero biases get values."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    import torch

    from bfsr_edge import export as exporting
    from bfsr_edge.models import create, save_checkpoint

    torch.manual_seed(1)
    network: Any = create(architecture, **(json.loads(settings) or NETWORKS[architecture]))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / f"{architecture}.safetensors"
        if settings != "{}":  # too large to be compared on every backend here
            return bytes(exporting._trace(network, (TILE, TILE)).SerializeToString())
        save_checkpoint(checkpoint, network)
        return exporting.export(checkpoint, Path(folder) / f"{architecture}.onnx", tile=TILE).path.read_bytes()


def graph(name: str) -> onnx.ModelProto:
    """One of ``GRAPHS``, float32."""
    if name == SHIPPED:
        return read(weights.resolve(weights.DEFAULT, kind="onnx").path)
    return onnx.load_from_string(exported(name))


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def calibration(proto: onnx.ModelProto, scale: float = 0.02, **changes: Any) -> Calibration:
    """Every activation in steps of ``scale``; first and last convolutions left out."""
    scales = dict.fromkeys(source_tensors(proto).values(), scale)
    made = Calibration(scales, graph_sha256(proto), excluded=tuple(sorted(end_convolutions(proto))))
    return dataclasses.replace(made, **changes)


def dequantized(proto: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """The DequantizeLinear that a tensor comes out of, moved or not."""
    made = {output: node for node in proto.graph.node for output in node.output}
    node = made.get(name)
    while node is not None and node.op_type in MOVES_ONLY:
        node = made.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def noise(*shape: int) -> NDArray[np.float32]:
    """Smooth noise in [0, 1], N×3×h×w: a picture's spectrum, so that quantization is tried on likely values."""
    rng = np.random.default_rng(sum(shape))
    count, channels, height, width = shape
    coarse = rng.random((count, height // 4, width // 4, channels), dtype=np.float32)
    pictures = [cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR) for picture in coarse]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def make_faces(folder: Path, count: int = 6, size: int = 512, seed: int = 0) -> Path:
    """A folder of smooth random squares."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        face = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index:03}.png"), face)
    return folder


def make_pairs(folder: Path, count: int = 3, size: int = TILE, seed: int = 9) -> tuple[Path, Path]:
    """Two folders of pairs, ``size`` and four times that."""
    truth = make_faces(folder / "gt", count, 4 * size, seed)
    low = folder / "lq"
    low.mkdir()
    for path in truth.iterdir():
        picture: Any = cv2.imread(str(path))
        cv2.imwrite(str(low / path.name), cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA))
    return low, truth
