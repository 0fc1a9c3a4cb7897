"""``build-engine``: one request in, an engine with its sidecar out, or a bundle for the machine that can build it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bfsr_edge import __version__
from bfsr_edge.engines import builder, openvino, target, torch_frontend
from bfsr_edge.engines.builder import Order, Progress
from bfsr_edge.engines.bundle import Contents, write_bundle
from bfsr_edge.engines.files import locked, temporary_of, unwritable, write_atomically
from bfsr_edge.engines.graphs import Graph, Source, prepare, read_source
from bfsr_edge.engines.request import Request, check, command_of, stem, tile_of
from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.resources import find_toml, list_tomls
from bfsr_edge.runtime import load as load_engine
from bfsr_edge.runtime import machine, sidecar, trt
from bfsr_edge.runtime.sidecar import Sidecar
from bfsr_edge.weights import sha256_of


@dataclass(frozen=True)
class Outcome:
    """What there is now."""

    path: Path
    """The engine, or the bundle's folder."""
    sidecar: Sidecar | None
    """What the engine is; None for a bundle."""
    reused: bool = False
    """Whether an equal engine was there already."""
    seconds: float = 0.0
    """How long it took to build."""
    notes: tuple[str, ...] = ()
    """What the user should know: fallbacks, warnings of the builder, why it is a bundle."""
    shares: dict[str, float] = field(default_factory=dict)
    """Part of the convolutions' multiply-accumulates by precision."""


