"""A CUDA driver without a GPU: the functions of ``cuda.bindings.driver`` and ``pycuda.driver`` that the runtime calls.

Device memory is host memory, and a pointer is its address. Work in a stream is *not* done when it is called but as late
as CUDA may do it: when a stream or event is waited for. So a missing event or a buffer that is reused too early gives a
wrong picture, as it would on a GPU. Rules that CUDA has and a copy of bytes has not are held too: a context must be
current in the thread, freed memory is poisoned and must not be touched, host memory of copies must be pinned, nothing
synchronizes a stream that is being captured.
"""

from __future__ import annotations

import enum
import functools
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

POISON = 0xA5


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class Failure(Exception):
    def __init__(self, code: CUresult) -> None:
        super().__init__(code.name)
        self.code = code


Work = Callable[[], None]


class FakeStream:
    def __init__(self, device: FakeDevice, handle: int) -> None:
        self.device, self.handle = device, handle
        self.queue: list[Work] = []
        self.capture: list[Work] | None = None
        self.invalid = False

    def put(self, work: Work) -> None:
        (self.queue if self.capture is None else self.capture).append(work)

    def drain(self, until: Work | None = None) -> None:
        """Do what is queued, up to and with ``until``."""
        while self.queue:
            work = self.queue.pop(0)
            work()
            if work is until:
                return


class FakeEvent:
    def __init__(self, handle: int, timing: bool) -> None:
        self.handle, self.timing = handle, timing
        self.stream: FakeStream | None = None
        self.mark: Work | None = None
        self.done = True

    def reach(self) -> None:
        if not self.done and self.stream is not None:
            self.stream.drain(self.mark)
            assert self.done, "an event was waited for that nothing reaches"


