"""The one builder for TensorRT 10.3 to 11.4 and TensorRT-RTX: an ONNX graph in, a plan out.

Networks are strongly typed: precision is what the graph says. Where TensorRT before 11 cannot build such a network with
Q/DQ nodes, it is built weakly typed, and that is part of the answer.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bfsr_edge.engines.files import write_atomically
from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.runtime import trt as bindings
from bfsr_edge.runtime.trt import Api

MEBIBYTE = 2**20
# the builder's messages that say how large an engine is; nobody can ask a plan for it without a GPU
SIZES = {
    "weights_bytes": re.compile(r"^Total Weights Memory: (\d+) bytes"),
    "activation_bytes": re.compile(r"^Total Activation Memory: (\d+) bytes"),
    "scratch_bytes": re.compile(r"^Max Scratch Memory: (\d+) bytes"),
}


@dataclass(frozen=True)
class Order:
    """What to build."""

    content: bytes
    """The ONNX file."""
    quantized: bool
    """Whether it holds Q/DQ nodes."""
    tile: tuple[int, int]
    """Height and width of the input."""
    batch: tuple[int, int, int]
    """Smallest, best and largest batch."""
    sm: tuple[str, ...] = ()
    """TensorRT-RTX: the GPUs to build for; plain TensorRT builds for the one that it finds."""
    optimization_level: int = 3
    """0 to 5."""
    workspace_mib: int = 0
    """Cap of the WORKSPACE pool; 0: none. Plain TensorRT only."""
    tactic_dram_mib: int = 0
    """Cap of the TACTIC_DRAM pool; 0: none. Plain TensorRT only."""
    dla_core: int | None = None
    """Which DLA to run on, what it cannot falls back to the GPU; None: the GPU alone."""
    timing_cache: Path | None = None
    """File of tactic timings to begin from and to add to. Plain TensorRT only."""


@dataclass(frozen=True)
class Built:
    """What came out."""

    plan: bytes
    """The serialized engine."""
    weakly_typed: bool
    """Whether precision was left to TensorRT."""
    sizes: dict[str, int]
    """Bytes of weights, activations and scratch memory, as far as the builder said."""
    warnings: tuple[str, ...]
    """What the builder warned of, each once."""


@dataclass(frozen=True)
class Progress:
    """Where the builder's progress goes; both are called from its threads."""

    start: Callable[[str, str, int], None] = lambda phase, parent, steps: None
    """Phase, its parent ("" for none), number of steps."""
    step: Callable[[str, int], None] = lambda phase, number: None
    """Phase, step that is done; -1: the phase is over."""


def build(api: Api, order: Order, progress: Progress | None = None) -> Built:
    """Build a plan.

    Raises
    ------
    ModelError
        The parser refuses the graph; every complaint is told with its node.
    BackendError
        The builder fails, in its own words.
    UsageError
        The order does not fit: a DLA that is not there, a GPU that this version does not know.
    KeyboardInterrupt
        Ctrl-C; the build is abandoned at its next step.
    """
    progress = progress or Progress()
    messages: list[tuple[str, str]] = []
    stop_listening = bindings.listen(api, lambda severity, text: messages.append((severity, text)))
    try:
        plan, weak = _typed(api, order, messages, progress)
    finally:
        stop_listening()
    if plan is None:
        raise BackendError(
            f"{api.flavour} {api.version} cannot build this graph",
            why=_last(messages, "error") or ("it gives no reason",),
            fix="try --fp32, a smaller --tile or --batch; if that fails too, report it with this message",
        )
    warnings = dict.fromkeys(text for severity, text in messages if severity == "warning")
    return Built(plan, weak, _sizes(messages), tuple(warnings))


def _typed(api: Api, order: Order, messages: list[tuple[str, str]], progress: Progress) -> tuple[bytes | None, bool]:
    """The plan, strongly typed where that can be built, and whether it is weakly typed."""
    with _cancellable() as cancelled:
        # a DLA in TensorRT 10 knows weak typing only
        weak = order.dla_core is not None and bindings.weakly_typed_flags(api) is not None
        plan = _attempt(api, order, messages, progress, cancelled, weak=weak)
        if cancelled.is_set():
            raise KeyboardInterrupt
        if plan is None and order.quantized and not weak and bindings.weakly_typed_flags(api) is not None:
            weak = True
            plan = _attempt(api, order, messages, progress, cancelled, weak=True)
            if cancelled.is_set():
                raise KeyboardInterrupt
    return plan, weak


