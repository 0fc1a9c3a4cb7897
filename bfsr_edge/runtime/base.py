"""What every backend promises: the engine, what it tells about itself, and the checks around each run."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, BfsrError, OutOfMemory, UsageError, first_line

# importing OpenVINO tells Google Analytics so, in a process of its own, unless the module that does it is not there
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

Batch = npt.NDArray[np.float32]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEFAULT_TILE = 128
CHANNELS = 3
# rounding before the network may leave [0, 1] by this much; 0 to 255 instead of 0 to 1 leaves it by far more
RANGE_SLACK = 1e-3
# how C++, OpenVINO, oneDNN, ONNX Runtime, torch, CUDA, TensorRT, OpenCV and the system say it
_NO_MEMORY = re.compile(
    r"out[ _]of[ _]?memory|bad[ _]alloc|(?:not enough|insufficient|no) memory"
    r"|(?:can ?not|can't|could not|couldn't|unable to|failed to) (?:be )?(?:allocat|create a memory object|map memory)"
    r"|memory allocation fail|allocation failure|outofmemory"
    r"|resource temporarily unavailable",  # there is no room for the stack of another thread
    re.IGNORECASE,
)


@dataclass(frozen=True)
class EngineInfo:
    """What is loaded, and how it really runs."""

    model: str
    """The shipped name, or the file's name."""
    backend: str
    """"openvino", "onnxruntime", "torch", "tensorrt" or "tensorrt-rtx"."""
    backend_version: str
    """The version of that package."""
    device: str
    """"cpu" or "cuda:N"."""
    precision: str
    """What the convolutions execute, read back and not what was asked: "fp32", "bf16", "fp16", or "fp32+int8" where a
    quantized graph leaves some of them in floating point. For a plan of TensorRT it is what it was built with: the
    types of its graph."""
    scale: int
    """Output pixels per input pixel, along each side."""
    stride: int
    """Both sides of a tile are multiples of it."""
    receptive_field: int
    """Radius in input pixels: what lies further away cannot change an output pixel. 0 where the file does not say."""
    tile: tuple[int, int]
    """Height and width of the input, in pixels."""
    sha256: str
    """Of the file that was loaded."""
    batch: int = 0
    """How many tiles an engine was tuned for at a time; 0 where it does not matter. Batches of any size run."""
    bytes_per_pixel: float = 0.0
    """Working memory of one run for each pixel of its batch, in bytes; 0 where it is not known."""
    rebuild: str = ""
    """The command that built an engine whose tile is fixed; empty where another tile can be loaded."""


