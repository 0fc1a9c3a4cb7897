"""TensorRT and TensorRT-RTX behind one face: which bindings are here, and every name that not all of them have.

The two packages have the same classes. TensorRT 10.3 to 11.4 and TensorRT-RTX 1.x differ in the few names of ``GATED``:
those are touched behind a ``hasattr`` or ``getattr``, and in this module only. All other names that our code touches
stand in all five of ``tests/data/names-*.txt``; a test reads the code and holds both.
"""

from __future__ import annotations

import importlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bfsr_edge.errors import BackendError, ModelError, first_line

FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Flavour to the module that holds its bindings."""
INSTALL = {
    "tensorrt": "pip install tensorrt on a desktop; on a Jetson it comes with JetPack, and a virtual environment sees"
    " it when made with --system-site-packages (docs/jetson.md)",
    "tensorrt-rtx": "pip install 'bfsr-edge[rtx]' (Linux on x86-64, or Windows)",
}
OLDEST = {"tensorrt": (10, 3, 0), "tensorrt-rtx": (1, 1, 0)}
"""What the code is written for; older ones lack names that it touches."""

GATED = {
    "BuilderFlag.FP16": "weak typing, before 11",
    "BuilderFlag.INT8": "weak typing, before 11",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": "weak typing, before 11: 10 ignores it, its parser wants it",
    "ComputeCapability": "RTX: the GPUs that a plan is built for",
    "IBuilderConfig.num_compute_capabilities": "RTX",
    "IBuilderConfig.set_compute_capability()": "RTX",
    "ICudaEngine.create_runtime_config()": "from 10.13, and RTX",
    "IRuntimeConfig.cuda_graph_strategy": "RTX captures graphs by itself, plain TensorRT leaves it to the caller",
    "CudaGraphStrategy": "RTX",
    "IRuntimeConfig.create_runtime_cache()": "RTX: kernels that one context compiled, for the next",
    "IRuntimeConfig.set_runtime_cache()": "RTX",
    "Runtime.get_engine_validity()": "RTX: can this plan run here, asked before it is loaded",
    "Runtime.engine_header_size": "how much of a plan that question needs",
    "EngineValidity": "RTX",
    "EngineInvalidityDiagnostics": "RTX: the reasons, as bits",
}
"""Every name that some of the bindings lack, and who needs it."""


Sink = Callable[[str, str], None]
"""What takes messages: severity and text."""


@dataclass(frozen=True)
class Api:
    """Bindings that are imported and work."""

    module: Any
    """The module, with TensorRT's own names."""
    flavour: str
    """"tensorrt" or "tensorrt-rtx"."""
    version: str
    """The version's first three numbers, such as "10.3.0"."""
    numbers: tuple[int, int, int]
    """The same, to compare."""

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, which builds without a GPU and compiles for the one it meets when it runs."""
        return self.flavour == "tensorrt-rtx"


def load_api(flavour: str) -> Api:
    """The bindings of a flavour, "tensorrt" or "tensorrt-rtx".

    Raises
    ------
    BackendError
        It cannot be used here; says why and what to install.
    """
    try:
        return _import(flavour)
    except Exception as error:  # a missing package, a stub without libraries, a missing driver: all differ
        why = f"{flavour}: {first_line(error)}"
        raise BackendError(f"{flavour} cannot be used here", why=(why,), fix=INSTALL[flavour]) from error


def importable() -> dict[str, str]:
    """Flavour to its version, or to why it cannot be used."""
    found = {}
    for flavour in FLAVOURS:
        try:
            found[flavour] = _import(flavour).version
        except Exception as error:
            found[flavour] = first_line(error)
    return found


def is_version(text: str) -> bool:
    """Whether an answer of ``importable`` is a version and not a reason."""
    return re.fullmatch(r"\d+\.\d+\.\d+", text) is not None


def _import(flavour: str) -> Api:
    module = importlib.import_module(FLAVOURS[flavour])
    # a build of torch-tensorrt registers the RTX module as "tensorrt" too
    if flavour == "tensorrt" and module.__name__ != "tensorrt":
        raise ImportError(f"the module tensorrt is {module.__name__} under another name")
    text = str(getattr(module, "__version__", ""))
    matched = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if not matched:
        raise ImportError(f"the module {module.__name__} says no version: its libraries are missing")
    numbers = (int(matched[1]), int(matched[2]), int(matched[3]))
    if numbers < OLDEST[flavour]:
        raise ImportError(f"version {text} is older than {'.'.join(map(str, OLDEST[flavour]))}")
    return Api(module, flavour, matched[0], numbers)


# ---- messages


_LOGGERS: dict[Any, tuple[Any, list[Sink]]] = {}
_LOGGERS_LOCK = threading.Lock()


def logger_of(api: Api) -> Any:
    """The one logger of the process for these bindings; who wants to hear it calls ``listen``.

    TensorRT keeps the first logger that it is given as its global one, whatever it is given later, and does not keep
    it alive. So there is one, and it is never freed.
    """
    return _logger(api)[0]


def listen(api: Api, sink: Sink) -> Callable[[], None]:
    """Hand on what TensorRT says from now on, to this sink as to all others, until the answer is called.

    Parameters
    ----------
    sink
        Called with the severity ("error", "warning" or "info") and the text, from any thread of TensorRT's.
    """
    _, sinks = _logger(api)
    with _LOGGERS_LOCK:
        sinks.append(sink)

    def stop() -> None:
        with _LOGGERS_LOCK:
            sinks[:] = [each for each in sinks if each is not sink]

    return stop


def _logger(api: Api) -> tuple[Any, list[Sink]]:
    trt = api.module
    with _LOGGERS_LOCK:
        if trt in _LOGGERS:
            return _LOGGERS[trt]
        words = {int(trt.ILogger.WARNING): "warning", int(trt.ILogger.INFO): "info"}
        hidden = int(trt.ILogger.VERBOSE)
        sinks: list[Sink] = []

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 wants it called by name

            def log(self, severity: Any, message: str) -> None:
                level = int(severity)
                if level < hidden:
                    for sink in tuple(sinks):
                        sink(words.get(level, "error"), message)

        return _LOGGERS.setdefault(trt, (Logger(), sinks))


def make_monitor(api: Api, start: Callable[[str, str, int], None], step: Callable[[str, int], bool]) -> Any:
    """A progress monitor for a builder.

    Parameters
    ----------
    start
        Called with a phase, its parent ("" for none) and how many steps it has.
    step
        Called with a phase and the number of the step that is done; answers whether to go on.
    """
    trt = api.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            start(phase_name, parent_phase or "", num_steps)

        def step_complete(self, phase_name: str, step_number: int) -> bool:
            return step(phase_name, step_number)

        def phase_finish(self, phase_name: str) -> None:
            step(phase_name, -1)

    return Monitor()


def parser_errors(parser: Any) -> list[str]:
    """What the ONNX parser has to say, one line an error, each with its node."""
    lines = []
    for index in range(parser.num_errors):
        parser_error = parser.get_error(index)
        name, kind = parser_error.node_name(), parser_error.node_operator()
        place = f"node {name} ({kind})" if name else f"node {parser_error.node()}"
        lines.append(f"{place}: {parser_error.desc()}")
    return lines


# ---- what plain TensorRT cannot make without CUDA


def make_runtime(api: Api, logger: Any, told: Callable[[], Sequence[str]], *, dla_core: Any = None) -> Any:
    """What loads plans.

    Parameters
    ----------
    told
        Gives what the logger was told so far.
    dla_core
        The DLA that the plans were built for; anything but a number: none.

    Raises
    ------
    BackendError
        TensorRT makes none, in its own words.
    """
    runtime = _made(api, "runtime", lambda: api.module.Runtime(logger), told)
    if isinstance(dla_core, int):
        runtime.DLA_core = dla_core
    return runtime


def make_builder(api: Api, logger: Any, told: Callable[[], Sequence[str]]) -> Any:
    """What builds plans; parameters and errors as for ``make_runtime``."""
    return _made(api, "builder", lambda: api.module.Builder(logger), told)


def _made(api: Api, what: str, make: Callable[[], Any], told: Callable[[], Sequence[str]]) -> Any:
    problem: Exception | None = None
    made = None
    try:
        made = make()
    except Exception as error:  # pybind11 makes a TypeError of the library's null, without its reason
        problem = error
    if made is None:
        raise BackendError(
            f"{api.flavour} {api.version} cannot make a {what}",
            why=tuple(told()) or ("it finds no GPU that CUDA can use",),
            fix="bfsr-edge doctor",
        ) from problem
    return made


# ---- building


def strongly_typed_flags(api: Api) -> int:
    """What ``create_network`` takes for a network whose types are those of the ONNX file."""
    trt = api.module
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def weakly_typed_flags(api: Api) -> int | None:
    """What ``create_network`` takes for a network whose precision TensorRT chooses; None where that is gone."""
    if api.is_rtx or not hasattr(api.module.BuilderFlag, "FP16"):
        return None
    flag = getattr(api.module.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)


def allow_low_precision(api: Api, config: Any, *, int8: bool) -> None:
    """Let the builder of a weakly typed network use FP16; only where ``weakly_typed_flags`` is not None.

    Parameters
    ----------
    int8
        And INT8. Without Q/DQ nodes TensorRT then wants a calibrator, and builds nothing without one
        (https://github.com/NVIDIA/TensorRT/issues/1827).
    """
    for name in ("FP16", "INT8") if int8 else ("FP16",):
        config.set_flag(getattr(api.module.BuilderFlag, name))


def compute_capabilities(api: Api) -> tuple[str, ...]:
    """Those that a plan can be built for without such a GPU, such as "8.6"; empty for plain TensorRT."""
    known = getattr(api.module, "ComputeCapability", None)
    if known is None:
        return ()
    names = [name for name in dir(known) if re.fullmatch(r"SM\d{2,3}", name)]
    return tuple(sorted((f"{name[2:-1]}.{name[-1]}" for name in names), key=lambda sm: tuple(map(int, sm.split(".")))))


def set_compute_capabilities(api: Api, config: Any, sm: Sequence[str]) -> None:
    """Build for these GPUs.

    Raises
    ------
    BackendError
        This version cannot build for one of them.
    """
    known = compute_capabilities(api)
    unknown = [each for each in sm if each not in known]
    if unknown:
        raise BackendError(
            f"{api.flavour} {api.version} cannot build for SM {', '.join(unknown)}",
            why=(f"it builds for {', '.join(known) or 'the GPU that it finds'}",),
            fix="build on a machine with that GPU and full TensorRT",
        )
    config.num_compute_capabilities = len(sm)  # only where compute_capabilities() is not empty
    for index, each in enumerate(sm):
        value = getattr(api.module.ComputeCapability, "SM" + each.replace(".", ""))
        if not config.set_compute_capability(value, index):
            raise BackendError(f"{api.flavour} {api.version} refused SM {each}")


# ---- running


def create_context(api: Api, engine: Any, *, cuda_graph: bool = False, cache: Any = None) -> Any:
    """An execution context.

    Parameters
    ----------
    cuda_graph
        Ask TensorRT-RTX to capture CUDA graphs by itself: for contexts whose shapes and addresses stay as they are, as
        every change means another capture. Plain TensorRT has no such switch: there the caller captures.
    cache
        Of ``runtime_cache``.

    Raises
    ------
    BackendError
        TensorRT made none.
    """
    context = None
    if captures_by_itself(api):
        config = engine.create_runtime_config()
        if config is not None:
            if cuda_graph:
                config.cuda_graph_strategy = api.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            if cache is not None:
                config.set_runtime_cache(cache)  # where it answers False, kernels are compiled once more: time only
            context = engine.create_execution_context(config)
            config = None  # an error's traceback must not keep it longer than the engine
    else:
        context = engine.create_execution_context()
    if context is None:
        raise BackendError(
            f"{api.flavour} cannot make an execution context",
            why=("there is not enough memory on the GPU",),
            fix="build an engine with a smaller --batch or --tile",
        )
    return context


def runtime_cache(api: Api, engine: Any) -> Any:
    """RTX: what contexts of one engine share, so that its kernels are compiled once; it must outlive them.

    None elsewhere.
    """
    config = engine.create_runtime_config() if captures_by_itself(api) else None
    return config.create_runtime_cache() if config is not None else None


def captures_by_itself(api: Api) -> bool:
    """Whether CUDA graphs are the library's business."""
    return hasattr(api.module, "CudaGraphStrategy")


def engine_invalidity(api: Api, runtime: Any, plan: bytes) -> str:
    """Why a plan cannot run here, asked before it is loaded; "" where it can, or where only loading would tell."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, bits = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    if validity != api.module.EngineValidity.INVALID:
        return ""
    reasons = api.module.EngineInvalidityDiagnostics
    names = [name for name in dir(reasons) if name.isupper() and int(getattr(reasons, name)) & int(bits)]
    return ", ".join(names) or "no GPU that it could run on was found"


# ---- looking into engines


def engine_information(api: Api, engine: Any) -> dict[str, Any]:
    """What the inspector says about an engine: "Layers", and "Bindings" (10) or "I/O Tensors" (11).

    Raises
    ------
    ModelError
        It says nothing that can be read.
    """
    trt = api.module
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON) if inspector else ""
    return parse_information(text)


def parse_information(text: str) -> dict[str, Any]:
    """The inspector's JSON as an object; a bare list of layers counts as one.

    Raises
    ------
    ModelError
        It is not JSON of that layout.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ModelError("TensorRT's inspector gave no JSON", why=(str(error),)) from error
    if isinstance(content, list):
        content = {"Layers": content}
    if not isinstance(content, dict) or not isinstance(content.get("Layers"), list):
        raise ModelError("TensorRT's inspector gave JSON without layers")
    return content


def io_tensors(information: dict[str, Any]) -> list[str]:
    """The names of inputs and outputs: objects under "I/O Tensors" from 11 on, plain names under "Bindings" before.

    The change: docs.nvidia.com, TensorRT 11.0, Migrating IEngineInspector Usage from TensorRT 10.x to 11.x.
    """
    entries: Iterable[Any] = information.get("I/O Tensors") or information.get("Bindings") or ()
    return [str(entry.get("Name", "")) if isinstance(entry, dict) else str(entry) for entry in entries]
