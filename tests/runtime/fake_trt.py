"""TensorRT's Python bindings without TensorRT: the names of one real release, an engine that enlarges ×4, and mischief.

``fake_tensorrt(release, device)`` is a module with exactly the names that ``names-RELEASE.txt`` lists: any other
attribute, of the module or of an object, is an AttributeError, as with the real bindings. What the runtime does not
call is there and does nothing. The engine works on the memory and streams of ``fake_cuda.FakeDevice``, so that a wrong
address, a missing event or a wrong order shows in the picture.
"""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtime.fake_cuda import FakeDevice

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "tests" / "data", ROOT.parent / "shared" / "tensorrt")
RELEASES = ("10.3.0", "10.7.0", "10.13.2", "11.4.0", "rtx-1.7.1")
SCALE = 4


@cache
def names_of(release: str) -> frozenset[str]:
    """Every public name of that release, ``Class.method()`` with its parentheses."""
    path = next(folder / f"names-{release}.txt" for folder in FOLDERS if (folder / f"names-{release}.txt").is_file())
    return frozenset(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())


@dataclass
class Mischief:
    """What goes wrong. ``false``: methods that answer False; ``none``: methods that answer None."""

    false: set[str] = field(default_factory=set)
    none: set[str] = field(default_factory=set)
    raises_in_capture: bool = False
    """An exception between a capture's begin and end."""
    nan: bool = False
    """NaN in the output."""
    no_cuda: bool = False
    """CUDA does not start: TensorRT logs that and gives null, of which the bindings make a TypeError."""
    invalid: bool = False
    """RTX: get_engine_validity says no."""
    captured_by_itself: set[tuple[int, int]] = field(default_factory=set)
    """RTX: contexts and how often they had been changed, wherever the library captured a graph."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each method was called."""
    destroyed: list[str] = field(default_factory=list)
    """Classes of destroyed objects, in order."""

    def answer(self, name: str, good: Any) -> Any:
        self.counts[name] = self.counts.get(name, 0) + 1
        if name in self.none:
            return None
        return False if name in self.false else good


def plan(
    release: str,
    /,
    *,
    tile: tuple[int, int] = (32, 32),
    batch: tuple[int, int, int] = (1, 2, 4),
    io: str = "float32",
    scale: int = SCALE,
    **other: Any,
) -> bytes:
    """A plan that the fake of that release can load."""
    content = {"release": release, "tile": tile, "batch": batch, "io": io, "scale": scale} | other
    return json.dumps(content).encode()


