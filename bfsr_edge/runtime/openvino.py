"""OpenVINO: the default on a CPU. Runs ONNX files, INT8 graphs with Q/DQ nodes included, and engines built for a CPU.

Such an engine is an ONNX file with a sidecar. What OpenVINO compiles it to is kept in ``NAME.engine.cache`` beside it,
or in the user's cache folder where that cannot be written; OpenVINO itself finds out whether it still fits the machine.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.runtime import base, machine, sidecar
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.weights import Model

NAME = "openvino"
KIND = "onnx"
INSTALL = "pip install openvino"
# ours -> OpenVINO's names of element types
ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
EXECUTED = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
LAYERS = ("Convolution", "Deconvolution")

LOG = logging.getLogger("bfsr_edge.runtime.openvino")


class Engine(base.Engine):
    """An OpenVINO compiled model and one infer request."""

    def __init__(self, info: base.EngineInfo, compiled: Any, io: str) -> None:
        super().__init__(info)
        self._request = compiled.create_infer_request()
        self._uint8 = io == "uint8"

    def _infer(self, batch: base.Batch) -> base.Batch:
        given: npt.NDArray[Any] = base.to_uint8(batch) if self._uint8 else batch
        # the input is read in place; the output is copied, as the next run overwrites the request's own buffer
        outputs = self._request.infer([given], share_inputs=True, share_outputs=True)
        return base.from_uint8(outputs[0])


def load(
    model: Model, *, device: str, tile: int | tuple[int, int] | None, precision: str, threads: int | None
) -> Engine:
    """Compile an ONNX file or an engine; see ``bfsr_edge.runtime.load`` for the arguments and errors."""
    openvino = base.require("openvino", NAME, INSTALL)
    if device != "cpu":
        raise BackendError(
            f"backend {NAME} runs on cpu only, not on {device}",
            fix="use --device cpu, or --backend onnxruntime or torch for CUDA",
        )
    version = openvino.__version__.split("-")[0]
    cache = None
    if model.kind == "engine":
        described = _check_engine(model, version)
        precision = _precision_of(described, model, precision)
        cache = cache_folder(model.path)
    elif precision == "auto":
        precision = "fp32"
    graph = read_graph(model, tile)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # without this, OpenVINO takes bf16 or fp16 by itself wherever the CPU has instructions for it
        "INFERENCE_PRECISION_HINT": ELEMENT_TYPES[precision],
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
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
        backend_version=version,
        device=device,
        precision=_executed(compiled, precision),
        scale=graph.scale,
        stride=graph.stride,
        receptive_field=graph.receptive_field,
        tile=graph.tile,
        sha256=model.sha256,
    )
    return Engine(info, compiled, graph.io)


def cache_folder(engine: Path) -> Path | None:
    """Where the compiled form of an engine is kept; ``None`` where nothing can be written, which costs time alone."""
    for folder in (engine.with_name(f"{engine.name}.cache"), machine.cache_folder() / "openvino"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    LOG.info("%s is compiled anew each time: neither its folder nor the user's cache can be written", engine)
    return None


def _check_engine(model: Model, version: str) -> sidecar.Sidecar:
    """The sidecar of an engine, checked before the engine is read."""
    described = sidecar.read(model.path)
    sidecar.check_plan(described, model)
    for remark in sidecar.check_machine(described, model.path, sidecar.Here(NAME, version, cuda="", driver="")):
        LOG.info("%s: %s", model.path.name, remark)
    return described


def _precision_of(described: sidecar.Sidecar, model: Model, asked: str) -> str:
    """The floating-point precision that an engine was built for: what is not quantized runs in it."""
    built = described.precision if described.precision in ELEMENT_TYPES else "fp32"
    if asked not in ("auto", described.precision, built):
        raise UsageError(
            f"{model.path} was built for {described.precision}, and {asked} was asked for",
            fix=f"leave --precision out, or build another: {described.rebuild}",
        )
    return built


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