def _attempt(
    api: Api,
    order: Order,
    messages: list[tuple[str, str]],
    progress: Progress,
    cancelled: threading.Event,
    *,
    weak: bool,
) -> bytes | None:
    """One build; None where the builder makes no plan."""
    trt, logger = api.module, bindings.logger_of(api)
    flags = bindings.weakly_typed_flags(api) if weak else bindings.strongly_typed_flags(api)
    builder = bindings.make_builder(api, logger, lambda: _last(messages, "error") or _last(messages, "warning"))
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(order.content):
        raise ModelError(
            f"{api.flavour} {api.version} cannot read this graph",
            why=tuple(bindings.parser_errors(parser)) or ("it gives no reason",),
            fix="export it again: bfsr-edge export --model CHECKPOINT --out FILE.onnx",
        )
    config = builder.create_builder_config()

    def step(phase: str, number: int) -> bool:
        progress.step(phase, number)
        return not cancelled.is_set()

    # config holds no reference of its own that Python sees: the monitor must live as long as the build
    monitor = bindings.make_monitor(api, progress.start, step)
    config.progress_monitor = monitor
    config.builder_optimization_level = order.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # inspect needs names and types of layers
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: what is called fp32 would multiply with 10 bits
    _set_profile(builder, network, config, order)
    cache = None
    if api.is_rtx:
        # without a GPU any memory limit makes its build fail, and its timing cache does nothing
        bindings.set_compute_capabilities(api, config, order.sm)
    else:
        _set_limits(trt, config, order)
        cache = _load_timing_cache(config, order.timing_cache)
    if weak:
        bindings.allow_low_precision(api, config, int8=order.quantized)
    if order.dla_core is not None:
        _set_dla(trt, builder, config, order.dla_core)
    memory = builder.build_serialized_network(network, config)
    plan = bytes(memory) if memory is not None else None
    if plan and cache is not None and order.timing_cache is not None:
        _save_timing_cache(config, order.timing_cache)
    return plan or None


def _set_profile(builder: Any, network: Any, config: Any, order: Order) -> None:
    if network.num_inputs != 1:
        raise ModelError(f"the graph has {network.num_inputs} inputs instead of one")
    tensor = network.get_input(0)
    profile = builder.create_optimization_profile()
    refused = ""
    try:
        profile.set_shape(tensor.name, *((count, 3, *order.tile) for count in order.batch))
    except RuntimeError as error:  # what the bindings make of False in this one call
        refused = str(error)
    if refused or not profile or config.add_optimization_profile(profile) == -1:
        raise BackendError(
            f"TensorRT refuses batches of {order.batch[0]} to {order.batch[2]} with tiles of "
            f"{order.tile[0]}×{order.tile[1]}",
            why=(*([refused] if refused else []), f"the graph's input is {tuple(tensor.shape)}"),
            fix="export the network again with bfsr-edge export, whose batch is free",
        )


def _set_limits(trt: Any, config: Any, order: Order) -> None:
    if order.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_mib * MEBIBYTE)
    if order.tactic_dram_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, order.tactic_dram_mib * MEBIBYTE)


def _set_dla(trt: Any, builder: Any, config: Any, core: int) -> None:
    if core >= builder.num_DLA_cores:
        raise UsageError(
            f"there is no DLA core {core} here",
            why=(
                f"TensorRT finds {builder.num_DLA_cores}",
                "TensorRT after 10.7 and before 11.4.1 has no DLA",
            ),
            fix="build without --dla-core",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    """A timing cache set in the config; an unreadable or foreign one is begun anew, as it only saves time."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            return None
    return cache


def _save_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    content = cache.serialize() if cache is not None else None
    if content is not None:
        write_atomically(path, bytes(content))


def _sizes(messages: list[tuple[str, str]]) -> dict[str, int]:
    found = {}
    for name, pattern in SIZES.items():
        for _, text in messages:
            if matched := pattern.match(text):
                found[name] = int(matched[1])
    return found


def _last(messages: list[tuple[str, str]], wanted: str) -> tuple[str, ...]:
    """The last three messages of a severity, their first lines, each once."""
    told = dict.fromkeys(text.splitlines()[0] for severity, text in messages if severity == wanted and text)
    return tuple(told)[-3:]


@contextmanager
def _cancellable() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets instead of raising: an exception must not travel through the library's C++ frames."""
    event = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if event.is_set():  # the second time the user means it: the builder may be in a step that takes minutes
            os._exit(130)
        event.set()

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread
        yield event
        return
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
