"""The one module that knows both bindings: each name that our code touches is in all five releases, or is gated."""

from __future__ import annotations

import ast
import enum
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.errors import BackendError, ModelError
from bfsr_edge.runtime import trt

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
PACKAGE = ROOT / "bfsr_edge"
RELEASES = ("10.3.0", "10.7.0", "10.13.2", "11.4.0", "rtx-1.7.1")
BEFORE_11 = RELEASES[:3]
GATES = "runtime/trt.py"
# variable or attribute, as our code calls it, to the classes that it may hold
OBJECTS = {
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "tensor": ("ITensor",),
    "parser": ("OnnxParser",),
    "parser_error": ("ParserError",),
    "profile": ("IOptimizationProfile",),
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "cache": ("ITimingCache",),
    "runtime": ("Runtime",),
    "engine": ("ICudaEngine",),
    "inspector": ("EngineInspector",),
    "context": ("IExecutionContext",),
    "_context": ("IExecutionContext",),
}
FILES = {
    GATES: tuple(OBJECTS),
    "runtime/tensorrt.py": ("runtime", "engine", "context", "_context"),
    "engines/builder.py": ("builder", "network", "tensor", "parser", "profile", "config", "cache"),
    "engines/inspection.py": ("runtime", "engine", "inspector"),
}


def names_of(release: str) -> frozenset[str]:
    """Every public name of a release; methods without their parentheses."""
    return frozenset((DATA / f"names-{release}.txt").read_text("utf-8").replace("()", "").split())


ALL = {release: names_of(release) for release in RELEASES}
COMMON = frozenset.intersection(*ALL.values())
GATED = {name.removesuffix("()") for name in trt.GATED}


def last_name(node: ast.expr) -> str:
    """What an expression ends in: ``engine`` of ``engine`` and of ``plan.engine``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def module_chain(node: ast.Attribute, modules: set[str]) -> str:
    """``A.B`` of ``trt.A.B`` or ``api.module.A.B``; empty for anything else."""
    parts: list[str] = []
    current: ast.expr = node
    while isinstance(current, ast.Attribute):
        if current.attr == "module":
            return ".".join(reversed(parts))
        parts.append(current.attr)
        current = current.value
    return ".".join(reversed(parts)) if isinstance(current, ast.Name) and current.id in modules else ""


def touched(source: str, objects: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Every name of the bindings that a source touches by attribute, as ``Class.member``, with its line.

    A variable that may hold several classes yields the first whose member is common, or else the first.
    """
    tree = ast.parse(source)
    ours = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
            for alias in node.names}  # fmt: skip
    modules = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "module"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    modules |= {argument.arg for node in ast.walk(tree) if isinstance(node, ast.arguments)
                for argument in node.args if argument.arg == "trt"}  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        chain = module_chain(node, modules - ours)
        if chain:
            yield chain, node.lineno
        owner = last_name(node.value)
        if owner in objects and owner not in ours:
            candidates = [f"{kind}.{node.attr}" for kind in OBJECTS[owner]]
            known = [name for name in candidates if name in COMMON or name in GATED]
            yield (known or candidates)[0], node.lineno


def complaints(source: str, objects: tuple[str, ...], *, gates: bool) -> list[str]:
    """What is neither common nor, in the module of the gates, gated."""
    allowed = COMMON | (GATED if gates else frozenset())
    found = []
    for name, line in touched(source, objects):
        # a member of a gated class is as good as its class
        if name not in allowed and not (gates and name.split(".")[0] in GATED):
            found.append(f"line {line}: {name}")
    return found


def scanned() -> list[Path]:
    return [PACKAGE / GATES, PACKAGE / "runtime" / "tensorrt.py", *sorted((PACKAGE / "engines").glob("*.py"))]


