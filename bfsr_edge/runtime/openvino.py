"""OpenVINO: the default on a CPU. Runs ONNX files, INT8 graphs with Q/DQ nodes included, and engines built for a CPU.

Such an engine is an ONNX file with a sidecar. What OpenVINO compiles it to is kept in ``NAME.engine.cache`` beside it,
or in the user's cache folder where that cannot be written; OpenVINO itself finds out whether it still fits the machine.
"""

from __future__ import annotations

import logging
import os
import shlex
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, ModelError, UsageError, first_line
from bfsr_edge.runtime import base, machine, sidecar
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.weights import Model

NAME = "openvino"
INSTALL = "pip install openvino"
# ours -> OpenVINO's names of element types
ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
EXECUTED = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
LAYERS = ("Convolution", "Deconvolution")
HELD = 2.25
"""Memory taken for what the graph says is alive: peak memory of the default network with tiles of 768 pixels against
256 gave 1.7 in FP32 and 2.2 in INT8, layouts and the buffers of input and output included."""

LOG = logging.getLogger("bfsr_edge.runtime.openvino")


class Engine(base.Engine):
    """An OpenVINO compiled model and an infer request for each stream."""

    def __init__(self, info: base.EngineInfo, compiled: Any, io: str, streams: int) -> None:
        super().__init__(info, streams)
        self._requests = [compiled.create_infer_request() for _ in range(streams)]
        self._closed = False
        self._uint8 = io == "uint8"

    def _infer(self, batch: base.Batch) -> base.Batch:
        if self._closed:
            raise UsageError(f"{self.info.model} was closed", fix="load it again")
        given: npt.NDArray[Any] = base.to_uint8(batch) if self._uint8 else batch
        request = self._requests.pop()  # no more runs than requests go on at a time
        try:
            # the input is read in place; the output is copied, as the next run overwrites the request's own buffer
            result = request.infer([given], share_inputs=True, share_outputs=True)[0]
            if len(result) == 0:  # seen once where memory was short, in place of an error
                raise MemoryError("OpenVINO gave an empty result, as it does where memory runs out")
            return base.from_uint8(result)
        finally:
            self._requests.append(request)

    def close(self) -> None:
        """Give back the memory of the compiled model, as soon as no run goes on."""
        self._closed = True
        for _ in range(self.streams):
            self._lock.acquire()
        self._requests.clear()
        for _ in range(self.streams):
            self._lock.release()


def load(
    model: Model,
    *,
    device: str,
    tile: int | tuple[int, int] | None,
    precision: str,
    threads: int | None,
    streams: int = 1,
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
    if streams > 1:
        settings["NUM_STREAMS"] = streams
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    _fill_tables(openvino)
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(graph.content), "CPU", settings)
    except (RuntimeError, ValueError) as error:  # ValueError: a message of its own that is no UTF-8
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
        bytes_per_pixel=HELD * graph.live_bytes,
    )
    return Engine(info, compiled, graph.io, streams)


_FILLING = threading.Lock()


def _fill_tables(openvino: Any) -> None:
    """Let OpenVINO fill its tables of element types, both ways, while no other thread runs it.

    They are filled on first use, which lets other threads run in between. One that then comes to the same table waits
    for it and keeps Python's lock meanwhile, so neither goes on (seen in 2026.4 with two runs at a time).
    """
    with _FILLING:
        openvino.Type.f32.to_dtype()
        openvino.Tensor(np.zeros((1, 1), np.float32), shared_memory=True).data.copy()


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
    """The sidecar of an engine, checked before the engine is read.

    Raises
    ------
    ModelError
        It is another file's, or for another machine: an INT8 one for a CPU that would compute wrong pictures.
    """
    described = sidecar.read(model.path)
    sidecar.check_plan(described, model)
    for remark in sidecar.check_machine(described, model.path, sidecar.Here(NAME, version, cuda="", driver="")):
        LOG.info("%s: %s", model.path.name, remark)
    if described.precision == "int8" and not set(machine.VNNI) & set(machine.cpu_features()):
        raise ModelError(
            f"{model.path} is INT8, which would give wrong pictures on this CPU",
            why=(f"it has none of {', '.join(machine.VNNI)} (or does not tell), so sums of 8-bit products saturate",),
            fix=f"build it here in FP32: {_in_fp32(described.rebuild)}",
        )
    return described


def _in_fp32(rebuild: str) -> str:
    """The command that builds an INT8 engine, for FP32: that takes no calibration."""
    words = shlex.split(rebuild) or sidecar.REBUILD.split()
    if "--calibration" in words:
        at = words.index("--calibration")
        del words[at : at + 2]
    return shlex.join([*(word for word in words if word != "--int8"), "--fp32"])


def _precision_of(described: sidecar.Sidecar, model: Model, asked: str) -> str:
    """The floating-point precision that an engine was built for: what is not quantized runs in it."""
    built = described.precision if described.precision in ELEMENT_TYPES else "fp32"
    if asked not in ("auto", described.precision, built):
        raise UsageError(
            f"{model.path} was built for {described.precision}, and {asked} was asked for",
            fix=f"leave --precision out, or build another: {described.rebuild}",
        )
    return built


def _reason(error: Exception) -> str:
    """The line of a long report that names what OpenVINO does not know, else the first that says something."""
    unknown = [line.strip(" -") for line in str(error).splitlines() if "No conversion rule" in line]
    return unknown[0] if unknown else first_line(error)


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
