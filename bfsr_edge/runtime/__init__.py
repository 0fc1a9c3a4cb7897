"""Networks as engines: one contract, a module for each backend.

>>> from bfsr_edge.runtime import load
>>> engine = load("edge")
>>> larger = engine.run(batch)      # float32, N×3×128×128 to N×3×512×512, RGB in [0, 1]
"""

from __future__ import annotations

import importlib
import os
import re

from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.runtime.base import PRECISIONS, Engine, EngineInfo
from bfsr_edge.weights import DEFAULT, Model, list_models, resolve

__all__ = ["BACKENDS", "PRECISIONS", "Engine", "EngineInfo", "load"]

# backend -> the kind of file it reads
BACKENDS = {"openvino": "onnx", "onnxruntime": "onnx", "torch": "checkpoint"}


def load(
    model: str | os.PathLike[str] = DEFAULT,
    *,
    backend: str = "auto",
    device: str = "cpu",
    tile: int | tuple[int, int] | None = None,
    precision: str = "fp32",
    threads: int | None = None,
) -> Engine:
    """Load a network for inference.

    Parameters
    ----------
    model
        The name of a shipped model, or the path of a checkpoint or an ONNX file.
    backend
        "openvino" or "onnxruntime" (ONNX files), "torch" (checkpoints), or "auto": torch for a checkpoint, openvino
        for an ONNX file and for a shipped name. On CUDA auto takes torch for a shipped name and onnxruntime for an
        ONNX file, as openvino does not run there.
    device
        "cpu", or "cuda:N" ("cuda" is the first one).
    tile
        Side of the input in pixels, or (height, width); a multiple of the network's stride. ``None`` takes what the
        file says, 128 where it says nothing.
    precision
        Floating-point precision to execute: "fp32", "bf16" or "fp16". It is never replaced by another silently;
        ``Engine.info.precision`` tells what is executed. The INT8 layers of a quantized file stay INT8.
    threads
        CPU threads, all cores by default.

    Raises
    ------
    UsageError
        An unknown name of a model, backend, device or precision, a file that is not there, a tile that does not fit.
    ModelError
        The file cannot be used.
    BackendError
        The backend is not installed, or cannot do what was asked here.
    """
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"there is no backend {backend!r}", fix=f"use auto, {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}", fix=f"use {', '.join(PRECISIONS)}")
    device = _device(device)
    if threads is not None and (threads < 1 or device != "cpu"):
        raise UsageError(f"threads is a positive number of CPU threads, {threads} on {device} is not")
    found, backend = _choose(model, backend, device)
    module = importlib.import_module(f"bfsr_edge.runtime.{backend}")
    engine = module.load(found, device=device, tile=tile, precision=precision, threads=threads)
    assert isinstance(engine, Engine)
    return engine


def _device(device: str) -> str:
    matched = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if not matched:
        raise UsageError(f"there is no device {device!r}", fix="use cpu, or cuda:0 for the first NVIDIA GPU")
    return device if device == "cpu" else f"cuda:{matched[1] or 0}"


def _choose(model: str | os.PathLike[str], backend: str, device: str) -> tuple[Model, str]:
    """The file and the backend that runs it."""
    shipped = os.fspath(model) in {entry.name for entry in list_models()}
    if backend == "auto" and shipped:
        backend = "openvino" if device == "cpu" else "torch"
    found = resolve(model, kind=BACKENDS[backend] if shipped else None)
    if found.kind == "engine":
        raise ModelError(
            f"{found.path} is a TensorRT engine, and this version does not run those yet",
            fix="use the ONNX file or the checkpoint that it was built from",
        )
    if backend == "auto":
        onnx = "openvino" if device == "cpu" else "onnxruntime"
        backend = onnx if found.kind == "onnx" else "torch"
    if BACKENDS[backend] != found.kind:
        readers = [name for name, kind in BACKENDS.items() if kind == found.kind]
        raise BackendError(
            f"backend {backend} reads files of kind {BACKENDS[backend]}, {found.path} is of kind {found.kind}",
            fix=f"use --backend {' or '.join(readers)}"
            + ("" if found.kind == "onnx" else f", or first: bfsr-edge export --model {found.path} --out FILE.onnx"),
        )
    return found, backend
