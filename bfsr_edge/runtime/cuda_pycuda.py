"""The CUDA layer over pycuda, for devices that have it already.

pycuda must be compiled on the machine and has no CUDA graphs. ``pycuda.autoinit`` is never imported: it makes a context
of its own, in which torch and TensorRT in the same process do not find their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy.typing as npt

from bfsr_edge.errors import BackendError
from bfsr_edge.runtime import cuda, machine

NAME = "pycuda"
# CU_STREAM_NON_BLOCKING, CU_EVENT_DEFAULT and CU_EVENT_DISABLE_TIMING as in cuda.h
NON_BLOCKING, EVENT_DEFAULT, EVENT_DISABLE_TIMING = 1, 0, 2


_CONTEXTS: dict[tuple[Any, int], Any] = {}
"""The primary context of each device that was opened, for the life of the process. pycuda's ``detach`` makes it current
in this thread, releases it and leaves it there; in another thread than the one that retained it, it does nothing."""


def version() -> str:
    """Of the package pycuda."""
    try:
        return metadata.version("pycuda")
    except metadata.PackageNotFoundError:  # built in place
        return "unknown"


class PyCuda(cuda.Cuda):
    """See ``bfsr_edge.runtime.cuda.Cuda``."""

    name = NAME
    graphs = False

    def __init__(self, index: int, driver: Any) -> None:
        self._driver = driver
        self.index = index
        self.version = version()
        self._try("init", driver.init)
        count = int(self._try("Device.count", driver.Device.count))
        if index >= count:
            raise cuda.no_such_gpu(index, count)
        device = self._try("Device", driver.Device, index)
        major, minor = self._try("Device.compute_capability", device.compute_capability)
        self.sm = f"{major}.{minor}"
        attributes = driver.device_attribute
        integrated, multiprocessors = (
            int(self._try("Device.get_attribute", device.get_attribute, attribute))
            for attribute in (attributes.INTEGRATED, attributes.MULTIPROCESSOR_COUNT)
        )
        name = str(self._try("Device.name", device.name))
        self.gpu = machine.gpu_name(name, multiprocessors, integrated=bool(integrated))
        key = (driver, index)
        if key not in _CONTEXTS:
            _CONTEXTS[key] = self._try("Device.retain_primary_context", device.retain_primary_context)
        self._context = _CONTEXTS[key]

    def _try(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call pycuda, and turn its exceptions into ours."""
        try:
            return function(*arguments)
        except self._driver.Error as error:
            raise cuda.failed(name, str(error)) from error

    def _push(self) -> None:
        self._try("Context.push", self._context.push)

    def _pop(self) -> None:
        self._try("Context.pop", self._driver.Context.pop)

    def allocate(self, size: int) -> cuda.Memory:
        raw = self._try("mem_alloc", self._driver.mem_alloc, size)
        return cuda.Memory(int(raw), size, raw)

    def free(self, memory: cuda.Memory) -> None:
        self._try("DeviceAllocation.free", memory.raw.free)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> cuda.Pinned:
        array = self._try("pagelocked_empty", self._driver.pagelocked_empty, tuple(shape), dtype)
        # .base is the allocation, which frees itself with the last array over it
        return cuda.Pinned(array, array.base)

    def free_pinned(self, pinned: cuda.Pinned) -> None:
        self._try("PagelockedHostAllocation.free", pinned.raw.free)

    def stream(self) -> cuda.Stream:
        raw = self._try("Stream", self._driver.Stream, NON_BLOCKING)
        return cuda.Stream(int(raw.handle), raw)

    def destroy_stream(self, stream: cuda.Stream) -> None:
        """pycuda ends a stream when the last reference to it is gone; what is in it must be done by then."""
        self.synchronize(stream)

    def synchronize(self, stream: cuda.Stream) -> None:
        self._try("Stream.synchronize", stream.raw.synchronize)

    def event(self, *, timing: bool = False) -> cuda.Event:
        return cuda.Event(self._try("Event", self._driver.Event, EVENT_DEFAULT if timing else EVENT_DISABLE_TIMING))

    def destroy_event(self, event: cuda.Event) -> None:
        """pycuda ends an event when the last reference to it is gone."""

    def record(self, event: cuda.Event, stream: cuda.Stream) -> None:
        self._try("Event.record", event.raw.record, stream.raw)

    def wait(self, stream: cuda.Stream, event: cuda.Event) -> None:
        self._try("Stream.wait_for_event", stream.raw.wait_for_event, event.raw)

    def wait_for(self, event: cuda.Event) -> None:
        self._try("Event.synchronize", event.raw.synchronize)

    def elapsed(self, start: cuda.Event, end: cuda.Event) -> float:
        return float(self._try("Event.time_since", end.raw.time_since, start.raw))

    def _copy_in(self, memory: cuda.Memory, array: npt.NDArray[Any], stream: cuda.Stream) -> None:
        self._try("memcpy_htod_async", self._driver.memcpy_htod_async, memory.raw, array, stream.raw)

    def _copy_out(self, array: npt.NDArray[Any], memory: cuda.Memory, stream: cuda.Stream) -> None:
        self._try("memcpy_dtoh_async", self._driver.memcpy_dtoh_async, array, memory.raw, stream.raw)

    def capture(self, stream: cuda.Stream, work: Callable[[], None]) -> cuda.Graph:
        raise BackendError("pycuda cannot capture CUDA graphs", fix=cuda.install())

    def launch(self, graph: cuda.Graph, stream: cuda.Stream) -> None:
        raise BackendError("pycuda cannot launch CUDA graphs", fix=cuda.install())

    def destroy_graph(self, graph: cuda.Graph) -> None:
        raise BackendError("pycuda has no CUDA graphs", fix=cuda.install())

    def free_memory(self) -> tuple[int, int]:
        free, total = self._try("mem_get_info", self._driver.mem_get_info)
        return int(free), int(total)

    def close(self) -> None:
        """Nothing to do: see ``_CONTEXTS``."""


def open_device(index: int, driver: Any) -> cuda.Cuda:
    """The GPU with that number, by the functions of ``driver`` (``pycuda.driver``)."""
    return PyCuda(index, driver)