def fake_tensorrt(release: str, device: FakeDevice, mischief: Mischief | None = None) -> Any:
    """The module."""
    wrong = mischief or Mischief()
    listed = names_of(release)
    name = "tensorrt_rtx" if release.startswith("rtx-") else "tensorrt"

    class Offered:
        """An object that has the attributes of the release and no others."""

        def __getattribute__(self, attribute: str) -> Any:
            if not attribute.startswith("_"):
                kind = next(each.__name__ for each in type(self).__mro__ if each.__name__ in listed)
                if f"{kind}.{attribute}" not in listed and f"{kind}.{attribute}()" not in listed:
                    raise AttributeError(f"{kind!r} of {release} has no attribute {attribute!r}")
            return object.__getattribute__(self, attribute)

        def __setattr__(self, attribute: str, value: Any) -> None:
            getattr(self, attribute)
            object.__setattr__(self, attribute, value)

        def __del__(self) -> None:
            wrong.destroyed.append(type(self).__name__)

    class ILogger(Offered):
        VERBOSE, INFO, WARNING, ERROR, INTERNAL_ERROR = 4, 3, 2, 1, 0

        def __init__(self) -> None:
            object.__setattr__(self, "_made", True)

        def log(self, severity: Any, message: str) -> None:
            pass

    class Logger(ILogger):
        def __init__(self, level: int = 2) -> None:
            super().__init__()

    class TensorIOMode(enum.IntEnum):
        NONE, INPUT, OUTPUT = 0, 1, 2

    class DataType(enum.Enum):
        FLOAT, HALF, INT8, INT32, BOOL, UINT8 = range(6)

    class EngineValidity(enum.IntEnum):
        VALID, SUBOPTIMAL, INVALID = 0, 1, 2

    class EngineInvalidityDiagnostics(enum.IntFlag):
        VERSION_MISMATCH, UNSUPPORTED_CC = 1, 2

    class CudaGraphStrategy(enum.IntEnum):
        DISABLED, WHOLE_GRAPH_CAPTURE = 0, 1

    class Runtime(Offered):
        DLA_core = -1
        engine_header_size = 64

        def __init__(self, logger: Any) -> None:
            assert getattr(logger, "_made", False), "ILogger.__init__ was not called"
            object.__setattr__(self, "_logger", logger)
            if wrong.no_cuda:
                logger.log(ILogger.WARNING, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            device.need_context()
            try:
                described = json.loads(content)
            except ValueError:
                described = {"release": "an unknown version"}
            if described["release"] != release:
                self._logger.log(
                    ILogger.ERROR, f"serialization: version tag does not match, plan is of {described['release']}"
                )
                return None
            if described.get("dla_core", self.DLA_core) != self.DLA_core:
                self._logger.log(ILogger.ERROR, f"the plan is for DLA core {described['dla_core']}")
                return None
            return wrong.answer("deserialize_cuda_engine", ICudaEngine(self, described))

        def get_engine_validity(self, header: bytes) -> tuple[Any, int]:
            return (EngineValidity.INVALID, 2) if wrong.invalid else (EngineValidity.VALID, 0)

    class ICudaEngine(Offered):
        num_io_tensors = 2

        def __init__(self, runtime: Any, described: dict[str, Any]) -> None:
            object.__setattr__(self, "_runtime", runtime)
            object.__setattr__(self, "_plan", described)

        def get_tensor_name(self, index: int) -> str:
            return str(self._plan.get("names", ["input", "output"])[index])

        def get_tensor_mode(self, tensor: str) -> Any:
            modes = self._plan.get("modes", ["INPUT", "OUTPUT"])
            return TensorIOMode[modes[self._plan.get("names", ["input", "output"]).index(tensor)]]

        def get_tensor_dtype(self, tensor: str) -> Any:
            return DataType.UINT8 if self._plan["io"] == "uint8" else DataType.FLOAT

        def get_tensor_profile_shape(self, tensor: str, profile: int) -> list[tuple[int, ...]]:
            assert profile == 0
            return [(count, 3, *self._plan["tile"]) for count in self._plan["batch"]]

        def create_execution_context(self, config: Any = None) -> Any:
            device.need_context()
            return wrong.answer("create_execution_context", IExecutionContext(self, config))

        def create_runtime_config(self) -> Any:
            return wrong.answer("create_runtime_config", IRuntimeConfig())

    class IRuntimeCache(Offered):
        pass

    class IRuntimeConfig(Offered):
        cuda_graph_strategy = CudaGraphStrategy.DISABLED

        def create_runtime_cache(self) -> Any:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: Any) -> bool:
            assert isinstance(cache, IRuntimeCache)
            object.__setattr__(self, "_cache", cache)
            return bool(wrong.answer("set_runtime_cache", True))

    class IExecutionContext(Offered):
        def __init__(self, engine: Any, config: Any) -> None:
            object.__setattr__(self, "_engine", engine)
            object.__setattr__(self, "_config", config)
            object.__setattr__(
                self, "_state", {"profile": None, "shape": None, "addresses": {}, "fresh": True, "changes": 0}
            )

        def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
            device.put(stream, lambda: None)
            self._state["profile"] = profile
            if not wrong.answer("set_optimization_profile_async", True):
                raise RuntimeError("Error in set optimization profile async.")
            return True

        def set_input_shape(self, tensor: str, shape: Sequence[int]) -> bool:
            plan = self._engine._plan
            fits = plan["batch"][0] <= shape[0] <= plan["batch"][2] and list(shape[1:]) == [3, *plan["tile"]]
            if tensor != "input" or not fits or self._state["profile"] != 0:
                return False
            if self._state["shape"] != tuple(shape):
                self._state["fresh"] = True
                self._state["changes"] += 1
            self._state["shape"] = tuple(shape)
            return bool(wrong.answer("set_input_shape", True))

        def set_tensor_address(self, tensor: str, memory: int) -> bool:
            if tensor not in ("input", "output"):
                return False
            if self._state["addresses"].get(tensor) != memory:
                self._state["fresh"] = True
                self._state["changes"] += 1
            self._state["addresses"][tensor] = memory
            return bool(wrong.answer("set_tensor_address", True))

        def execute_async_v3(self, stream_handle: int) -> bool:
            stream, state, plan = device.stream(stream_handle), self._state, self._engine._plan
            if stream.capture is not None:
                if wrong.raises_in_capture:
                    raise RuntimeError("something broke while capturing")
                # after a change TensorRT does work that cannot be captured
                if state["fresh"]:
                    stream.invalid = True
                    return False
            if not wrong.answer("execute_async_v3", True):
                return False
            state["fresh"] = False
            dtype = np.dtype(plan["io"])
            shape, scale = state["shape"], plan["scale"]
            larger = (shape[0], 3, shape[2] * scale, shape[3] * scale)
            source, sink = state["addresses"]["input"], state["addresses"]["output"]
            # a graph is good for as long as its context stays as it was: https://github.com/NVIDIA/TensorRT/issues/3798
            captured = state["changes"] if stream.capture is not None else None
            if captured is None and self._config is not None and self._config.cuda_graph_strategy:
                wrong.captured_by_itself.add((id(state), state["changes"]))

            def work() -> None:
                device.log.append("compute")
                tiles = device.at(source, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)
                result = device.at(sink, int(np.prod(larger)) * dtype.itemsize).view(dtype).reshape(larger)
                result[...] = tiles.repeat(scale, 2).repeat(scale, 3)
                if captured is not None and captured != state["changes"]:
                    result[...] = 0
                if wrong.nan:
                    result[-1, 0, 0, 0] = np.nan

            device.put(stream_handle, work)
            return True

    def nptype(kind: DataType) -> Any:
        return {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8}[kind]

    offered = {
        "ILogger": ILogger, "Logger": Logger, "TensorIOMode": TensorIOMode, "DataType": DataType, "Runtime": Runtime,
        "ICudaEngine": ICudaEngine, "IExecutionContext": IExecutionContext, "IRuntimeConfig": IRuntimeConfig,
        "IRuntimeCache": IRuntimeCache,
        "CudaGraphStrategy": CudaGraphStrategy, "EngineValidity": EngineValidity, "nptype()": nptype,
        "EngineInvalidityDiagnostics": EngineInvalidityDiagnostics,
    }  # fmt: skip
    module = types.ModuleType(name)
    for each in listed:
        if "." not in each:  # a name that the runtime does not use is there and is of no use
            setattr(module, each.removesuffix("()"), offered.get(each, types.SimpleNamespace()))
    module.__dict__["__version__"] = release.removeprefix("rtx-") + ".99"
    return module
