"""TensorRT's builder without TensorRT: classes with exactly the names of one release, and mischief."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bfsr_edge.runtime.trt import Api

DATA = Path(__file__).resolve().parents[1] / "data"


@dataclass
class Script:
    """What the builder does, and what was asked of it."""

    plans: list[bytes | None] = field(default_factory=lambda: [b"plan"])
    """What each build gives, in turn."""
    cuda: bool = True
    """Whether CUDA starts; without it the bindings make no builder."""
    parses: bool = True
    profile: bool = True
    """Whether a profile counts as complete."""
    shapes: bool = True
    """Whether a profile takes its shapes."""
    dla_cores: int = 0
    messages: list[tuple[int, str]] = field(default_factory=list)
    """Severity and text, logged while building."""
    during: Callable[[], None] = lambda: None
    """Called while building."""
    flags: list[int] = field(default_factory=list)
    """Of each network."""
    configs: list[Any] = field(default_factory=list)


def fake_api(release: str, script: Script) -> Api:
    """The bindings of a release."""
    listed = frozenset((DATA / f"names-{release}.txt").read_text("utf-8").replace("()", "").split())

    class Offered:
        """Has the attributes that the release lists, and no others."""

        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_"):
                kind = next(each.__name__ for each in type(self).__mro__ if each.__name__ in listed)
                if f"{kind}.{name}" not in listed:
                    raise AttributeError(f"{kind} of {release} has no {name}")
            return object.__getattribute__(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            kind = next(each.__name__ for each in type(self).__mro__ if each.__name__ in listed)
            if not name.startswith("_") and f"{kind}.{name}" not in listed:
                raise AttributeError(f"{kind} of {release} has no {name}")
            object.__setattr__(self, name, value)

    class ILogger(Offered):
        VERBOSE, INFO, WARNING, ERROR, INTERNAL_ERROR = 4, 3, 2, 1, 0

    class IProgressMonitor(Offered):
        pass

    class IOptimizationProfile(Offered):
        def set_shape(self, *shapes: Any) -> None:
            self._shapes = shapes
            if not script.shapes:
                raise RuntimeError("Shape provided for max is inconsistent with other shapes.")

        def __bool__(self) -> bool:
            return script.profile

    class ITimingCache(Offered):
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return b"timings"

    class IBuilderConfig(Offered):
        def __init__(self) -> None:
            self._set: list[Any] = []
            self._cleared: list[Any] = []
            self._limits: dict[Any, int] = {}
            script.configs.append(self)

        def set_flag(self, flag: Any) -> None:
            self._set.append(flag)

        def clear_flag(self, flag: Any) -> None:
            self._cleared.append(flag)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._limits[pool] = size

        def add_optimization_profile(self, profile: Any) -> int:
            return 0

        def create_timing_cache(self, content: bytes) -> Any:
            return None if content == b"damaged" else ITimingCache(content)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

    class ParserError(Offered):
        def node_name(self) -> str:
            return "/body/Conv"

        def node_operator(self) -> str:
            return "Conv"

        def node(self) -> int:
            return 3

        def desc(self) -> str:
            return "kernel weights must be positive"

    class OnnxParser(Offered):
        num_errors = 2

        def __init__(self, network: Any, logger: Any) -> None:
            pass

        def parse(self, content: bytes) -> bool:
            return script.parses

        def get_error(self, index: int) -> Any:
            return ParserError()

    class ITensor(Offered):
        name, shape = "input", (-1, 3, 32, 32)

    class INetworkDefinition(Offered):
        num_inputs = 1

        def get_input(self, index: int) -> Any:
            return ITensor()

    class Builder(Offered):
        def __init__(self, logger: Any) -> None:
            self._logger = logger
            if not script.cuda:
                logger.log(ILogger.WARNING, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.num_DLA_cores = script.dla_cores

        def create_network(self, flags: int) -> Any:
            script.flags.append(flags)
            return INetworkDefinition()

        def create_builder_config(self) -> Any:
            return IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 2)
            for severity, text in script.messages:
                self._logger.log(severity, text)
            script.during()
            if not monitor.step_complete("Building", 0):
                return None
            monitor.phase_finish("Building")
            return script.plans.pop(0)

    module: Any = types.ModuleType("tensorrt")
    for name in sorted(listed):
        kind, _, member = name.partition(".")
        if not hasattr(module, kind):
            setattr(module, kind, type(kind, (), {}))
        if member and "." not in member and not member.startswith("_"):
            setattr(getattr(module, kind), member, len(vars(getattr(module, kind))))
    for offered in (ILogger, IProgressMonitor, OnnxParser, Builder):
        setattr(module, offered.__name__, offered)
    flavour, _, version = release.rpartition("-")
    numbers = tuple(map(int, version.split(".")))
    return Api(module, "tensorrt-rtx" if flavour else "tensorrt", version, numbers)  # type: ignore[arg-type]
