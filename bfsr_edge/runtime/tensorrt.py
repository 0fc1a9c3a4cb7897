"""TensorRT and TensorRT-RTX: plans that ``bfsr-edge build-engine`` made, on an NVIDIA GPU.

One code path for TensorRT 10.3 to 11.4 and TensorRT-RTX 1.x; what differs between them is in ``trt.py``. Every answer
of TensorRT is looked at: an unheeded False is a black picture.

A batch is cut into chunks of the size that the plan was tuned for. Two sets of buffers take turns, each with a pinned
host array and device memory for input and output: while one chunk is computed, the next is copied in and the last one
out. Three streams, ordered by events::

    copy in    | 0 | 1 |     | 2 |     | 3 |
    compute        |    0    |    1    |    2    |    3    |
    copy out                 | 0 |     | 1 |     | 2 |     | 3 |

A chunk of that size is captured as a CUDA graph when it comes into the same buffers for the second time; TensorRT-RTX
captures by itself. A captured graph holds what its execution context was set to, so each set of buffers has a context
of its own whose shape and addresses never change, and what remains of a batch runs in another one, uncaptured.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, BfsrError, ModelError, OutOfMemory, UsageError, first_line
from bfsr_edge.runtime import base, cuda, sidecar, trt
from bfsr_edge.runtime.base import CHANNELS
from bfsr_edge.weights import Model

NAME = "tensorrt"
PROFILE = 0
SLOTS = 2
MESSAGES_KEPT = 5

LOG = logging.getLogger("bfsr_edge.runtime.tensorrt")


@dataclass
class Plan:
    """A deserialised plan. TensorRT needs all of it to stay alive as long as a context."""

    api: trt.Api
    runtime: Any
    engine: Any
    cache: Any = None
    """RTX: kernels that were compiled for this GPU."""

    def release(self) -> None:
        """Drop what contexts share, the engine, then its runtime: bindings free what loses its last reference."""
        self.cache = None
        self.engine = None
        self.runtime = None


@dataclass(frozen=True)
class Tensors:
    """What a plan says of its input and output."""

    input: str
    """Name of the input tensor."""
    output: str
    """Name of the output tensor."""
    dtype: np.dtype[Any]
    """float32 or uint8, of input and output."""
    batch: tuple[int, int, int]
    """Smallest, best and largest number of tiles."""
    tile: tuple[int, int]
    """Height and width of the input."""


class Messages:
    """What TensorRT logged: errors and warnings are kept until somebody asks why a call failed."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._warnings: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, severity: str, text: str) -> None:
        """Take a message; called from any thread of TensorRT's."""
        with self._lock:
            if severity == "error":
                self._errors = [*self._errors[1 - MESSAGES_KEPT :], text.strip()]
            elif severity == "warning":
                self._warnings = [*self._warnings[1 - MESSAGES_KEPT :], text.strip()]
        LOG.log(logging.INFO if severity == "warning" else logging.DEBUG, "TensorRT: %s", text)

    def take(self) -> tuple[str, ...]:
        """The errors since the last call, oldest first."""
        with self._lock:
            told, self._errors = tuple(self._errors), []
        return told

    def take_any(self) -> tuple[str, ...]:
        """The same; where there are no errors the warnings: some releases say so that CUDA does not start."""
        with self._lock:
            told, self._errors, self._warnings = tuple(self._errors or self._warnings), [], []
        return told


@dataclass
class Execution:
    """An execution context and what it is set to.

    Calls get this and never the context itself: a traceback keeps its frames' variables alive, and with them a context
    whose engine and memory are gone.
    """

    context: Any
    bound: tuple[int, int, int] | None = None
    """Number of tiles, address of the input, address of the output."""


@dataclass
class Slot:
    """Buffers for one chunk on its way, and how a full one is run in them."""

    host_in: cuda.Pinned
    host_out: cuda.Pinned
    device_in: cuda.Memory
    device_out: cuda.Memory
    copied_in: cuda.Event
    computed: cuda.Event
    copied_out: cuda.Event
    full: Execution | None = None
    """For chunks of the best size; nothing else ever runs in it."""
    ran: bool = False
    """Whether it has run since: only then it can be captured."""
    graph: cuda.Graph | None = None


