"""What can be measured, and how it is opened: one function from a batch to a batch, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, first_line

if TYPE_CHECKING:
    from bfsr_edge.runtime import Engine

Batch = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """One engine to be measured; small enough to be sent to another process as JSON."""

    id: str
    """Unique in a run."""
    kind: str
    """"ours", "peer" or "baseline"."""
    network: str
    """The model's name."""
    runner: str = "engine"
    """"engine" goes through ``bfsr_edge.runtime``, "compile" is torch.compile of a checkpoint,
    "resize" OpenCV, "ncnn" an ncnn network, "realesrgan" one that a package ships."""
    model: str = ""
    """A file, a shipped name, an interpolation, or a network of the package."""
    backend: str = "auto"
    device: str = "cpu"
    precision: str = "auto"
    scored: bool = True
    """Whether pictures are scored; random weights are not."""
    fp32: str = ""
    """The id of the same network's FP32 engine, which PSNR drops refer to; empty: none."""
    note: str = ""
    """Goes into the row."""
    missing: str = ""
    """Why it cannot be measured here; the row then holds this and nothing else."""
    costs: str = ""
    """The ONNX or .param file that says what one input costs; empty: not known."""


@dataclass
class Runner:
    """A subject that is loaded."""

    run: Callable[[Batch], Batch]
    """float32 N×3×h×w in [0, 1] to N×3×4h×4w, not clipped."""
    backend: str
    backend_version: str
    precision: str
    """Executed."""
    device: str = "cpu"
    batches: bool = True
    """Whether N inputs are computed together; else one after the other."""
    engine: Engine | None = None
    """Where it is one of ``bfsr_edge.runtime``."""


def open_subject(subject: Subject, tile: int, threads: int) -> Runner:
    """Load a subject for inputs of tile×tile pixels.

    Raises
    ------
    BfsrError
        It cannot be loaded here.
    """
    if subject.runner == "engine":
        return _engine(subject, tile, threads)
    if subject.runner == "compile":
        return _compiled(subject, threads)
    if subject.runner == "resize":
        return _resize(subject, threads)
    if subject.runner in ("ncnn", "realesrgan"):
        from bfsr_edge.benchmarks import ncnn_runner

        return ncnn_runner.open_ncnn(subject, threads)
    raise BackendError(f"nothing opens a {subject.runner!r}")


def _engine(subject: Subject, tile: int, threads: int) -> Runner:
    from bfsr_edge.runtime import load

    on_cpu = subject.device == "cpu"
    engine = load(
        subject.model,
        backend=subject.backend,
        device=subject.device,
        tile=tile,
        precision=subject.precision,
        threads=threads if on_cpu else None,
    )
    info = engine.info
    return Runner(engine.run, info.backend, info.backend_version, info.precision, info.device, engine=engine)


def _compiled(subject: Subject, threads: int) -> Runner:
    """torch.compile; its first call compiles."""
    import warnings

    from bfsr_edge.runtime.base import require
    from bfsr_edge.weights import resolve

    torch: Any = require("torch", "torch", "pip install 'bfsr-edge[train]'")
    from bfsr_edge.models import load_checkpoint

    torch.set_num_threads(threads)
    network: Any = load_checkpoint(resolve(subject.model, kind="checkpoint").path).eval()
    network = network.to(memory_format=torch.channels_last)
    compiled = torch.compile(network)

    def run(batch: Batch) -> Batch:
        inputs = torch.from_numpy(batch).to(memory_format=torch.channels_last)
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations inside the compiler
                return np.array(compiled(inputs).numpy(), order="C")
        except Exception as error:  # every part of the compiler has exceptions of its own
            raise BackendError(
                "torch.compile does not work here", why=(first_line(error),), fix="apt install g++"
            ) from error

    return Runner(run, "torch.compile", torch.__version__, "fp32")


def _resize(subject: Subject, threads: int) -> Runner:
    """Interpolation on 8-bit values, as ``bfsr_edge.evaluate`` has it; the floats are only for the common shape."""
    import cv2

    cv2.setNumThreads(threads)
    methods = {"bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}
    method = methods[subject.model]

    def run(batch: Batch) -> Batch:
        results = []
        for picture in batch:
            pixels = np.rint(picture.transpose(1, 2, 0) * 255).astype(np.uint8)
            height, width = pixels.shape[:2]
            larger = cv2.resize(pixels, (width * 4, height * 4), interpolation=method)
            results.append(larger.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
        return np.ascontiguousarray(np.stack(results))

    return Runner(run, "opencv", cv2.__version__, "uint8", batches=False)
