"""Memory and streams of one NVIDIA GPU: the few things that running an engine needs, over two packages.

``open_device`` gives a ``Cuda`` by cuda-python (the default) or pycuda, chosen by argument, by ``BFSR_EDGE_CUDA`` in
the environment, or by what is installed. Both use the device's *primary* context, which torch and TensorRT share; it
is current only inside ``Cuda.active()``, so nothing is left behind in a thread.

A copy is asynchronous: the host array must be pinned, stay alive and stay untouched until its stream was synchronized,
or an event recorded after the copy. Every call that fails is a ``BackendError`` with CUDA's own name for the failure.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, OutOfMemory, UsageError
from bfsr_edge.runtime import machine
from bfsr_edge.runtime.base import require

VARIABLE = "BFSR_EDGE_CUDA"
# name -> module of ours, package, what installs it
IMPLEMENTATIONS = {
    "cuda-python": ("cuda_python", "cuda.bindings.driver"),
    "pycuda": ("cuda_pycuda", "pycuda.driver"),
}
INSTALL = "pip install 'bfsr-edge[cuda12]', or [cuda13] where nvidia-smi says CUDA 13"


@dataclass(frozen=True)
class Memory:
    """Memory on the device."""

    address: int
    """Where it begins, as TensorRT takes it."""
    size: int
    """In bytes."""
    raw: Any
    """The package's own object, which keeps the memory."""


@dataclass(frozen=True)
class Pinned:
    """Page-locked memory of the host."""

    array: npt.NDArray[Any]
    """It, as an array; its memory is gone after ``Cuda.free_pinned``."""
    raw: Any
    """The package's own object, which keeps the memory."""


@dataclass(frozen=True)
class Stream:
    """A queue of work; never the default stream, which waits for all others."""

    handle: int
    """The ``CUstream``, as TensorRT takes it."""
    raw: Any
    """The package's own object."""


@dataclass(frozen=True)
class Event:
    """A mark in a stream."""

    raw: Any
    """The package's own object."""


@dataclass(frozen=True)
class Graph:
    """Captured work, ready to be launched."""

    raw: Any
    """The package's own objects."""


class Cuda(ABC):
    """One GPU. Every method but ``active`` and ``close`` must be called inside ``with cuda.active():``."""

    name: str
    """"cuda-python" or "pycuda"."""
    version: str
    """Of that package."""
    graphs: bool
    """Whether it can capture CUDA graphs."""
    index: int
    """N of "cuda:N"."""
    gpu: str
    """The GPU's name, as ``machine.gpu_name`` gives it."""
    sm: str
    """Its compute capability, such as "8.9"."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the primary context current in this thread, and put back what was current before."""
        self._push()
        try:
            yield
        finally:
            self._pop()

    @abstractmethod
    def _push(self) -> None: ...
    @abstractmethod
    def _pop(self) -> None: ...

    @abstractmethod
    def allocate(self, size: int) -> Memory:
        """Memory of ``size`` bytes on the device, at least one; free it with ``free``."""

    @abstractmethod
    def free(self, memory: Memory) -> None:
        """Give memory back; nothing may use it any more."""

    @abstractmethod
    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Pinned:
        """A page-locked array; free it with ``free_pinned``."""

    @abstractmethod
    def free_pinned(self, pinned: Pinned) -> None:
        """Give page-locked memory back; nothing may read the array any more."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream that does not wait for the default one."""

    @abstractmethod
    def destroy_stream(self, stream: Stream) -> None:
        """End a stream."""

    @abstractmethod
    def synchronize(self, stream: Stream) -> None:
        """Wait until everything in the stream is done; failures of that work show here."""

    @abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """A new event; with ``timing`` it can be given to ``elapsed``."""

    @abstractmethod
    def destroy_event(self, event: Event) -> None:
        """End an event."""

    @abstractmethod
    def record(self, event: Event, stream: Stream) -> None:
        """Put a mark behind what is in the stream now."""

    @abstractmethod
    def wait(self, stream: Stream, event: Event) -> None:
        """Let what comes into the stream from now on wait for the mark."""

    @abstractmethod
    def wait_for(self, event: Event) -> None:
        """Wait in this thread until the mark is reached."""

    @abstractmethod
    def elapsed(self, start: Event, end: Event) -> float:
        """Milliseconds between two marks that were reached, both made with ``timing``."""

    def copy_in(self, memory: Memory, array: npt.NDArray[Any], stream: Stream) -> None:
        """Copy a pinned C-contiguous array to the device."""
        _check_fits(memory, array)
        self._copy_in(memory, array, stream)

    def copy_out(self, array: npt.NDArray[Any], memory: Memory, stream: Stream) -> None:
        """Copy from the device to a pinned C-contiguous array."""
        _check_fits(memory, array)
        self._copy_out(array, memory, stream)

    @abstractmethod
    def _copy_in(self, memory: Memory, array: npt.NDArray[Any], stream: Stream) -> None: ...
    @abstractmethod
    def _copy_out(self, array: npt.NDArray[Any], memory: Memory, stream: Stream) -> None: ...

    @abstractmethod
    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record the work that a call puts into the stream, without running it.

        The stream's capture is ended whatever the call does: afterwards the stream runs work again. Only this thread's
        calls are restricted meanwhile (thread-local capture).

        Raises
        ------
        BackendError
            ``graphs`` is false, or the work cannot be captured. What ``work`` raises goes through.
        """

    @abstractmethod
    def launch(self, graph: Graph, stream: Stream) -> None:
        """Run captured work in a stream."""

    @abstractmethod
    def destroy_graph(self, graph: Graph) -> None:
        """End a graph that does not run."""

    @abstractmethod
    def free_memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the primary context. Everything made with it must be gone; calling it again does nothing."""