class Engine(base.Engine):
    """A plan with its contexts, streams, buffers and CUDA graphs."""

    def __init__(
        self,
        info: base.EngineInfo,
        gpu: cuda.Cuda,
        plan: Plan,
        tensors: Tensors,
        messages: Messages,
        stop_listening: Callable[[], None],
    ) -> None:
        super().__init__(info)
        self._gpu = gpu
        self._plan: Plan | None = plan
        self._tensors = tensors
        self._messages = messages
        self._executions: list[Execution] = []
        self._rest: Execution | None = None
        self._streams: list[cuda.Stream] = []
        self._slots: list[Slot] = []
        self._frees: list[Callable[[], None]] = [stop_listening]
        # RTX captures by itself; pycuda cannot
        self._capturing = gpu.graphs and not trt.captures_by_itself(plan.api)
        try:
            with gpu.active():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        gpu, tensors = self._gpu, self._tensors
        for _ in range(3):
            stream = gpu.stream()
            self._streams.append(stream)
            self._frees.append(functools.partial(gpu.destroy_stream, stream))
        height, width = tensors.tile
        scale, largest = self.info.scale, tensors.batch[1]
        shape_in = (largest, CHANNELS, height, width)
        shape_out = (largest, CHANNELS, scale * height, scale * width)
        self._slots = [self._slot(shape_in, shape_out, tensors.dtype) for _ in range(SLOTS)]
        # the others are made when they are first needed: a single face never needs them
        self._slots[0].full = self._execution(cuda_graph=True)

    def _execution(self, *, cuda_graph: bool) -> Execution:
        assert self._plan is not None
        plan = self._plan
        made = Execution(trt.create_context(plan.api, plan.engine, cuda_graph=cuda_graph, cache=plan.cache))
        self._executions.append(made)
        try:
            chosen = made.context.set_optimization_profile_async(PROFILE, self._compute.handle)
        except RuntimeError:  # what the bindings make of False in this one call
            chosen = False
        self._check(chosen, "choose the plan's profile")
        self._gpu.synchronize(self._compute)
        return made

    @property
    def _copy_in(self) -> cuda.Stream:
        return self._streams[0]

    @property
    def _compute(self) -> cuda.Stream:
        return self._streams[1]

    @property
    def _copy_out(self) -> cuda.Stream:
        return self._streams[2]

    def _slot(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...], dtype: np.dtype[Any]) -> Slot:
        gpu = self._gpu

        def pinned(shape: tuple[int, ...]) -> cuda.Pinned:
            made = gpu.pinned(shape, dtype)
            self._frees.append(lambda: gpu.free_pinned(made))
            return made

        def memory(shape: tuple[int, ...]) -> cuda.Memory:
            made = gpu.allocate(int(np.prod(shape)) * dtype.itemsize)
            self._frees.append(lambda: gpu.free(made))
            return made

        def event() -> cuda.Event:
            made = gpu.event()
            self._frees.append(lambda: gpu.destroy_event(made))
            return made

        return Slot(pinned(shape_in), pinned(shape_out), memory(shape_in), memory(shape_out), event(), event(), event())

    def _infer(self, batch: base.Batch) -> base.Batch:
        if self._plan is None:
            raise UsageError(f"{self.info.model} was closed", fix="load it again")
        height, width = (side * self.info.scale for side in self.info.tile)
        result = np.empty((len(batch), CHANNELS, height, width), np.float32)
        best = self._tensors.batch[1]
        waiting: list[tuple[int, int, int]] = []
        with self._gpu.active():
            try:
                for number, start in enumerate(range(0, len(batch), best)):
                    stop = min(start + best, len(batch))
                    if len(waiting) == SLOTS:  # its buffers are needed now
                        self._collect(result, *waiting.pop(0))
                    self._submit(number % SLOTS, batch[start:stop])
                    waiting.append((number % SLOTS, start, stop))
                while waiting:
                    self._collect(result, *waiting.pop(0))
            except BaseException:
                self._settle()
                raise
        return result

    def _submit(self, index: int, tiles: base.Batch) -> None:
        """Start copying tiles in, computing and copying out, in the buffers of one slot."""
        gpu, slot, count = self._gpu, self._slots[index], max(len(tiles), self._tensors.batch[0])
        source = slot.host_in.array[:count]
        _fill(source, tiles)
        gpu.copy_in(slot.device_in, source, self._copy_in)
        gpu.record(slot.copied_in, self._copy_in)
        gpu.wait(self._compute, slot.copied_in)
        self._execute(slot, count)
        gpu.record(slot.computed, self._compute)
        gpu.wait(self._copy_out, slot.computed)
        gpu.copy_out(slot.host_out.array[:count], slot.device_out, self._copy_out)
        gpu.record(slot.copied_out, self._copy_out)

    def _execute(self, slot: Slot, count: int) -> None:
        """Put the network's work on ``count`` tiles of a slot into the compute stream."""
        if count < self._tensors.batch[1]:
            self._rest = self._rest or self._execution(cuda_graph=False)
            self._bind(self._rest, slot, count)
            self._enqueue(self._rest)
        elif slot.graph is not None:
            self._gpu.launch(slot.graph, self._compute)
        else:
            slot.full = slot.full or self._execution(cuda_graph=True)
            self._bind(slot.full, slot, count)
            # a plain run: the first one does work that must not be captured
            self._enqueue(slot.full)
            if self._capturing and slot.ran:
                self._capture(slot, slot.full)
            slot.ran = True

    def _bind(self, execution: Execution, slot: Slot, count: int) -> None:
        """Set shape and addresses, where they are others than before."""
        place = (count, slot.device_in.address, slot.device_out.address)
        if execution.bound == place:
            return
        execution.bound = None
        tensors, shape = self._tensors, (count, CHANNELS, *self._tensors.tile)
        self._check(execution.context.set_input_shape(tensors.input, shape), f"take an input of {base.by(shape)}")
        for name, memory, what in (
            (tensors.input, slot.device_in, "input"),
            (tensors.output, slot.device_out, "output"),
        ):
            taken = execution.context.set_tensor_address(name, memory.address)
            self._check(taken, f"take the address of its {what}")
        execution.bound = place

    def _enqueue(self, execution: Execution) -> None:
        self._check(execution.context.execute_async_v3(self._compute.handle), "run the network")

    def _capture(self, slot: Slot, execution: Execution) -> None:
        """Capture what was just run; where that fails the engine goes on without graphs, which only costs time."""
        try:
            slot.graph = self._gpu.capture(self._compute, lambda: self._enqueue(execution))
        except Exception as error:  # bindings raise what they like
            self._capturing = False
            reason = "; ".join((error.what, *error.why)) if isinstance(error, BfsrError) else first_line(error)
            LOG.warning("%s runs without CUDA graphs: %s", self.info.model, reason)

    def _collect(self, result: base.Batch, index: int, start: int, stop: int) -> None:
        """Wait for a slot and take its result."""
        slot = self._slots[index]
        self._gpu.wait_for(slot.copied_out)
        result[start:stop] = base.from_uint8(slot.host_out.array[: stop - start])

    def _settle(self) -> None:
        """After a failure: nothing may still be reading or writing the buffers when the next batch comes."""
        for stream in self._streams:
            with contextlib.suppress(BackendError):
                self._gpu.synchronize(stream)

    def _check(self, worked: Any, what: str) -> None:
        if not worked:
            told = self._messages.take()
            if any(base.lacks_memory(RuntimeError(line)) for line in told):
                raise OutOfMemory(
                    f"{NAME} would not {what}", why=told, fix="try a smaller --batch, or bfsr-edge doctor"
                )
            raise BackendError(
                f"{NAME} would not {what}, and said so by False alone" if not told else f"{NAME} would not {what}",
                why=told or ("the GPU has no memory left", "the plan is not for this GPU"),
                fix="try a smaller --batch, or bfsr-edge doctor --selftest",
            )

    def close(self) -> None:
        """Free everything, in the order that TensorRT asks for: graphs, context, engine, runtime, then the memory."""
        with self._lock:
            plan, self._plan = self._plan, None
            if plan is None:
                return
            try:
                with self._gpu.active():
                    self._settle()
                    for slot in self._slots:
                        if slot.graph is not None:
                            with contextlib.suppress(BackendError):  # after a failure CUDA may refuse everything
                                self._gpu.destroy_graph(slot.graph)
                    for execution in self._executions:
                        execution.context = None
                    plan.release()
                    while self._frees:
                        with contextlib.suppress(BackendError):
                            self._frees.pop()()
                    self._slots, self._streams, self._executions, self._rest = [], [], [], None
            finally:
                self._gpu.close()

    def __del__(self) -> None:
        # at the interpreter's end half of everything is gone already, and the driver cleans up
        with contextlib.suppress(Exception):
            self.close()