class FakeDevice:
    """What both packages stand on. ``calls`` counts the functions called, ``fail`` maps one to the code it returns."""

    def __init__(self, gpus: int = 2, sm: tuple[int, int] = (8, 9), memory: int = 1 << 30) -> None:
        self.gpus, self.sm, self.memory = gpus, sm, memory
        self.names = [f"Fake GPU {index}" for index in range(gpus)]
        self.integrated, self.multiprocessors = False, 8
        self.used = 0
        self.device_memory: dict[int, NDArray[np.uint8]] = {}
        self.pinned_memory: dict[int, NDArray[np.uint8]] = {}
        self.freed: list[NDArray[np.uint8]] = []  # kept, so that a late access finds poison instead of a crash
        self.streams: dict[int, FakeStream] = {}
        self.events: dict[int, FakeEvent] = {}
        self.graphs: dict[int, tuple[FakeStream, list[Work]]] = {}
        self.retained = 0
        self.kept = 0
        """Primary contexts that the process keeps until its end."""
        self.contexts = threading.local()
        self.fail: dict[str, CUresult] = {}
        self.calls: dict[str, int] = {}
        self.log: list[str] = []
        self._handles = iter(range(0x1000, 1 << 40, 0x10))
        self.lock = threading.RLock()

    # ---- what the fakes of TensorRT use

    def at(self, address: int, count: int) -> NDArray[np.uint8]:
        """Bytes of device memory; a fault if they are not allocated."""
        for start, block in self.device_memory.items():
            if start <= address and address + count <= start + len(block):
                return block[address - start : address - start + count]
        raise Failure(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)

    def put(self, handle: int, work: Work) -> None:
        """Kernels into a stream."""
        self.need_context()
        self.stream(handle).put(work)

    def left(self) -> dict[str, int]:
        """What was made and not given back."""
        kinds: dict[str, dict[int, Any]] = {
            "memory": self.device_memory, "pinned": self.pinned_memory, "streams": self.streams, "events": self.events,
            "graphs": self.graphs,
        }  # fmt: skip
        return {name: len(things) for name, things in kinds.items() if things} | (
            {"contexts": self.retained - self.kept} if self.retained > self.kept else {}
        )

    # ---- rules

    def call(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.fail:
            raise Failure(self.fail[name])

    def stack(self) -> list[int]:
        if not hasattr(self.contexts, "stack"):
            self.contexts.stack = []
        stack: list[int] = self.contexts.stack
        return stack

    def need_context(self) -> None:
        if not self.stack():
            raise Failure(CUresult.CUDA_ERROR_INVALID_CONTEXT)

    def stream(self, handle: Any) -> FakeStream:
        found = self.streams.get(int(handle))
        if found is None:
            raise Failure(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return found

    def event(self, handle: Any) -> FakeEvent:
        found = self.events.get(int(handle))
        if found is None:
            raise Failure(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return found

    # ---- what happens

    def push(self) -> None:
        self.call("push")
        if not self.retained:
            raise Failure(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        self.stack().append(1)

    def pop(self) -> None:
        self.call("pop")
        self.need_context()
        self.stack().pop()

    def allocate(self, size: int) -> int:
        self.call("allocate")
        self.need_context()
        if self.used + size > self.memory:
            raise Failure(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        self.used += size
        block = np.full(size, POISON, np.uint8)
        self.device_memory[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        self.call("free")
        self.need_context()
        block = self.device_memory.pop(int(address), None)
        if block is None:
            raise Failure(CUresult.CUDA_ERROR_INVALID_VALUE)
        self.used -= len(block)
        block[:] = POISON
        self.freed.append(block)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        self.call("pinned")
        self.need_context()
        block = np.full(size, POISON, np.uint8)
        self.pinned_memory[block.ctypes.data] = block
        return block

    def free_pinned(self, address: int) -> None:
        self.call("free_pinned")
        self.need_context()
        block = self.pinned_memory.pop(int(address), None)
        if block is None:
            raise Failure(CUresult.CUDA_ERROR_INVALID_VALUE)
        block[:] = POISON
        self.freed.append(block)

    def host(self, address: int, count: int) -> NDArray[np.uint8]:
        for start, block in self.pinned_memory.items():
            if start <= address and address + count <= start + len(block):
                return block[address - start : address - start + count]
        raise Failure(CUresult.CUDA_ERROR_INVALID_VALUE)  # not pinned: real CUDA would copy synchronously

    def copy(self, kind: str, device: int, host: int, count: int, stream: Any) -> None:
        self.call(kind)
        self.need_context()
        there, here = self.at(int(device), count), self.host(host, count)

        def work() -> None:
            self.log.append(kind)
            if kind == "copy_in":
                there[:] = here
            else:
                here[:] = there

        self.stream(stream).put(work)

    def make_stream(self, flags: int) -> int:
        self.call("stream")
        self.need_context()
        assert flags == 1, "only streams that do not wait for the default one"
        handle = next(self._handles)
        self.streams[handle] = FakeStream(self, handle)
        return handle

    def synchronize(self, handle: Any) -> None:
        self.call("synchronize")
        self.need_context()
        stream = self.stream(handle)
        if stream.capture is not None:
            stream.invalid = True
            raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        stream.drain()

    def destroy_stream(self, handle: Any) -> None:
        self.call("destroy_stream")
        assert not self.stream(handle).queue, "a stream was ended with work in it"
        del self.streams[int(handle)]

    def make_event(self, flags: int) -> int:
        self.call("event")
        self.need_context()
        handle = next(self._handles)
        self.events[handle] = FakeEvent(handle, timing=flags == 0)
        return handle

    def record(self, event: Any, stream: Any) -> None:
        self.call("record")
        mark, place = self.event(event), self.stream(stream)

        def reached() -> None:
            if mark.mark is reached:  # recorded anew since: this mark does not count
                mark.done = True

        mark.stream, mark.mark, mark.done = place, reached, False
        place.put(reached)

    def wait(self, stream: Any, event: Any) -> None:
        self.call("wait")
        mark = self.event(event)
        # what the event is now is what the stream waits for, even if it is recorded again
        place, reached = mark.stream, mark.mark

        def work() -> None:
            if place is not None and reached in place.queue:
                place.drain(reached)

        self.stream(stream).put(work)

    def wait_for(self, event: Any) -> None:
        self.call("wait_for")
        self.event(event).reach()

    def elapsed(self, start: Any, end: Any) -> float:
        self.call("elapsed")
        if not (self.event(start).timing and self.event(end).timing):
            raise Failure(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return 1.5

    def destroy_event(self, event: Any) -> None:
        self.call("destroy_event")
        del self.events[int(event)]

    def begin_capture(self, handle: Any) -> None:
        self.call("begin_capture")
        self.stream(handle).capture = []
        self.stream(handle).invalid = False

    def end_capture(self, handle: Any) -> int:
        self.call("end_capture")
        stream = self.stream(handle)
        work, stream.capture = stream.capture, None
        if stream.invalid or work is None:
            raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        handle = next(self._handles)
        self.graphs[handle] = (stream, work)
        return int(handle)

    def instantiate(self, graph: Any) -> int:
        self.call("instantiate")
        handle = next(self._handles)
        self.graphs[handle] = self.graphs[int(graph)]
        return handle

    def launch(self, graph: Any, handle: Any) -> None:
        self.call("launch")
        _, work = self.graphs[int(graph)]
        for each in work:
            self.stream(handle).put(each)

    def destroy_graph(self, graph: Any) -> None:
        self.call("destroy_graph")
        del self.graphs[int(graph)]


def _returning(device: FakeDevice, function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Return as ``cuda.bindings`` does: a tuple that begins with the code."""

    @functools.wraps(function)
    def called(*arguments: Any) -> tuple[Any, ...]:
        with device.lock:
            try:
                result = function(*arguments)
            except Failure as failure:
                return (failure.code, None)
        if result is None:
            return (CUresult.CUDA_SUCCESS,)
        return (CUresult.CUDA_SUCCESS, *(result if isinstance(result, tuple) else (result,)))

    return called


class Pointer(int):
    """What ``CUdeviceptr``, ``CUstream`` and the other handles are to us: something that ``int`` takes."""


def cuda_bindings(device: FakeDevice) -> Any:
    """The module ``cuda.bindings.driver`` over that device, with the names and results of versions 12 and 13."""

    def primary_retain(_index: Any) -> Any:
        device.call("retain")
        device.retained += 1
        return Pointer(0xC0)

    def primary_release(_index: Any) -> None:
        assert not device.stack(), "the context is still current"
        device.retained -= 1

    def attribute(which: Any, _device: Any) -> int:
        return {
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: device.sm[0],
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: device.sm[1],
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED: int(device.integrated),
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: device.multiprocessors,
        }[which]

    def get_device(index: int) -> int:
        if index >= device.gpus:
            raise Failure(CUresult.CUDA_ERROR_INVALID_VALUE)
        return index

    def pop() -> Pointer:
        device.pop()
        return Pointer(0xC0)

    def begin(stream: Any, mode: Any) -> None:
        assert mode is CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        device.begin_capture(stream)

    functions: dict[str, Callable[..., Any]] = {
        "cuInit": lambda flags: device.call("init"),
        "cuDeviceGetCount": lambda: device.gpus,
        "cuDeviceGet": get_device,
        "cuDeviceGetName": lambda length, index: device.names[index].encode().ljust(length, b"\0"),
        "cuDeviceGetAttribute": attribute,
        "cuDevicePrimaryCtxRetain": primary_retain,
        "cuDevicePrimaryCtxRelease": primary_release,
        "cuCtxPushCurrent": lambda context: device.push(),
        "cuCtxPopCurrent": pop,
        "cuMemAlloc": lambda size: Pointer(device.allocate(size)),
        "cuMemFree": device.free,
        "cuMemHostAlloc": lambda size, flags: int(device.allocate_pinned(size).ctypes.data),
        "cuMemFreeHost": device.free_pinned,
        "cuMemGetInfo": lambda: (device.memory - device.used, device.memory),
        "cuMemcpyHtoDAsync": lambda there, here, size, stream: device.copy("copy_in", there, here, size, stream),
        "cuMemcpyDtoHAsync": lambda here, there, size, stream: device.copy("copy_out", there, here, size, stream),
        "cuStreamCreate": lambda flags: Pointer(device.make_stream(flags)),
        "cuStreamSynchronize": device.synchronize,
        "cuStreamDestroy": device.destroy_stream,
        "cuStreamWaitEvent": lambda stream, event, flags: device.wait(stream, event),
        "cuStreamBeginCapture": begin,
        "cuStreamEndCapture": lambda stream: Pointer(device.end_capture(stream)),
        "cuEventCreate": lambda flags: Pointer(device.make_event(flags)),
        "cuEventRecord": device.record,
        "cuEventSynchronize": lambda event: device.wait_for(event),
        "cuEventElapsedTime": device.elapsed,
        "cuEventDestroy": device.destroy_event,
        "cuGraphInstantiate": lambda graph, flags: Pointer(device.instantiate(graph)),
        "cuGraphLaunch": device.launch,
        "cuGraphExecDestroy": device.destroy_graph,
        "cuGraphDestroy": device.destroy_graph,
        "cuGetErrorName": lambda code: CUresult(code).name.encode(),
        "cuGetErrorString": lambda code: CUresult(code).name.removeprefix("CUDA_ERROR_").lower().encode(),
    }
    enums = {"CUdevice_attribute": CUdevice_attribute, "CUstream_flags": CUstream_flags}
    enums |= {"CUevent_flags": CUevent_flags, "CUstreamCaptureMode": CUstreamCaptureMode}
    return SimpleNamespace(**{name: _returning(device, function) for name, function in functions.items()}, **enums)


class CUdevice_attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16


class CUstream_flags(enum.IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(enum.IntEnum):
    CU_EVENT_DEFAULT = 0
    CU_EVENT_DISABLE_TIMING = 2


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


def pycuda(fake: FakeDevice) -> Any:
    """The module ``pycuda.driver`` over that device."""

    class Error(Exception):
        pass

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            with fake.lock:
                try:
                    return function(*arguments, **options)
                except Failure as failure:
                    told = failure.code.name.removeprefix("CUDA_ERROR_").lower().replace("_", " ")
                    raise Error(f"{function.__name__} failed: {told}") from failure

        return called

    class Context:
        @guarded
        def push(self) -> None:
            fake.push()

        @staticmethod
        @guarded
        def pop() -> None:
            fake.pop()

        def detach(self) -> None:
            raise AssertionError("pycuda leaves a primary context current that it detaches")

    class device_attribute(enum.Enum):
        INTEGRATED, MULTIPROCESSOR_COUNT = 18, 16

    class Device:
        @guarded
        def __init__(self, index: int) -> None:
            self.index = index

        @staticmethod
        def count() -> int:
            return fake.gpus

        def name(self) -> str:
            return fake.names[self.index]

        def compute_capability(self) -> tuple[int, int]:
            return fake.sm

        def get_attribute(self, which: device_attribute) -> int:
            values = {device_attribute.INTEGRATED: int(fake.integrated)}
            return values.get(which, fake.multiprocessors)

        @guarded
        def retain_primary_context(self) -> Context:
            fake.call("retain")
            fake.retained += 1
            fake.kept += 1
            return Context()

    class DeviceAllocation:
        def __init__(self, address: int) -> None:
            self.address = address

        def __int__(self) -> int:
            return self.address

        @guarded
        def free(self) -> None:
            fake.free(self.address)

    class Stream:
        @guarded
        def __init__(self, flags: int = 0) -> None:
            self.handle = fake.make_stream(flags)

        def __int__(self) -> int:
            return self.handle

        @guarded
        def synchronize(self) -> None:
            fake.synchronize(self.handle)

        @guarded
        def wait_for_event(self, event: Event) -> None:
            fake.wait(self.handle, event.number)

        def __del__(self) -> None:
            fake.streams.pop(getattr(self, "handle", -1), None)

    class Event:
        @guarded
        def __init__(self, flags: int = 0) -> None:
            self.number = fake.make_event(flags)

        @guarded
        def record(self, stream: Stream) -> Event:
            fake.record(self.number, stream.handle)
            return self

        @guarded
        def synchronize(self) -> Event:
            fake.wait_for(self.number)
            return self

        @guarded
        def time_since(self, start: Event) -> float:
            return fake.elapsed(start.number, self.number)

        def __del__(self) -> None:
            fake.events.pop(getattr(self, "number", -1), None)

    class PagelockedHostAllocation:
        """The base of a page-locked array."""

        def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
            kind = np.dtype(dtype)
            self.address = int(fake.allocate_pinned(int(np.prod(shape)) * kind.itemsize).ctypes.data)
            self.__array_interface__ = {
                "shape": shape, "typestr": kind.str, "data": (self.address, False), "version": 3,
            }  # fmt: skip

        @guarded
        def free(self) -> None:
            fake.free_pinned(self.address)

    @guarded
    def pagelocked_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        array: NDArray[Any] = np.asarray(PagelockedHostAllocation(shape, dtype))
        assert type(array.base).__name__ == "PagelockedHostAllocation"
        return array

    @guarded
    def mem_alloc(size: int) -> DeviceAllocation:
        return DeviceAllocation(fake.allocate(size))

    @guarded
    def memcpy_htod_async(dest: Any, src: NDArray[Any], stream: Stream) -> None:
        fake.copy("copy_in", int(dest), src.ctypes.data, src.nbytes, stream.handle)

    @guarded
    def memcpy_dtoh_async(dest: NDArray[Any], src: Any, stream: Stream) -> None:
        fake.copy("copy_out", int(src), dest.ctypes.data, dest.nbytes, stream.handle)

    module = ModuleType("pycuda.driver")
    vars(module).update(
        Error=Error,
        Context=Context,
        Device=Device,
        device_attribute=device_attribute,
        Stream=Stream,
        Event=Event,
        init=guarded(lambda: fake.call("init")),
        pagelocked_empty=pagelocked_empty,
        mem_alloc=mem_alloc,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
        mem_get_info=lambda: (fake.memory - fake.used, fake.memory),
    )
    return module
