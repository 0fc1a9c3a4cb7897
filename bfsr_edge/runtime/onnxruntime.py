"""ONNX Runtime: the second opinion on a CPU, and ONNX files on CUDA."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from bfsr_edge.errors import BackendError, ModelError, first_line
from bfsr_edge.precision import is_quantized
from bfsr_edge.runtime import base, machine
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.weights import Model

NAME = "onnxruntime"
INSTALL = "pip install 'bfsr-edge[onnxruntime]'"
INSTALL_CUDA = "pip uninstall onnxruntime; pip install onnxruntime-gpu"
HELD = 1.25
"""Memory taken for what the graph says is alive: 1.2 on the default network, measured as in ``openvino``."""
WARNING = 3  # ONNX Runtime's severity: errors only


class Engine(base.Engine):
    """An ONNX Runtime session."""

    def __init__(self, info: base.EngineInfo, session: Any, streams: int) -> None:
        super().__init__(info, streams)
        self._session = session
        self._input = session.get_inputs()[0].name
        self._uint8 = session.get_inputs()[0].type == "tensor(uint8)"

    def _infer(self, batch: base.Batch) -> base.Batch:
        given: npt.NDArray[Any] = base.to_uint8(batch) if self._uint8 else batch
        return base.from_uint8(self._session.run(None, {self._input: given})[0])


def load(
    model: Model,
    *,
    device: str,
    tile: int | tuple[int, int] | None,
    precision: str,
    threads: int | None,
    streams: int = 1,
) -> Engine:
    """Open a session on an ONNX file; see ``bfsr_edge.runtime.load`` for the arguments and errors."""
    onnxruntime = base.require("onnxruntime", NAME, INSTALL)
    if precision not in ("auto", "fp32"):
        raise BackendError(
            f"backend {NAME} executes what the graph says, and this one is float32: {precision} cannot be asked for",
            fix="use precision fp32, or --backend openvino or torch",
        )
    provider, provider_options = _provider(onnxruntime, device)
    graph = read_graph(model, tile)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = WARNING
    streams = streams if device == "cpu" else 1
    if threads is not None or streams > 1:
        # each run takes so many threads, and several may run on one session
        options.intra_op_num_threads = max(1, (threads or machine.cores()) // streams)
    try:
        session = onnxruntime.InferenceSession(
            graph.content, options, providers=[provider], provider_options=[provider_options]
        )
    except Exception as error:  # its classes derive from Exception itself
        raise ModelError(
            f"{NAME} cannot load {model.path} with tiles of {graph.tile[0]}×{graph.tile[1]}",
            why=(first_line(error),),
            fix="export it again with bfsr-edge export, or use --backend openvino",
        ) from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"{NAME} would run on {session.get_providers()[0]}, not on {device}",
            why=("the CUDA or cuDNN libraries that onnxruntime-gpu needs are missing or of another version",),
            fix="use --device cpu, or --backend torch",
        )
    info = base.EngineInfo(
        model=model.name,
        backend=NAME,
        backend_version=onnxruntime.__version__,
        device=device,
        precision=_executed(graph.content),
        scale=graph.scale,
        stride=graph.stride,
        receptive_field=graph.receptive_field,
        tile=graph.tile,
        sha256=model.sha256,
        bytes_per_pixel=HELD * graph.live_bytes,
    )
    return Engine(info, session, streams)


def _provider(onnxruntime: Any, device: str) -> tuple[str, dict[str, str]]:
    if device == "cpu":
        return "CPUExecutionProvider", {}
    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise BackendError(
            f"this {NAME} cannot use {device}",
            why=("onnxruntime was installed without CUDA support",),
            fix=INSTALL_CUDA,
        )
    # TF32 is on by default and is not fp32
    return provider, {"device_id": device.partition(":")[2], "use_tf32": "0"}


def _executed(content: bytes) -> str:
    """ONNX Runtime computes in the types of the graph: float32, and integers where Q/DQ nodes stand."""
    import onnx

    return "fp32+int8" if is_quantized(onnx.load_from_string(content)) else "fp32"