def load(
    model: Model,
    *,
    device: str,
    tile: int | tuple[int, int] | None,
    precision: str,
    threads: int | None,
    streams: int = 1,
) -> Engine:
    """Load a plan; see ``bfsr_edge.runtime.load`` for the arguments and errors. There is one stream always.

    The sidecar is checked before TensorRT sees a byte of the plan.
    """
    described = sidecar.read(model.path)
    sidecar.check_plan(described, model)
    fixed = base.tile_size(tile, described.stride, described.tile)
    if fixed != described.tile:
        raise UsageError(
            f"{model.path} has tiles of {base.by(described.tile)}, not {base.by(fixed)}",
            why=("a plan of TensorRT has the tile that it was built with",),
            fix=f"leave --tile out, or build another: {described.rebuild}",
        )
    executed = sidecar.executed(described)
    if precision not in ("auto", described.precision, executed):
        raise UsageError(
            f"{model.path} was built for {described.precision}, and {precision} was asked for",
            fix=f"leave --precision out, or build another: {described.rebuild}",
        )
    index = int(device.partition(":")[2])
    api = trt.load_api(described.flavour)
    gpu = cuda.open_device(index)
    messages = Messages()
    stop_listening = trt.listen(api, messages)
    try:
        here = sidecar.Here(api.flavour, api.version, gpu.sm, gpu.gpu)
        for remark in sidecar.check_machine(described, model.path, here):
            LOG.warning("%s: %s", model.path.name, remark)
        with gpu.active():
            plan = _deserialise(api, model, described, messages)
            try:
                tensors = _tensors(plan, model, described)
            except BaseException:
                plan.release()
                raise
        info = base.EngineInfo(
            model=model.name,
            backend=described.flavour,
            backend_version=api.version,
            device=device,
            precision=executed,
            scale=described.scale,
            stride=described.stride,
            receptive_field=described.receptive_field,
            tile=described.tile,
            sha256=model.sha256,
            batch=described.batch[1],
            rebuild=described.rebuild,
        )
    except BaseException:
        stop_listening()
        gpu.close()
        raise
    return Engine(info, gpu, plan, tensors, messages, stop_listening)


