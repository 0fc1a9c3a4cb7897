"""The CUDA layer over NVIDIA's cuda-python: the driver API of ``cuda.bindings`` 12 and 13.

The driver API is taken, not the runtime API: it comes with the driver, so that a package made for CUDA 12.9 works with
the driver of 12.6 as well. Every function returns a tuple whose first member is the result code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, first_line
from bfsr_edge.runtime import cuda, machine

NAME = "cuda-python"
ERROR_LENGTH = 256
PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context


def version() -> str:
    """Of the package that holds the bindings: cuda-bindings, until 12.6 cuda-python itself."""
    for name in ("cuda-bindings", "cuda-python"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"  # built in place


class CudaPython(cuda.Cuda):
    """See ``bfsr_edge.runtime.cuda.Cuda``."""

    name = NAME
    graphs = True

    def __init__(self, index: int, driver: Any) -> None:
        self._driver = driver
        self.version = version()
        self.index = index
        self._call("cuInit", 0)
        count = int(self._call("cuDeviceGetCount"))
        if index >= count:
            raise cuda.no_such_gpu(index, count)
        self._device = self._call("cuDeviceGet", index)
        attributes = driver.CUdevice_attribute
        major, minor, integrated, multiprocessors = (
            int(self._call("cuDeviceGetAttribute", attribute, self._device))
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                attributes.CU_DEVICE_ATTRIBUTE_INTEGRATED,
                attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )
        )
        self.sm = f"{major}.{minor}"
        name = self._call("cuDeviceGetName", ERROR_LENGTH, self._device).split(b"\0")[0].decode("utf-8", "replace")
        self.gpu = machine.gpu_name(name, multiprocessors, integrated=bool(integrated))
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver; what it returns besides the code, or BackendError."""
        try:
            code, *results = getattr(self._driver, name)(*arguments)
        except (RuntimeError, AttributeError) as error:  # the driver, or this function in it, is not there
            no_driver = "there is no NVIDIA driver that CUDA can use here"
            raise BackendError(
                no_driver if name == "cuInit" else f"CUDA has no {name} here",
                why=(first_line(error), "the NVIDIA driver is older than the package cuda-python"),
                fix="bfsr-edge doctor; install the driver, or cuda-python of its CUDA version; or use --device cpu",
            ) from error
        if int(code) != 0:
            raise cuda.failed(name, self._told(code))
        return results[0] if results else None

    def _told(self, code: Any) -> str:
        """CUDA's name for a result code, and its sentence."""
        told = []
        for function in (self._driver.cuGetErrorName, self._driver.cuGetErrorString):
            failed, text = function(code)
            if int(failed) == 0 and text:
                told.append(text.decode("utf-8", "replace"))
        return ": ".join(told) or f"CUDA error {int(code)}"

    def _push(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def _pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> cuda.Memory:
        raw = self._call("cuMemAlloc", size)
        return cuda.Memory(int(raw), size, raw)

    def free(self, memory: cuda.Memory) -> None:
        self._call("cuMemFree", memory.raw)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> cuda.Pinned:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        address = int(self._call("cuMemHostAlloc", max(1, size), PORTABLE))
        return cuda.Pinned(cuda.view(address, shape, dtype), address)

    def free_pinned(self, pinned: cuda.Pinned) -> None:
        self._call("cuMemFreeHost", pinned.raw)

    def stream(self) -> cuda.Stream:
        raw = self._call("cuStreamCreate", int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        return cuda.Stream(int(raw), raw)

    def destroy_stream(self, stream: cuda.Stream) -> None:
        self._call("cuStreamDestroy", stream.raw)

    def synchronize(self, stream: cuda.Stream) -> None:
        self._call("cuStreamSynchronize", stream.raw)

    def event(self, *, timing: bool = False) -> cuda.Event:
        flags = self._driver.CUevent_flags
        return cuda.Event(
            self._call("cuEventCreate", int(flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING))
        )

    def destroy_event(self, event: cuda.Event) -> None:
        self._call("cuEventDestroy", event.raw)

    def record(self, event: cuda.Event, stream: cuda.Stream) -> None:
        self._call("cuEventRecord", event.raw, stream.raw)

    def wait(self, stream: cuda.Stream, event: cuda.Event) -> None:
        self._call("cuStreamWaitEvent", stream.raw, event.raw, 0)

    def wait_for(self, event: cuda.Event) -> None:
        self._call("cuEventSynchronize", event.raw)

    def elapsed(self, start: cuda.Event, end: cuda.Event) -> float:
        return float(self._call("cuEventElapsedTime", start.raw, end.raw))

    def _copy_in(self, memory: cuda.Memory, array: npt.NDArray[Any], stream: cuda.Stream) -> None:
        self._call("cuMemcpyHtoDAsync", memory.raw, array.ctypes.data, array.nbytes, stream.raw)

    def _copy_out(self, array: npt.NDArray[Any], memory: cuda.Memory, stream: cuda.Stream) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, memory.raw, array.nbytes, stream.raw)

    def capture(self, stream: cuda.Stream, work: Callable[[], None]) -> cuda.Graph:
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream.raw, mode)
        captured = None
        try:
            work()
        except BaseException:
            # what went wrong inside is told; that the capture then cannot be ended well follows from it
            with contextlib.suppress(BackendError):
                captured = self._call("cuStreamEndCapture", stream.raw)
            if captured is not None and int(captured):
                self._call("cuGraphDestroy", captured)
            raise
        captured = self._call("cuStreamEndCapture", stream.raw)
        try:
            return cuda.Graph(self._call("cuGraphInstantiate", captured, 0))
        finally:
            self._call("cuGraphDestroy", captured)

    def launch(self, graph: cuda.Graph, stream: cuda.Stream) -> None:
        self._call("cuGraphLaunch", graph.raw, stream.raw)

    def destroy_graph(self, graph: cuda.Graph) -> None:
        self._call("cuGraphExecDestroy", graph.raw)

    def free_memory(self) -> tuple[int, int]:
        code, free, total = self._driver.cuMemGetInfo()
        if int(code) != 0:
            raise cuda.failed("cuMemGetInfo", self._told(code))
        return int(free), int(total)

    def close(self) -> None:
        if self._context is not None:
            self._context = None
            self._call("cuDevicePrimaryCtxRelease", self._device)


def open_device(index: int, driver: Any) -> cuda.Cuda:
    """The GPU with that number, by the functions of ``driver`` (``cuda.bindings.driver``)."""
    return CudaPython(index, driver)
