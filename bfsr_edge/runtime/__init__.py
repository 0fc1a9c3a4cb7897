"""Networks as engines: one contract, a module for each backend.

>>> from bfsr_edge.runtime import load
>>> engine = load("edge")
>>> larger = engine.run(batch)      # float32, N×3×128×128 to N×3×512×512, RGB in [0, 1]
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from dataclasses import dataclass

from bfsr_edge.errors import BackendError, BfsrError, OutOfMemory, UsageError
from bfsr_edge.runtime import built, machine, sidecar
from bfsr_edge.runtime.base import DEFAULT_TILE, PRECISIONS, Engine, EngineInfo, by, lacks_memory, out_of_memory
from bfsr_edge.runtime.mirrored import Mirrored
from bfsr_edge.runtime.sidecar import Sidecar
from bfsr_edge.weights import DEFAULT, Model, list_models, resolve

__all__ = ["BACKENDS", "PRECISIONS", "Choice", "Engine", "EngineInfo", "choose", "load"]

# backend -> the kind of file it reads; openvino also runs engines that were built for it
BACKENDS = {"openvino": "onnx", "onnxruntime": "onnx", "torch": "checkpoint", "tensorrt": "engine"}
FLAVOUR_BACKENDS = {"openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt"}

LOG = logging.getLogger("bfsr_edge.runtime")


@dataclass(frozen=True)
class Choice:
    """Which file runs, and by what."""

    model: Model
    """The file."""
    backend: str
    """A key of ``BACKENDS``."""
    device: str
    """"cpu" or "cuda:N"."""
    sidecar: Sidecar | None = None
    """Of an engine; it says the tile and the batch."""
    note: str = ""
    """What a user should know about the choice, with the next step; empty where there is nothing to say."""

    @property
    def fixed_tile(self) -> tuple[int, int] | None:
        """Height and width of the only tile that it runs; ``None`` where the tile can be chosen."""
        if self.sidecar is None or self.sidecar.flavour == "openvino":
            return None
        return self.sidecar.tile


def load(
    model: str | os.PathLike[str] | Choice = DEFAULT,
    *,
    backend: str = "auto",
    device: str = "auto",
    tile: int | tuple[int, int] | None = None,
    precision: str = "auto",
    threads: int | None = None,
    streams: int = 1,
    tta: bool = False,
) -> Engine:
    """Load a network for inference.

    Parameters
    ----------
    model
        The name of a shipped model, or the path of a checkpoint, an ONNX file or an engine; or what ``choose`` gave.
    backend
        "openvino" or "onnxruntime" (ONNX files), "torch" (checkpoints), "tensorrt" (engines), or "auto": what the file
        is for. On CUDA auto takes an engine of the model if one fits, else torch for a shipped name and onnxruntime
        for an ONNX file, as openvino does not run there.
    device
        "cpu", "cuda:N" ("cuda" is the first one), or "auto": the first GPU for an engine that was built for one, and
        for a model that has such an engine in ``engines/`` or the user's cache; else the CPU.
    tile
        Side of the input in pixels, or (height, width); a multiple of the network's stride. ``None`` takes what the
        file says, 128 where it says nothing. A TensorRT engine has one tile and runs no other.
    precision
        Floating-point precision to execute: "fp32", "bf16" or "fp16"; "auto" is what an engine was built for, and
        "fp32" for all else. It is never replaced by another silently; ``Engine.info.precision`` tells what is
        executed. The INT8 layers of a quantized file stay INT8.
    threads
        CPU threads, all cores by default.
    streams
        Runs that go on at the same time, called from as many threads, on a CPU: together they take the threads and
        are faster than one after the other, each by itself is slower. ``Engine.streams`` tells how many there are:
        1 where the backend has but one.
    tta
        Test-time augmentation: every tile is run as it is and mirrored, and the mean is given. A little better for
        twice the time.

    Raises
    ------
    UsageError
        An unknown name of a model, backend, device or precision, a file that is not there, a tile that does not fit.
    ModelError
        The file cannot be used, or is an engine for another machine.
    OutOfMemory
        It does not fit into the memory of the device or the machine.
    BackendError
        The backend is not installed, or cannot do what was asked here.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}", fix=f"use {', '.join(PRECISIONS)}")
    if isinstance(model, Choice):
        choice = model
    else:
        choice = choose(model, backend=backend, device=device, tile=tile, precision=precision, threads=threads)
        if choice.note:
            LOG.warning("%s", choice.note)
    module = importlib.import_module(f"bfsr_edge.runtime.{choice.backend}")
    try:
        engine = module.load(
            choice.model, device=choice.device, tile=tile, precision=precision, threads=threads, streams=streams
        )
    except Exception as error:
        # what backends make of it differs: this asks what the library below them said
        told = error.__cause__ if isinstance(error, BfsrError) and error.__cause__ is not None else error
        if isinstance(error, OutOfMemory) or not lacks_memory(told):
            raise
        size = (tile, tile) if isinstance(tile, int) else tile
        raise out_of_memory(choice.model.name, 1, size or (DEFAULT_TILE,) * 2, told) from error
    assert isinstance(engine, Engine)
    return Mirrored(engine) if tta else engine