class Engine(ABC):
    """A loaded network. Made by ``bfsr_edge.runtime.load``; may be called from several threads.

    ``streams`` of them run at a time, the others wait; 1 unless more were asked for and the backend can.
    """

    def __init__(self, info: EngineInfo, streams: int = 1) -> None:
        self.info = info
        self.streams = streams
        self._lock = threading.Lock() if streams == 1 else threading.BoundedSemaphore(streams)

    def run(self, batch: Batch) -> Batch:
        """Enlarge a batch of tiles.

        Parameters
        ----------
        batch
            float32, N×3×h×w, RGB in [0, 1]; N at least 1 and of any size, h×w equal to ``info.tile``. Not modified.

        Returns
        -------
        numpy.ndarray
            A new float32 array, N×3×sh×sw with s = ``info.scale``. Not clipped.

        Raises
        ------
        UsageError
            The batch is not of that shape, type or range.
        OutOfMemory
            It does not fit into the memory of the device or the machine. The engine can be used again.
        BackendError
            The backend failed, or the result is of another shape or holds NaN or Inf.
        """
        self._check_input(batch)
        try:
            with self._lock:
                result = self._infer(np.ascontiguousarray(batch))
        except BfsrError:
            raise
        except Exception as error:  # each library raises its own classes, several derive from Exception itself
            if lacks_memory(error):
                raise out_of_memory(self.info.model, len(batch), self.info.tile, error) from error
            raise BackendError(
                f"{self.info.backend} failed while running {self.info.model}",
                why=(first_line(error), f"{len(batch)} tiles of {by(self.info.tile)} do not fit into memory"),
                fix="try a smaller batch or tile, or another backend",
            ) from error
        self._check_output(batch, result)
        return result

    def close(self) -> None:  # noqa: B027  # most backends have nothing to give back
        """Give back what the engine holds on a GPU. Without it that happens when the engine is no longer referenced."""

    @abstractmethod
    def _infer(self, batch: Batch) -> Batch:
        """Run one C-contiguous, checked batch; the array returned belongs to the caller."""

    def _check_input(self, batch: Batch) -> None:
        expected = (CHANNELS, *self.info.tile)
        dtype: object = getattr(batch, "dtype", type(batch).__name__)
        if dtype != np.float32:
            raise UsageError(f"the batch must be a numpy array of float32, this is {dtype}")
        if batch.ndim != 4 or batch.shape[1:] != expected or len(batch) == 0:
            raise UsageError(
                f"the batch must be N×{CHANNELS}×{by(self.info.tile)}, this is {by(batch.shape)}",
                why=(f"{self.info.model} is loaded with tiles of {by(self.info.tile)}",),
                fix="load the engine with tile= set to the size of your pictures",
            )
        # written so that a NaN passes here: it is found in the result and named for what it is
        if batch.min() < -RANGE_SLACK or batch.max() > 1 + RANGE_SLACK:
            raise UsageError(
                f"the batch must lie in [0, 1], this one spans {batch.min():g} to {batch.max():g}",
                why=("8-bit values were not divided by 255",),
            )

    def _check_output(self, batch: Batch, result: Batch) -> None:
        height, width = (side * self.info.scale for side in self.info.tile)
        expected = (len(batch), CHANNELS, height, width)
        if result.shape != expected:
            raise BackendError(
                f"{self.info.model} gave {by(result.shape)} instead of {by(expected)}",
                why=(f"the file says its scale is {self.info.scale}, the network does something else",),
                fix="export the network again",
            )
        # minimum and maximum carry any NaN or Inf, and cost a tenth of looking at every value with isfinite
        if not (np.isfinite(result.min()) and np.isfinite(result.max())):
            broken = sum(not np.isfinite(picture).all() for picture in result)
            raise BackendError(
                f"{self.info.model} gave NaN or Inf in {broken} of {len(batch)} tiles",
                why=(
                    f"values overflow in {self.info.precision}",
                    "the input holds NaN",
                    "the weights are damaged",
                ),
                fix="use precision fp32; if that fails too, load the model again from its source",
            )


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception, of ours or of any library here, says that there is not enough memory."""
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    # our own errors only tell what others said as their cause; in ``why`` it may be a guess
    return not isinstance(error, BfsrError) and _NO_MEMORY.search(str(error)) is not None


def out_of_memory(model: str, batch: int, tile: Sequence[int], error: BaseException) -> OutOfMemory:
    """The error of every backend for a batch that does not fit."""
    tiles = f"a tile of {by(tile)}" if batch == 1 else f"{batch} tiles of {by(tile)}"
    return OutOfMemory(
        f"there is not enough memory to run {model} on {tiles}",
        why=(first_line(error), "other programs hold it"),
        fix="use a smaller --tile" if batch == 1 else "use a smaller --batch or --tile",
    )


def require(module: str, backend: str, install: str) -> ModuleType:
    """Import a backend's package, or say how to get it.

    Raises
    ------
    BackendError
        It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"backend {backend} cannot be used: importing {module} failed",
            why=(f"it is not installed here, or not completely ({error})",),
            fix=install,
        ) from error


def tile_size(tile: int | tuple[int, int] | None, stride: int, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the tile to use; ``default`` where nothing was asked.

    Raises
    ------
    UsageError
        A side is not a positive multiple of the stride.
    """
    if tile is None:
        return default
    height, width = (tile, tile) if isinstance(tile, int) else tile
    if any(side <= 0 or side % stride for side in (height, width)):
        above = max(1, -(-max(height, width) // stride)) * stride
        raise UsageError(
            f"a tile of {by((height, width))} does not fit this network",
            why=(f"both sides must be positive multiples of its stride, {stride}",),
            fix=f"use a tile of {above}",
        )
    return height, width


def to_uint8(batch: Batch, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
    """[0, 1] to 0 … 255, rounded, for networks that take 8 bits.

    Raises
    ------
    BackendError
        The batch holds NaN, which would become a black pixel without a word.
    """
    scaled = np.multiply(batch, np.float32(255), dtype=np.float32)
    if np.isnan(scaled.min()):
        broken = sum(bool(np.isnan(picture).any()) for picture in batch)
        raise BackendError(f"NaN or Inf in {broken} of {len(batch)} tiles of the input, and this network takes 8 bits")
    np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
    result = np.empty(batch.shape, np.uint8) if out is None else out
    result[...] = scaled
    return result


def from_uint8(values: npt.NDArray[Any]) -> Batch:
    """0 … 255 to [0, 1]; float32 stays as it is. Always a new array, C-contiguous."""
    if values.dtype == np.uint8:
        return np.asarray(np.divide(values, np.float32(255), dtype=np.float32), order="C")
    return np.array(values, dtype=np.float32, order="C")


def by(shape: Sequence[int]) -> str:
    """Sides as one says them: 128×128."""
    return "×".join(str(side) for side in shape)