@pytest.mark.parametrize("path", scanned(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_stand_in_every_release(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    assert not complaints(path.read_text("utf-8"), FILES.get(relative, ()), gates=relative == GATES)


def test_the_scan_sees_what_the_code_touches() -> None:
    found = {name for path in scanned() for name, _ in touched(path.read_text("utf-8"), FILES.get(
        path.relative_to(PACKAGE).as_posix(), ()))}  # fmt: skip
    assert {"Builder", "OnnxParser.parse", "IBuilderConfig.progress_monitor", "MemoryPoolType.TACTIC_DRAM",
            "ICudaEngine.create_engine_inspector", "IExecutionContext.execute_async_v3"} <= found  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "config.int8_calibrator = 1",
        "trt = api.module\ntrt.BuilderFlag.INT8",
        "api.module.ComputeCapability.SM89",
        "plan.engine.device_memory_size",
    ],
)
def test_the_scan_finds_what_is_not_everywhere(line: str) -> None:
    assert complaints(line, tuple(OBJECTS), gates=False)


def test_only_one_module_asks_what_is_there() -> None:
    for path in scanned():
        if path.relative_to(PACKAGE).as_posix() == GATES:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and last_name(node.func) in ("hasattr", "getattr"):
                assert last_name(node.args[0]) not in {*OBJECTS, "module"}, f"{path}: line {node.lineno}"


@pytest.mark.parametrize("name", sorted(GATED))
def test_gated_names_are_real_and_not_everywhere(name: str) -> None:
    assert any(name in names for names in ALL.values())
    assert name not in COMMON


# ---- each gate on each release


def bindings(release: str) -> Any:
    """A module with a release's classes; members are numbers."""
    module: Any = types.SimpleNamespace()
    for name in sorted(ALL[release]):
        kind, _, member = name.partition(".")
        if not hasattr(module, kind):
            setattr(module, kind, type(kind, (), {}))
        if member and "." not in member and not member.startswith("_"):
            setattr(getattr(module, kind), member, len(vars(getattr(module, kind))))
    return module


def api_of(release: str) -> trt.Api:
    flavour, _, version = release.rpartition("-")
    numbers = tuple(map(int, version.split(".")))
    return trt.Api(bindings(release), "tensorrt-rtx" if flavour else "tensorrt", version, numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("release", RELEASES)
def test_gates(release: str) -> None:
    api = api_of(release)
    assert trt.strongly_typed_flags(api) > 0
    assert (trt.weakly_typed_flags(api) is not None) == (release in BEFORE_11)
    assert bool(trt.compute_capabilities(api)) == trt.captures_by_itself(api) == api.is_rtx


@pytest.mark.parametrize("release", BEFORE_11)
def test_weak_typing_sets_int8_for_quantized_graphs_alone(release: str) -> None:
    """Without Q/DQ nodes TensorRT would ask for a calibrator."""
    api = api_of(release)
    for int8, expected in ((True, ["FP16", "INT8"]), (False, ["FP16"])):
        flags: list[int] = []
        trt.allow_low_precision(api, types.SimpleNamespace(set_flag=flags.append), int8=int8)
        assert flags == [getattr(api.module.BuilderFlag, name) for name in expected]


class Heard(list[tuple[str, str]]):
    def __call__(self, severity: str, text: str) -> None:
        self.append((severity, text))


def test_there_is_one_logger_for_all() -> None:
    """TensorRT keeps the first logger that it gets, so whoever comes later must hear that one."""
    module = types.ModuleType("tensorrt")
    api = trt.Api(module, "tensorrt", "10.3.0", (10, 3, 0))
    vars(module)["ILogger"] = type("ILogger", (), {"VERBOSE": 4, "INFO": 3, "WARNING": 2, "ERROR": 1})
    logger = trt.logger_of(api)
    first, second = Heard(), Heard()
    stop_first, stop_second = trt.listen(api, first), trt.listen(api, second)
    assert trt.logger_of(api) is logger
    logger.log(1, "broken")
    stop_first()
    stop_first()
    logger.log(2, "odd")
    logger.log(4, "chatter")
    stop_second()
    logger.log(1, "nobody hears")
    assert first == [("error", "broken")]
    assert second == [("error", "broken"), ("warning", "odd")]


def test_rtx_knows_its_gpus() -> None:
    api = api_of("rtx-1.7.1")
    known = trt.compute_capabilities(api)
    assert known == ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
    with pytest.raises(BackendError, match=r"SM 9\.0"):
        trt.set_compute_capabilities(api, types.SimpleNamespace(), ["9.0"])
    refusing = types.SimpleNamespace(set_compute_capability=lambda value, index: False)
    with pytest.raises(BackendError, match=r"refused SM 8\.9"):
        trt.set_compute_capabilities(api, refusing, ["8.9"])


def test_validity_is_asked_where_it_can_be() -> None:
    assert trt.engine_invalidity(api_of("10.3.0"), types.SimpleNamespace(), b"plan") == ""

    class Reasons(enum.IntFlag):
        VERSION_MISMATCH, UNSUPPORTED_CC = 1, 2

    api = api_of("rtx-1.7.1")
    api.module.EngineValidity.INVALID, api.module.EngineInvalidityDiagnostics = 2, Reasons

    def runtime(answer: tuple[int, int]) -> Any:
        return types.SimpleNamespace(engine_header_size=4, get_engine_validity=lambda header: answer)

    assert trt.engine_invalidity(api, runtime((0, 0)), b"plan and more") == ""
    assert trt.engine_invalidity(api, runtime((2, 2)), b"plan and more") == "UNSUPPORTED_CC"
    assert trt.engine_invalidity(api, runtime((2, 0)), b"plan and more")


@pytest.mark.parametrize(("what", "make"), [("runtime", trt.make_runtime), ("builder", trt.make_builder)])
@pytest.mark.parametrize("told", [("CUDA initialization failure with error: 35",), ()])
def test_what_the_library_does_not_make(what: str, make: Any, told: tuple[str, ...]) -> None:
    """The bindings raise where the library gives null; the reason is in the log."""

    def raises(logger: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    for factory in (raises, lambda logger: None):
        module = types.SimpleNamespace(Runtime=factory, Builder=factory)
        api = trt.Api(module, "tensorrt", "10.3.0", (10, 3, 0))
        with pytest.raises(BackendError, match=rf"tensorrt 10\.3\.0 cannot make a {what}") as raised:
            make(api, None, lambda: told)
        assert raised.value.why == (told or ("it finds no GPU that CUDA can use",))


def test_no_context_is_an_error() -> None:
    with pytest.raises(BackendError, match="execution context"):
        trt.create_context(api_of("10.3.0"), types.SimpleNamespace(create_execution_context=lambda: None))


def test_rtx_is_told_to_capture() -> None:
    api = api_of("rtx-1.7.1")
    config = types.SimpleNamespace(cuda_graph_strategy=None, create_runtime_cache=lambda: "cache", given=[])
    config.set_runtime_cache = config.given.append
    engine = types.SimpleNamespace(create_runtime_config=lambda: config, create_execution_context=lambda given: given)
    assert trt.create_context(api, engine) is config
    assert config.cuda_graph_strategy is None
    assert trt.create_context(api, engine, cuda_graph=True, cache=trt.runtime_cache(api, engine)) is config
    assert config.given == ["cache"]
    assert config.cuda_graph_strategy == api.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


# ---- which bindings are here


def install(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    module = types.ModuleType(name)
    if version is not None:
        vars(module)["__version__"] = version
    monkeypatch.setitem(sys.modules, name, module)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt", "10.13.2.6")
    api = trt.load_api("tensorrt")
    assert (api.version, api.numbers, api.is_rtx) == ("10.13.2", (10, 13, 2), False)
    assert api.numbers > (10, 3, 0)


@pytest.mark.parametrize(("version", "reason"), [("8.6.1", "older than 10.3.0"), (None, "no version")])
def test_unusable_bindings(monkeypatch: pytest.MonkeyPatch, version: str | None, reason: str) -> None:
    install(monkeypatch, "tensorrt", version)
    with pytest.raises(BackendError, match="cannot be used here") as raised:
        trt.load_api("tensorrt")
    assert reason in raised.value.why[0]
    assert "JetPack" in raised.value.fix
    assert reason in trt.importable()["tensorrt"]


def test_another_module_under_the_name_is_not_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt_rtx", "1.7.1")
    monkeypatch.setitem(sys.modules, "tensorrt", sys.modules["tensorrt_rtx"])
    assert "another name" in trt.importable()["tensorrt"]
    assert trt.load_api("tensorrt-rtx").is_rtx


def test_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "tensorrt", "tensorrt_rtx")
    for flavour in trt.FLAVOURS:
        with pytest.raises(BackendError, match=f"{flavour} cannot be used") as raised:
            trt.load_api(flavour)
        assert raised.value.fix == trt.INSTALL[flavour]
    assert not any(trt.is_version(answer) for answer in trt.importable().values())


# ---- what the inspector says


def test_io_tensors_of_10_and_11() -> None:
    ten = {"Layers": [], "Bindings": ["input", "output"]}
    eleven = {"Layers": [], "I/O Tensors": [{"Name": "input", "IOMode": "Input"}, {"Name": "output"}]}
    for content in (ten, eleven):
        assert trt.io_tensors(trt.parse_information(json.dumps(content))) == ["input", "output"]


def test_a_bare_list_of_layers_counts() -> None:
    assert trt.parse_information('["conv"]')["Layers"] == ["conv"]


@pytest.mark.parametrize("text", ["", "{}", '{"Layers": 3}', "Layer 0: conv"])
def test_no_information_is_an_error(text: str) -> None:
    with pytest.raises(ModelError, match="inspector"):
        trt.parse_information(text)
