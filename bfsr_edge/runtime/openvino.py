"""OpenVINO: the default on a CPU. Runs ONNX files, INT8 graphs with Q/DQ nodes included."""

from __future__ import annotations

from typing import Any

import numpy as np

from bfsr_edge.errors import BackendError, ModelError
from bfsr_edge.runtime import base
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.weights import Model

NAME = "openvino"
KIND = "onnx"
INSTALL = "pip install openvino"
# ours -> OpenVINO's names of element types
ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
EXECUTED = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
LAYERS = ("Convolution", "Deconvolution")


class Engine(base.Engine):
    """An OpenVINO compiled model and one infer request."""

    def __init__(self, info: base.EngineInfo, compiled: Any) -> None:
        super().__init__(info)
        self._request = compiled.create_infer_request()

    def _infer(self, batch: base.Batch) -> base.Batch:
        # the input is read in place; the output is copied, as the next run overwrites the request's own buffer
        outputs = self._request.infer([batch], share_inputs=True, share_outputs=True)
        return np.array(outputs[0], dtype=np.float32)


def load(
    model: Model, *, device: str, tile: int | tuple[int, int] | None, precision: str, threads: int | None
) -> Engine:
    """Compile an ONNX file; see ``bfsr_edge.runtime.load`` for the arguments and errors."""
    openvino = base.require("openvino", NAME, INSTALL)
    if device != "cpu":
        raise BackendError(
            f"backend {NAME} runs on cpu only, not on {device}",
            fix="use --device cpu, or --backend onnxruntime or torch for CUDA",
        )
    graph = read_graph(model, tile)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # without this, OpenVINO takes bf16 or fp16 by itself wherever the CPU has instructions for it
        "INFERENCE_PRECISION_HINT": ELEMENT_TYPES[precision],
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(graph.content), "CPU", settings)
    except RuntimeError as error:
        raise ModelError(
            f"{NAME} cannot load {model.path} with tiles of {graph.tile[0]}×{graph.tile[1]}",
            why=(_reason(error),),
            fix="export it again with bfsr-edge export, or use --backend onnxruntime",
        ) from error
    info = base.EngineInfo(
        model=model.name,
        backend=NAME,
        backend_version=openvino.__version__.split("-")[0],
        device=device,
        precision=_executed(compiled, precision),
        scale=graph.scale,
        stride=graph.stride,
        receptive_field=graph.receptive_field,
        tile=graph.tile,
        sha256=model.sha256,
    )
    return Engine(info, compiled)


def _reason(error: RuntimeError) -> str:
    """The line of a long report that names what OpenVINO does not know, else the first that says something."""
    unknown = [line.strip(" -") for line in str(error).splitlines() if "No conversion rule" in line]
    return unknown[0] if unknown else base.first_line(error)


def _executed(compiled: Any, asked: str) -> str:
    """The precision of the convolutions in the graph that OpenVINO really runs.

    Raises
    ------
    BackendError
        It took another floating-point precision than asked.
    """
    hint = EXECUTED.get(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    types = {layer["runtimePrecision"].astype(str) for layer in layers if layer["layerType"].astype(str) in LAYERS}
    executed = {EXECUTED.get(name, name) for name in types} or {hint}
    # single layers without a bf16 or fp16 kernel stay in fp32, which is never worse than what was asked
    if hint != asked or not executed <= {asked, "fp32", "int8"}:
        raise BackendError(
            f"{NAME} executes {'+'.join(sorted(executed))} here, not {asked}",
            why=(f"this CPU has no instructions for {asked}",),
            fix="use precision fp32",
        )
    return "+".join(sorted(executed))
