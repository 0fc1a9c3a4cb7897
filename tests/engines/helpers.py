"""A tiny network in ONNX, node by node, and a calibration of it; machines that are not this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bfsr_edge.calibration import Calibration, Drop
from bfsr_edge.engines.target import Here
from bfsr_edge.quantization import graph_sha256, layers_of, source_tensors
from bfsr_edge.runtime.machine import Gpu

SCALE, STRIDE, TILE = 4, 8, 32
METADATA = {"bfsr_edge.scale": "4", "bfsr_edge.stride": "8", "bfsr_edge.receptive_field": "3"}


def network(path: Path, *, batch: int | str = "N", opset: int = 20, seed: int = 3, width: int = 16) -> Path:
    """Three convolutions, a residual Add and PixelShuffle: scale 4, stride 8."""
    rng = np.random.default_rng(seed)

    def conv(name: str, channels: int, out: int) -> list[onnx.TensorProto]:
        weight = rng.normal(size=(out, channels, 3, 3), scale=(2 / (9 * channels)) ** 0.5).astype(np.float32)
        bias = np.zeros(out, np.float32)
        return [numpy_helper.from_array(weight, f"{name}.weight"), numpy_helper.from_array(bias, f"{name}.bias")]

    def node(name: str, source: str, sink: str) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [sink], pads=[1, 1, 1, 1], name=f"/{name}/Conv")

    nodes = [
        node("head", "input", "head"),
        helper.make_node("Relu", ["head"], ["lit"], name="/head/Relu"),
        node("body", "lit", "body"),
        helper.make_node("Add", ["lit", "body"], ["sum"], name="/Add"),
        node("tail", "sum", "cells"),
        helper.make_node("DepthToSpace", ["cells"], ["output"], blocksize=SCALE, mode="CRD", name="/Shuffle"),
    ]
    tensors = [*conv("head", 3, width), *conv("body", width, width), *conv("tail", width, 3 * SCALE**2)]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, TILE, TILE]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 3, SCALE * TILE, SCALE * TILE]),
    ]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, METADATA)
    onnx.save(model, str(path))
    return path


def calibration(path: Path, *, drop: float | None = 0.01, scale: float = 4 / 127, **changes: Any) -> Path:
    """A calibration of an ONNX file beside it: one scale for everything, first and last convolution left alone."""
    proto = onnx.load(str(path))
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    excluded = (convolutions[0], convolutions[-1])
    measured = Drop(drop, 2 * drop, "a.png", 3, 29.0, 29.0 - drop, "openvino 0") if drop is not None else None
    settings: dict[str, Any] = {
        "scales": dict.fromkeys(source_tensors(proto).values(), scale),
        "graph_sha256": graph_sha256(proto),
        "model": path.stem,
        "excluded": excluded,
        "drop": measured,
        "layers": layers_of(proto, excluded),
    }
    made = Calibration(**settings | changes)
    beside = path.with_name(f"{path.stem}.calibration.json")
    made.save(beside)
    return beside


def machine(
    *,
    gpu: str = "",
    sm: str = "",
    board: str = "",
    tensorrt: str = "not here",
    rtx: str = "not here",
    cpu: tuple[str, ...] = ("avx2", "avx512_vnni"),
    container: bool = False,
    power_mode: str = "",
) -> Here:
    """A machine; ``container``: one in a Jetson, which hides the board."""
    jetson = bool(board) or container
    gpus = (Gpu(0, gpu, sm, 8 * 2**30, jetson),) if gpu else ()
    system = "linux-aarch64" if jetson else "linux-x86_64"
    return Here(system, board, gpus, {"tensorrt": tensorrt, "tensorrt-rtx": rtx}, cpu, power_mode)
