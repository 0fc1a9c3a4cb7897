"""A test that builds a small engine on this machine, runs it and compares it with the FP32 graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, BfsrError, ModelError
from bfsr_edge.metrics import psnr
from bfsr_edge.runtime import load, sidecar

Float = npt.NDArray[np.float32]

LEAST_PSNR = {"fp32": 60.0, "fp16": 45.0, "bf16": 38.0, "int8": 36.0}
"""dB between an engine and the FP32 graph on 8-bit pixels below which a self-test fails: far below what correct engines
reach, far above what wrong ones do."""
RUNS = 3
"""How often the picture is run before the last result is compared: the third run is a CUDA graph's, after both of its
batch sizes."""
NOT_COMPARED = "not compared: neither onnxruntime nor openvino is installed"
SECONDS_OF_RUNS = 2.0


@dataclass
class Selftest:
    """What a self-test found; printed as JSON to be put into an issue."""

    passed: bool = False
    """Whether everything worked and the picture is right."""
    step: str = ""
    """The step that failed; empty where none did."""
    error: str = ""
    """Why."""
    engine: dict[str, Any] = field(default_factory=dict)
    """What was built."""
    seconds_to_build: float = 0.0
    seconds_to_load: float = 0.0
    reference: str = ""
    """What the result was compared with, or that and why it was not."""
    psnr: float | None = None
    """dB between the engine's and the reference's 8-bit pictures; ``None``: not reached, not compared, or equal."""
    milliseconds: float = 0.0
    """Median time for one tile, host to host."""
    batch: int = 1
    """Tiles that ran together in that measurement."""


def selftest(build: Callable[[], Path], onnx: Path) -> Selftest:
    """Build an engine, run it on a picture, compare it with the FP32 graph, and time it. Never raises.

    Where nothing is installed that runs the FP32 graph, the comparison is left out, and ``reference`` says so.

    Parameters
    ----------
    build
        Builds a small engine of ``onnx`` for this machine; its path.
    onnx
        The FP32 graph.
    """
    result = Selftest()
    steps: list[tuple[str, Callable[[], None]]] = []
    made: dict[str, Any] = {}

    def build_it() -> None:
        started = time.perf_counter()
        made["path"] = build()
        result.seconds_to_build = round(time.perf_counter() - started, 2)
        described = sidecar.read(made["path"])
        names = ("flavour", "flavour_version", "precision", "target", "sm", "gpu", "cuda", "driver", "system", "io")
        result.engine = {name: getattr(described, name) for name in (*names, "weakly_typed", "tile", "batch")}
        made["precision"] = described.precision

    def load_it() -> None:
        started = time.perf_counter()
        made["engine"] = load(made["path"])
        result.seconds_to_load = round(time.perf_counter() - started, 2)
        info = made["engine"].info
        result.engine |= {"device": info.device, "executed": info.precision, "backend_version": info.backend_version}

    def run_it() -> None:
        count = 2 * made["engine"].info.batch + 1  # odd: the last chunk is smaller
        made["batch"] = pictures(count, *made["engine"].info.tile)
        for _ in range(RUNS):
            made["result"] = made["engine"].run(made["batch"])

    def compare_it() -> None:
        expected, result.reference = _reference(onnx, made["batch"])
        if expected is None:
            return
        value = psnr(_flat(made["result"]), _flat(expected))
        result.psnr = None if np.isinf(value) else round(value, 2)
        least = LEAST_PSNR.get(made["precision"], LEAST_PSNR["int8"])
        if value < least:
            raise ModelError(
                f"the engine's picture is {value:.1f} dB away from FP32, it should be above {least:.0f} dB"
            )

    def time_it() -> None:
        result.batch = max(1, made["engine"].info.batch)
        result.milliseconds = round(_milliseconds(made["engine"], made["batch"][: result.batch]), 3)

    steps = [("build", build_it), ("load", load_it), ("run", run_it), ("compare", compare_it), ("time", time_it)]
    for name, step in steps:
        try:
            step()
        except BfsrError as error:
            result.step, result.error = name, "; ".join((error.what, *error.why))
            break
        except Exception as error:  # a self-test reports what it meets, whatever that is
            result.step, result.error = name, f"{type(error).__name__}: {error}"
            break
    else:
        result.passed = True
    if "engine" in made:
        made["engine"].close()
    return result


def pictures(count: int, height: int, width: int) -> Float:
    """Pictures with edges, gradients, texture and grain: N×3×h×w in [0, 1], the same every time."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(max(height, width))
    random = np.random.default_rng(7)
    made = []
    for number in range(count):
        circle = (np.hypot(x - 0.5, y - 0.45) < 0.3 + 0.02 * number).astype(np.float32)
        waves = np.sin((20 + 5 * number) * x + 31 * y) * np.float32(0.1)
        skin = np.stack([0.75 - 0.2 * y, 0.55 - 0.15 * y, 0.45 - 0.1 * x])
        ground = np.stack([0.2 + 0.5 * x, 0.3 + 0.4 * y, 0.6 - 0.3 * x])
        grain = random.normal(0, 0.02, (3, height, width))
        made.append(np.clip(np.where(circle, skin, ground + waves) + grain, 0, 1))
    return np.asarray(np.stack(made), np.float32)


def _reference(onnx: Path, batch: Float) -> tuple[Float | None, str]:
    """The FP32 graph's result by onnxruntime or else openvino, and which; None where neither is installed."""
    height, width = batch.shape[2:]
    problems = []
    for backend in ("onnxruntime", "openvino"):
        try:
            engine = load(onnx, backend=backend, device="cpu", tile=(height, width))
        except BackendError as error:
            problems.append(error)
            continue
        return engine.run(batch), f"{backend} {engine.info.backend_version}, {engine.info.precision}"
    if all(isinstance(problem.__cause__, ImportError) for problem in problems):
        return None, NOT_COMPARED
    raise problems[-1]


def _flat(batch: Float) -> Float:
    """All pictures of a batch below each other, their planes too: what is scored is every value alike."""
    return batch.reshape(-1, batch.shape[-1])


def _milliseconds(engine: Any, batch: Float) -> float:
    """Median per tile."""
    for _ in range(3):
        engine.run(batch)
    times: list[float] = []
    until = time.perf_counter() + SECONDS_OF_RUNS
    while len(times) < 10 or (time.perf_counter() < until and len(times) < 200):
        started = time.perf_counter()
        engine.run(batch)
        times.append((time.perf_counter() - started) / len(batch) * 1000)
    return float(np.median(times))