def build(
    request: Request,
    here: target.Here,
    *,
    progress: Progress | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Build an engine, or write a bundle where this machine cannot.

    The engine and its sidecar appear whole, after everything was checked, and replace older ones together. An equal
    engine is used again; of two processes that want the same one, the second waits for the first and uses what it made.

    Raises
    ------
    UsageError
        The request contradicts itself or this machine.
    ModelError
        The ONNX file or calibration cannot be used, or a folder cannot be written to.
    BackendError
        The library fails or is not installed.
    """
    profile = request.profile
    source = read_source(request.model)
    precision, why = (request.precision, "") if request.precision else target.default_precision(profile, here)
    if not request.precision:
        announce(f"precision {precision}: {why}")
    check(request, here, source, precision)
    tile = tile_of(request, source)
    if obstacle := target.obstacle(profile, here):
        return bundle(request, source, precision, tile, obstacle)
    if profile.flavour == "openvino" and precision == "fp16":
        executed = openvino.half_precision()
        if not executed:
            raise UsageError(
                "--fp16 is nothing that this CPU has",
                why=("it has neither bf16 nor f16 instructions",),
                fix="bfsr-edge build-engine --int8, or --fp32",
            )
        announce(f"--fp16 on this CPU is {executed}")
    else:
        executed = precision
    # on a CPU bf16 and f16 are a matter of how the float32 graph is run, not of its types
    lowered = "fp32" if executed != "int8" and profile.flavour == "openvino" else precision
    graph = prepare(source, lowered, tile, calibration=request.calibration, uint8_io=request.uint8_io)
    plan_for = _Plan(request, here, source, graph, executed, tile)
    engine = request.out / f"{stem(request, source, executed, tile)}.engine"
    with locked(engine, lambda: announce(f"another process builds {engine.name}, waiting for it")):
        key = plan_for.key()
        if not request.force and (found := _equal(engine, key, announce)):
            return Outcome(engine, found, reused=True, shares=plan_for.shares())
        return plan_for.build(engine, key, progress)


@dataclass(frozen=True)
class _Plan:
    """A request with every open question answered."""

    request: Request
    here: target.Here
    source: Source
    graph: Graph
    precision: str
    tile: tuple[int, int]

    @property
    def batch(self) -> tuple[int, int, int]:
        return self.request.batch or self.request.profile.batch

    @property
    def level(self) -> int:
        asked = self.request.optimization_level
        return self.request.profile.optimization_level if asked is None else asked

    def options(self) -> dict[str, Any]:
        """Builder options, as they stand in the sidecar."""
        profile = self.request.profile
        if profile.flavour == "openvino":
            return {}
        options: dict[str, Any] = {"optimization_level": self.level, "frontend": self.request.frontend}
        if profile.flavour == "tensorrt":
            options["workspace_mib"] = profile.workspace_mib
            if self.request.frontend == "onnx":  # torch-tensorrt has no such limit
                options["tactic_dram_mib"] = profile.tactic_dram_mib
        if self.request.dla_core is not None:
            options["dla_core"] = self.request.dla_core
        return options

    def version(self) -> str:
        """Of the library that makes the plan."""
        flavour = self.request.profile.flavour
        if flavour != "openvino":
            return self.here.flavours[flavour]
        from openvino import __version__ as text

        return str(text).split("-")[0]

    def sm(self) -> tuple[str, ...]:
        profile = self.request.profile
        return (self.here.gpus[0].sm,) if profile.flavour == "tensorrt" else profile.sm

    def shares(self) -> dict[str, float]:
        """Part of the multiply-accumulates by executed precision."""
        if self.request.profile.flavour != "openvino":
            return self.graph.shares
        # OpenVINO runs everything that is not INT8 in the one precision that it is told, whatever the graph says
        int8 = self.graph.shares["int8"]
        floating = "fp32" if self.precision == "int8" else self.precision
        return {"int8": int8, floating: 1 - int8} if int8 else {floating: 1.0}

    @property
    def power_mode(self) -> str:
        """Of a Jetson: TensorRT chooses kernels by their time, and that depends on it."""
        return self.here.power_mode if self.request.profile.flavour == "tensorrt" else ""

    def key(self) -> str:
        """Equal for builds that would give the same engine."""
        facts = {
            "graph": hashlib.sha256(self.graph.content).hexdigest(),
            "onnx": self.source.sha256,
            "precision": self.precision,
            "tile": self.tile,
            "batch": self.batch,
            "flavour": self.request.profile.flavour,
            "version": self.version(),
            "target": self.request.profile.name,
            "sm": self.sm(),
            "system": self.here.system,
            "gpu": self.here.gpus[0].name if self.request.profile.flavour == "tensorrt" else "",
            "options": self.options(),
        }
        if mode := self.power_mode:
            facts["power_mode"] = mode
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def build(self, engine: Path, key: str, progress: Progress | None) -> Outcome:
        started = time.monotonic()
        facts: dict[str, Any] = {}
        notes: list[str] = []
        weakly_typed = False
        flavour, version = self.request.profile.flavour, self.version()
        if flavour == "openvino":
            plan = self.graph.content
            facts["convolutions"] = openvino.prove(plan, self.precision, self.tile, uint8_io=self.request.uint8_io)
        elif self.request.frontend == "torch-tensorrt":
            assert self.request.checkpoint is not None
            plan, version = torch_frontend.convert(
                self.request.checkpoint,
                self.precision,
                self.tile,
                self.batch,
                self.level,
                self.request.profile.workspace_mib,
            )
        else:
            built = builder.build(trt.load_api(flavour), self._order(version), progress)
            plan, weakly_typed = built.plan, built.weakly_typed
            facts.update(built.sizes)
            notes += [f"the builder warns: {text}" for text in built.warnings]
            if weakly_typed:
                failed = f"TensorRT {version} could not build the strongly typed network"
                reason = failed if self.request.dla_core is None else "a DLA in TensorRT 10 knows nothing else"
                notes.append(f"built weakly typed, so layers may run in other precisions than the graph says: {reason}")
        described = self._describe(plan, key, version, weakly_typed, facts)
        save(engine, plan, described)
        if flavour == "openvino":
            # what was compiled from an engine of the same name, then this one's, so that its first use is quick
            shutil.rmtree(engine.with_name(f"{engine.name}.cache"), ignore_errors=True)
            load_engine(engine).close()
        seconds = time.monotonic() - started
        return Outcome(engine, described, seconds=seconds, notes=tuple(notes), shares=self.shares())

    def _order(self, version: str) -> Order:
        profile = self.request.profile
        return Order(
            content=self.graph.content,
            quantized=self.graph.quantized,
            tile=self.tile,
            batch=self.batch,
            sm=profile.sm,
            optimization_level=self.level,
            workspace_mib=profile.workspace_mib,
            tactic_dram_mib=profile.tactic_dram_mib,
            dla_core=self.request.dla_core,
            timing_cache=(
                timing_cache(version, self.sm()[0], self.power_mode) if profile.flavour == "tensorrt" else None
            ),
        )

    def _describe(self, plan: bytes, key: str, version: str, weakly_typed: bool, facts: dict[str, Any]) -> Sidecar:
        request, graph = self.request, self.graph
        on_gpu = request.profile.flavour == "tensorrt"
        drop = graph.calibration.drop if graph.calibration else None
        options = {**self.options(), "key": key, "built": facts, "mac_shares": self.shares()}
        if drop:
            options["psnr"] = dataclasses.asdict(drop)
        return Sidecar(
            name=self.source.name,
            flavour=request.profile.flavour,
            flavour_version=version,
            precision=self.precision,
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            onnx_sha256=self.source.sha256,
            tile=self.tile,
            batch=self.batch,
            scale=self.source.scale,
            stride=self.source.stride,
            receptive_field=self.source.receptive_field,
            system=self.here.system,
            target=request.profile.name,
            rebuild=command_of(request, graph.precision if self.precision == "int8" else self.precision),
            io="uint8" if request.uint8_io else "float32",
            sm=self.sm(),
            gpu=self.here.gpus[0].name if on_gpu else "",
            cuda=machine.cuda_version() if on_gpu else "",
            driver=machine.driver_version() if on_gpu else "",
            weakly_typed=weakly_typed,
            calibration_sha256=graph.calibration_sha256,
            options=options,
            psnr_drop=drop.mean if drop else None,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            bfsr_edge=__version__,
        )


def save(engine: Path, plan: bytes, described: Sidecar) -> None:
    """Write plan and sidecar under temporary names, then give both their own.

    Between the two renames the files do not belong together, and their hashes say so: such a pair is refused, not run.

    Raises
    ------
    ModelError
        The folder cannot be written to.
    """
    temporary = temporary_of(engine)
    try:
        write_atomically(temporary, plan)
        sidecar.write(temporary, described)
        os.replace(temporary, engine)
        os.replace(sidecar.path_of(temporary), sidecar.path_of(engine))
    except OSError as error:
        raise unwritable(engine, error) from error
    finally:
        for path in (temporary, sidecar.path_of(temporary)):
            with contextlib.suppress(OSError):  # a folder that cannot be written to is said above
                path.unlink(missing_ok=True)


def timing_cache(version: str, sm: str, power_mode: str = "") -> Path:
    """Where TensorRT's timings are kept, one file a version, GPU and power mode.

    Raises
    ------
    ModelError
        The folder cannot be written to: better said before a long build than behind it.
    """
    words = [f"tensorrt-{version}-sm{sm}", *re.findall(r"\w+", power_mode)]
    path = machine.cache_folder() / "timing" / f"{'-'.join(words)}.cache"
    probe = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def _equal(engine: Path, key: str, announce: Callable[[str], None]) -> Sidecar | None:
    """The sidecar of an engine that is what would be built, if there is one."""
    if not engine.exists():
        return None
    try:
        described = sidecar.read(engine)
    except ModelError as error:
        announce(f"{engine.name} is there and cannot be used again ({error.what}): it is built anew")
        return None
    if described.options.get("key") != key:
        announce(f"{engine.name} is there, built from another model or with other options: it is replaced")
        return None
    if sha256_of(engine) != described.plan_sha256:
        announce(f"{engine.name} is there and damaged, its hash is not what its sidecar says: it is built anew")
        return None
    return described


def bundle(request: Request, source: Source, precision: str, tile: tuple[int, int], obstacle: str) -> Outcome:
    """Write the bundle for a target that this machine cannot build for; ``precision`` may be "auto".

    Raises
    ------
    BackendError
        The request needs torch-tensorrt, which converts on the target alone: a bundle holds ONNX files.
    """
    if request.frontend != "onnx":
        raise BackendError(
            f"--frontend {request.frontend} cannot build for {request.profile.name} here",
            why=(obstacle,),
            fix="run it on that machine, or leave --frontend out, which writes a bundle for it",
        )
    wanted = ("fp16", "int8") if precision == "auto" else (precision,)
    graphs = tuple(
        prepare(source, each, tile, calibration=request.calibration, uint8_io=request.uint8_io) for each in wanted
    )
    name = stem(request, source, precision, tile)
    folder = request.out / f"{name}.bundle"
    # there, everything lies in the folder that the command is run in
    toml = find_toml("engines", request.target or request.profile.name)
    known = request.profile.name in list_tomls("engines")
    there = dataclasses.replace(
        request,
        asked=f"{source.name}.onnx",
        target=request.profile.name if known else f"./{request.profile.name}.toml",
        out=Path("engines"),
        calibration=None,
    )
    # which engine auto keeps shows there only; restore finds it by the network
    model = f"{source.name}.onnx" if precision == "auto" else f"engines/{name}.engine"
    contents = Contents(source, graphs, request.profile, toml, tile, request.batch or request.profile.batch)
    write_bundle(folder, contents, command_of(there, precision), model)
    notes = (f"this machine cannot build for {request.profile.name}: {obstacle}",)
    return Outcome(folder, None, notes=notes, shares=graphs[-1].shares)