def choose(
    model: str | os.PathLike[str] = DEFAULT,
    *,
    backend: str = "auto",
    device: str = "auto",
    tile: int | tuple[int, int] | None = None,
    precision: str = "auto",
    threads: int | None = None,
) -> Choice:
    """The file and the backend that ``load`` would take; the arguments are the same.

    Raises
    ------
    UsageError, ModelError, BackendError
        As ``load``, as far as it shows without loading anything.
    """
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"there is no backend {backend!r}", fix=f"use auto, {', '.join(BACKENDS)}")
    wanted = _device(device)
    if threads is not None and (threads < 1 or wanted.startswith("cuda")):
        raise UsageError(f"threads is a positive number of CPU threads, {threads} on {wanted} is not")
    shipped = os.fspath(model) in {entry.name for entry in list_models()}
    # of a shipped model, what an explicit backend reads; engines are found by the ONNX that they were built from
    kind = {**BACKENDS, "auto": None, "tensorrt": "onnx"}[backend] if shipped else None
    found = resolve(model, kind=kind)
    if found.kind == "engine":
        return _engine(found, sidecar.read(found.path), backend, wanted)

    note = ""
    # precision and threads are wishes that no engine of TensorRT fulfils
    if wanted != "cpu" and backend in ("auto", "tensorrt") and precision == "auto" and threads is None:
        index = int(wanted.partition(":")[2] or 0)
        engine, described, note = _built(model, found, index, tile)
        if engine is not None and described is not None:
            return _engine(engine, described, backend, f"cuda:{index}")
    if backend == "tensorrt":
        raise BackendError(
            f"backend tensorrt runs engines, and there is none of {found.name} for this machine",
            fix=f"{build_command(model)}; then --model FILE.engine",
        )
    if wanted == "auto":
        return _other(model, found, shipped, backend, "cpu", note if backend == "auto" else "")
    return _other(model, found, shipped, backend, wanted, "")


def build_command(model: str | os.PathLike[str]) -> str:
    """The command that builds an engine of a model for this machine."""
    return f"bfsr-edge build-engine --model {os.fspath(model)}"


def _device(device: str) -> str:
    matched = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if not matched:
        raise UsageError(f"there is no device {device!r}", fix="use auto, cpu, or cuda:0 for the first NVIDIA GPU")
    return f"cuda:{matched[1] or 0}" if device.startswith("cuda") else device


def _engine(found: Model, described: Sidecar, backend: str, device: str) -> Choice:
    """A choice of an engine: its sidecar says which backend runs it."""
    sidecar.check_plan(described, found)
    own = FLAVOUR_BACKENDS[described.flavour]
    if backend not in ("auto", own):
        raise BackendError(
            f"{found.path} is an engine for {described.flavour}, which backend {backend} does not run",
            fix=f"use --backend {own}",
        )
    if own == "openvino":
        if device not in ("auto", "cpu"):
            raise UsageError(
                f"{found.path} is an engine for CPUs and does not run on {device}",
                fix="use --device cpu, or build one for the GPU: bfsr-edge build-engine",
            )
        return Choice(found, own, "cpu", described)
    if device == "cpu":
        raise UsageError(
            f"{found.path} is an engine for NVIDIA GPUs and does not run on the CPU",
            fix="use --device cuda:0, or the ONNX file that it was built from",
        )
    return Choice(found, own, "cuda:0" if device == "auto" else device, described)


def _built(
    model: str | os.PathLike[str], found: Model, index: int, tile: int | tuple[int, int] | None
) -> tuple[Model | None, Sidecar | None, str]:
    """An engine of the model for that GPU, and what to say where there is none; all empty without a GPU."""
    gpus = machine.gpus()
    if index >= len(gpus) or found.kind != "onnx":
        return None, None, ""
    fitting = built.of(found.sha256, gpus[index])
    height_width = (tile, tile) if isinstance(tile, int) else tile
    for path, described in fitting:
        if height_width in (None, described.tile):
            engine = resolve(path)
            return Model(found.name, engine.path, engine.kind, engine.sha256), described, ""
    if fitting:
        tiles = " and ".join(sorted({by(described.tile) for _, described in fitting}))
        return None, None, f"the engines of {found.name} have tiles of {tiles}, so another tile runs on the CPU"
    return (
        None,
        None,
        f"{gpus[index].name} is here, but no engine of {found.name} for it, so the CPU does the work\n"
        f"  next: {build_command(model)}",
    )


def _other(model: str | os.PathLike[str], found: Model, shipped: bool, backend: str, device: str, note: str) -> Choice:
    """A choice of an ONNX file or a checkpoint."""
    if backend == "auto" and shipped:
        if device != "cpu" and importlib.util.find_spec("torch") is None:
            raise BackendError(
                f"there is no engine of {found.name} for {device}, and torch, which could run its checkpoint there, "
                "is not installed",
                fix=f"{build_command(model)}, or --device cpu",
            )
        backend = "openvino" if device == "cpu" else "torch"
        found = resolve(model, kind=BACKENDS[backend])
    elif backend == "auto":
        onnx = "openvino" if device == "cpu" else "onnxruntime"
        backend = onnx if found.kind == "onnx" else "torch"
    if BACKENDS[backend] != found.kind:
        readers = [name for name, kind in BACKENDS.items() if kind == found.kind]
        raise BackendError(
            f"backend {backend} reads files of kind {BACKENDS[backend]}, {found.path} is of kind {found.kind}",
            fix=f"use --backend {' or '.join(readers)}"
            + ("" if found.kind == "onnx" else f", or first: bfsr-edge export --model {found.path} --out FILE.onnx"),
        )
    return Choice(found, backend, device, note=note)