def _deserialise(api: trt.Api, model: Model, described: sidecar.Sidecar, messages: Messages) -> Plan:
    """The plan's engine.

    Raises
    ------
    BackendError
        TensorRT finds no CUDA that it can use.
    ModelError
        TensorRT does not take the plan.
    """
    # no variable holds runtime or engine when an error is raised: they must be gone before the GPU is closed
    dla_core = described.options.get("dla_core")
    plan = Plan(api, trt.make_runtime(api, trt.logger_of(api), messages.take_any, dla_core=dla_core), None)
    content = model.path.read_bytes()
    refusal = trt.engine_invalidity(api, plan.runtime, content)
    plan.engine = None if refusal else plan.runtime.deserialize_cuda_engine(content)
    if plan.engine is None:
        plan.release()
        why = messages.take()
        raise ModelError(
            f"{api.flavour} {api.version} cannot load {model.path}",
            why=(refusal, *why) if refusal else why or ("it was built on another machine", "the GPU's memory is full"),
            fix=f"build it here: {described.rebuild}",
        )
    plan.cache = trt.runtime_cache(api, plan.engine)
    return plan


def _tensors(plan: Plan, model: Model, described: sidecar.Sidecar) -> Tensors:
    """A plan's input and output, compared with what the sidecar says.

    Raises
    ------
    ModelError
        The sidecar is of another plan.
    """
    module = plan.api.module
    names = [plan.engine.get_tensor_name(index) for index in range(plan.engine.num_io_tensors)]
    modes = module.TensorIOMode.INPUT, module.TensorIOMode.OUTPUT
    inputs, outputs = ([name for name in names if plan.engine.get_tensor_mode(name) == mode] for mode in modes)
    told: list[str] = []
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{model.path} has {len(inputs)} inputs and {len(outputs)} outputs instead of one each",
            fix=f"build it again: {described.rebuild}",
        )
    dtypes = [np.dtype(module.nptype(plan.engine.get_tensor_dtype(name))) for name in (inputs[0], outputs[0])]
    least, best, most = (tuple(shape) for shape in plan.engine.get_tensor_profile_shape(inputs[0], PROFILE))
    tiles = {shape[2:] for shape in (least, best, most)}
    for what, found, said in (
        ("type of its input", str(dtypes[0]), described.io),
        ("type of its output", str(dtypes[1]), described.io),
        ("tile", base.by(best[2:]), base.by(described.tile)),
        ("batch", base.by((least[0], best[0], most[0])), base.by(described.batch)),
    ):
        if found != said:
            told.append(f"the {what} is {found}, the sidecar says {said}")
    if len(tiles) != 1:
        told.append("its tile is not fixed")
    if told:
        raise ModelError(
            f"{model.path} is not what its sidecar says", why=told, fix=f"build it again: {described.rebuild}"
        )
    return Tensors(
        input=inputs[0],
        output=outputs[0],
        dtype=dtypes[0],
        batch=(least[0], best[0], most[0]),
        tile=(best[2], best[3]),
    )


def _fill(target: npt.NDArray[Any], tiles: base.Batch) -> None:
    """Put tiles into an input buffer; a chunk below the plan's smallest is filled up with its last tile."""
    count = len(tiles)
    if target.dtype == np.uint8:
        base.to_uint8(tiles, target[:count])
    else:
        target[:count] = tiles
    target[count:] = target[count - 1]
