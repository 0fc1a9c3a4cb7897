"""A plan for a CPU: a complete ONNX file, compiled once by OpenVINO to see that it runs and in which precision."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from bfsr_edge.errors import BackendError, ModelError, first_line
from bfsr_edge.runtime.base import CHANNELS, require
from bfsr_edge.runtime.openvino import ELEMENT_TYPES, EXECUTED, INSTALL, LAYERS, NAME


def half_precision() -> str:
    """What "fp16" means on this CPU: "bf16" or "fp16", "" where it has neither in hardware."""
    openvino = require("openvino", NAME, INSTALL)
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return next((ours for ours, theirs in (("fp16", "FP16"), ("bf16", "BF16")) if theirs in able), "")


def layers(compiled: Any) -> list[dict[str, str]]:
    """The runtime information of every operation that is executed, with its name under "name"."""
    found = []
    for node in compiled.get_runtime_model().get_ops():
        about = {key: value.astype(str) for key, value in dict(node.get_rt_info()).items()}
        found.append({"name": str(node.get_friendly_name()), **about})
    return found


def prove(content: bytes, precision: str, tile: tuple[int, int], *, uint8_io: bool = False) -> dict[str, int]:
    """Compile a graph, run it once on noise, and read back what it executes: precision to number of convolutions.

    Parameters
    ----------
    precision
        "fp32", "bf16", "fp16" or "int8".
    uint8_io
        Whether input and output are 8-bit pixels.

    Raises
    ------
    ModelError
        OpenVINO does not take the graph.
    BackendError
        It gives NaN, or executes another precision than asked.
    """
    openvino = require("openvino", NAME, INSTALL)
    floating = "fp32" if precision == "int8" else precision
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": ELEMENT_TYPES[floating]}
    try:
        compiled = core.compile_model(core.read_model(content), "CPU", settings)
        noise = np.random.default_rng(0).random((1, CHANNELS, *tile), dtype=np.float32)
        batch = np.rint(noise * 255).astype(np.uint8) if uint8_io else noise
        result = compiled.create_infer_request().infer([batch])[0]
    except RuntimeError as error:
        raise ModelError(
            f"{NAME} cannot run this graph with tiles of {tile[0]}×{tile[1]}",
            why=(first_line(error),),
            fix="export it again: bfsr-edge export --model CHECKPOINT --out FILE.onnx",
        ) from error
    if not np.isfinite(result).all():
        raise BackendError(f"the {precision} engine gives NaN or Inf", fix="build with --fp32")
    executed = Counter(
        EXECUTED.get(layer["runtimePrecision"], layer["runtimePrecision"])
        for layer in layers(compiled)
        if layer["layerType"] in LAYERS
    )
    if not executed[precision]:
        raise BackendError(
            f"{NAME} executes {'+'.join(sorted(executed)) or 'no convolution'} here, not {precision}",
            why=(f"this CPU has no instructions for {precision}",),
            fix="bfsr-edge build-engine --fp32",
        )
    return dict(sorted(executed.items()))