def open_device(index: int = 0, implementation: str | None = None) -> Cuda:
    """The GPU with that number.

    Parameters
    ----------
    index
        N of "cuda:N".
    implementation
        "cuda-python" or "pycuda"; by default what ``BFSR_EDGE_CUDA`` says, else the first that is installed.

    Raises
    ------
    UsageError
        There is no such implementation.
    BackendError
        It is not installed, there is no driver, or no such GPU.
    """
    wanted = implementation or os.environ.get(VARIABLE) or ""
    if wanted and wanted not in IMPLEMENTATIONS:
        raise UsageError(f"there is no CUDA layer {wanted!r}", fix=f"use {' or '.join(IMPLEMENTATIONS)}, or none")
    if not wanted:
        there = importable()
        wanted = next((name for name in IMPLEMENTATIONS if is_version(there[name])), "cuda-python")
    module, package = IMPLEMENTATIONS[wanted]
    driver = require(package, wanted, install() if wanted == "cuda-python" else "pip install 'bfsr-edge[pycuda]'")
    opened = importlib.import_module(f"bfsr_edge.runtime.{module}").open_device(index, driver)
    assert isinstance(opened, Cuda)
    return opened


def install() -> str:
    """How to get cuda-python here: on a Jetson by itself, as our extras put another OpenCV before JetPack's."""
    if not machine.is_jetson():
        return INSTALL
    version = machine.cuda_version()
    return f"pip install 'cuda-python=={version}.*'" if version else "cuda-python of JetPack's CUDA: docs/jetson.md"


def importable() -> dict[str, str]:
    """Each implementation with its package's version, or with why it cannot be imported."""
    found = {}
    for name, (module, package) in IMPLEMENTATIONS.items():
        try:
            importlib.import_module(package)
            found[name] = str(importlib.import_module(f"bfsr_edge.runtime.{module}").version())
        except Exception as error:  # a package whose libraries are missing raises what it likes
            found[name] = f"{type(error).__name__}: {error}"
    return found


def is_version(text: str) -> bool:
    """Whether an answer of ``importable`` is a version and not a reason."""
    return text == "unknown" or text[:1].isdigit()


def no_such_gpu(index: int, count: int) -> BackendError:
    """The error of both implementations for a number that is too high."""
    numbers = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0 alone" if count else "none"
    return BackendError(
        f"there is no cuda:{index} on this machine",
        why=(f"CUDA sees {count} GPUs: {numbers}", "CUDA_VISIBLE_DEVICES hides it"),
        fix="bfsr-edge doctor, or use --device cpu",
    )


def failed(call: str, reason: str) -> BackendError:
    """The error of both implementations for a call that CUDA refused."""
    why = [reason]
    kind = BackendError
    if "OUT_OF_MEMORY" in reason.upper().replace(" ", "_"):
        why.append("other programs hold the GPU's memory")
        kind = OutOfMemory
    return kind(f"CUDA failed in {call}", why=why, fix="bfsr-edge doctor, a smaller --batch, or --device cpu")


def _check_fits(memory: Memory, array: npt.NDArray[Any]) -> None:
    # a wrong copy would write over a neighbour, or raise long after in another call
    if not array.flags.c_contiguous or array.nbytes > memory.size:
        raise BackendError(
            f"an array of {array.nbytes} bytes cannot be copied to or from {memory.size} bytes on the device",
            why=("this is a fault of bfsr-edge: please report it",),
        )


def view(address: int, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Host memory as an array, without copying; the caller keeps the memory."""
    import ctypes

    count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.ctypeslib.as_array((ctypes.c_ubyte * count).from_address(address))
    array: npt.NDArray[Any] = memory.view(np.dtype(dtype))
    return array.reshape(tuple(shape))
