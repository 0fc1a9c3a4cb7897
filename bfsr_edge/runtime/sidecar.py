"""What stands beside an engine: ``NAME.engine.json`` says what the plan ``NAME.engine`` is and where it runs.

A plan of TensorRT says nothing about itself before it is deserialised, and one of another version or GPU fails there in
ways that explain nothing. So the sidecar is read and checked first. The hashes detect damage, not attack: an engine is
code, run only those that you built.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bfsr_edge.errors import ModelError
from bfsr_edge.files import replace
from bfsr_edge.runtime import machine
from bfsr_edge.weights import Model

VERSION = 1
FLAVOURS = ("tensorrt", "tensorrt-rtx", "openvino")
"""What a plan is for. An "openvino" plan is an ONNX file that holds everything; the other two are TensorRT's own."""
REBUILD = "bfsr-edge build-engine"
MAX_TEXT = 1_000_000
"""Characters of a sidecar; ours have a thousand."""
MAX_SIDE = 16_384
"""Of a tile, in pixels."""


@dataclass(frozen=True)
class Sidecar:
    """Everything about an engine that its plan does not say."""

    name: str
    """The model's name."""
    flavour: str
    """One of ``FLAVOURS``."""
    flavour_version: str
    """Version of that library, such as "10.3.0"."""
    precision: str
    """"fp32", "fp16", "bf16" or "int8"."""
    plan_sha256: str
    """Of ``NAME.engine``."""
    onnx_sha256: str
    """Of the ONNX file that it was built from, before precision was lowered."""
    tile: tuple[int, int]
    """Height and width of the input, in pixels."""
    batch: tuple[int, int, int]
    """Smallest, best and largest number of tiles in a batch."""
    scale: int
    """Output pixels per input pixel, along each side."""
    stride: int
    """Both sides of a tile are multiples of it."""
    receptive_field: int
    """Radius in input pixels; 0 where it is not known."""
    system: str
    """Operating system and architecture, such as "linux-x86_64"."""
    target: str
    """Name of the profile that it was built for, such as "rtx-40"."""
    rebuild: str
    """The command that builds it again."""
    io: str = "float32"
    """Type of input and output: "float32" in [0, 1], or "uint8" in 0 … 255."""
    sm: tuple[str, ...] = ()
    """Compute capabilities that it runs on, such as "8.9"; empty for a CPU."""
    gpu: str = ""
    """Name of the GPU that it was built on; empty where none was needed."""
    cuda: str = ""
    """CUDA version at build time."""
    driver: str = ""
    """Driver version at build time."""
    weakly_typed: bool = False
    """Whether the strongly typed build failed and precision was left to TensorRT (before version 11 only)."""
    calibration_sha256: str = ""
    """Of the calibration; empty unless int8."""
    options: dict[str, Any] = field(default_factory=dict)
    """Builder options: optimization level, workspace in bytes…"""
    psnr_drop: float | None = None
    """Mean loss of PSNR against FP32 in dB on the pairs named in ``options``; ``None``: not measured."""
    created: str = ""
    """UTC time, ISO 8601."""
    bfsr_edge: str = ""
    """Version of this package."""


def path_of(engine: Path) -> Path:
    """The sidecar's path for a plan's."""
    return engine.with_name(f"{engine.name}.json")


def write(engine: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of ``engine``, whole or not at all; OSError where it cannot be written."""
    content = {"version": VERSION, **dataclasses.asdict(sidecar)}
    replace(path_of(engine), (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read(engine: Path) -> Sidecar:
    """The sidecar of ``engine``.

    Raises
    ------
    ModelError
        It is missing, damaged, or of a newer version.
    """
    path = path_of(engine)
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MAX_TEXT:
            raise ValueError(f"it has {len(text):,} characters, and a sidecar has a thousand")
        content = json.loads(text)
        if content.pop("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        content.pop("version_compatible", None)  # sidecars of older builds hold it, always false
        for key in ("tile", "batch", "sm"):
            content[key] = tuple(content[key])
        found = Sidecar(**content)
        _check_types(found)
        return found
    except FileNotFoundError as error:
        raise ModelError(
            f"{engine} has no sidecar {path.name}, so what it is and where it runs is not known",
            why=("it was copied without it", "it was built by another tool"),
            fix="copy both files, or build it here: bfsr-edge build-engine",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as the sidecar of an engine",
            why=(f"it is damaged ({type(error).__name__}: {error})",),
            fix="build the engine again: bfsr-edge build-engine",
        ) from error


def _check_types(sidecar: Sidecar) -> None:
    """ValueError where a value cannot be what its field says: every command that looks for engines reads it."""
    types: dict[str, tuple[type, ...]] = {
        "int": (int,), "bool": (bool,), "str": (str,), "float | None": (float, int, type(None)),
        "dict[str, Any]": (dict,),
    }  # fmt: skip
    for entry in dataclasses.fields(Sidecar):
        value, wanted = getattr(sidecar, entry.name), types.get(str(entry.type), (tuple,))
        if not isinstance(value, wanted) or (wanted == (int,) and isinstance(value, bool)):
            raise ValueError(f"{entry.name} is {str(value)[:40]!r}")
    numbers = {"tile": (sidecar.tile, 2), "batch": (sidecar.batch, 3)}
    for name, (values, count) in numbers.items():
        if len(values) != count or not all(type(number) is int and 1 <= number <= MAX_SIDE for number in values):
            raise ValueError(f"{name} is {str(values)[:40]}")
    if not (1 <= sidecar.scale <= MAX_SIDE and 1 <= sidecar.stride <= MAX_SIDE and sidecar.receptive_field >= 0):
        raise ValueError(f"scale {sidecar.scale}, stride {sidecar.stride} or field {sidecar.receptive_field} cannot be")
    if not all(isinstance(part, str) for part in sidecar.sm):
        raise ValueError(f"sm is {str(sidecar.sm)[:40]}")
    # it is shown as the next command to run, so it is one of ours and holds nothing that a shell would act on
    words = shlex.split(sidecar.rebuild)
    if sidecar.rebuild and (words[:2] != REBUILD.split() or shlex.join(words) != sidecar.rebuild):
        raise ValueError(f"rebuild is no {REBUILD}: {sidecar.rebuild[:60]!r}")
    texts = [value for value in dataclasses.asdict(sidecar).values() if isinstance(value, str)]
    if not all(text.isprintable() for text in texts):
        raise ValueError("a text in it holds control characters")


@dataclass(frozen=True)
class Here:
    """What a plan meets on this machine."""

    flavour: str
    """Of the library that is loaded, one of ``FLAVOURS``."""
    version: str
    """Its version."""
    sm: str = ""
    """Compute capability of the GPU that is to run it; empty for a CPU."""
    gpu: str = ""
    """That GPU's name; empty for a CPU."""
    system: str = field(default_factory=machine.system)
    """Operating system and architecture."""
    cuda: str = field(default_factory=machine.cuda_version)
    """The newest CUDA that the driver knows."""
    driver: str = field(default_factory=machine.driver_version)
    """The driver's version."""


def check_plan(sidecar: Sidecar, model: Model) -> None:
    """See that the sidecar belongs to this plan, before anything looks into the plan.

    Raises
    ------
    ModelError
        It is of a flavour that we do not know, or the plan's hash is another one.
    """
    if sidecar.flavour not in FLAVOURS:
        raise ModelError(
            f"{model.path} is for {sidecar.flavour!r}, which this version does not run",
            why=("it was built by a newer bfsr-edge",),
            fix=f"build it here: {sidecar.rebuild or REBUILD}",
        )
    if model.sha256 != sidecar.plan_sha256:
        raise ModelError(
            f"{model.path} is not the plan that {path_of(model.path).name} describes",
            why=(
                "one of the two files was replaced, or damaged while it was copied",
                f"the plan's sha256 is {model.sha256[:16]}…, the sidecar says {sidecar.plan_sha256[:16]}…",
            ),
            fix=f"copy both files again, or build it here: {sidecar.rebuild or REBUILD}",
        )


def differences(sidecar: Sidecar, here: Here) -> list[str]:
    """Why the plan cannot run here; empty where it can. Each is a clause with both sides."""
    found = []
    if sidecar.flavour != here.flavour:
        found.append(f"it is a plan of {sidecar.flavour}, here is {here.flavour}")
    # an "openvino" plan is an ONNX file, which other versions read as well
    elif sidecar.flavour != "openvino" and _numbers(sidecar.flavour_version) != _numbers(here.version):
        found.append(f"it was built with {sidecar.flavour} {sidecar.flavour_version}, here is {here.version}")
    if sidecar.system != here.system:
        found.append(f"it was built for {sidecar.system}, this is {here.system}")
    if sidecar.sm and here.sm not in sidecar.sm:
        known = ", ".join(sidecar.sm)
        found.append(f"it was built for GPUs of SM {known}; {here.gpu or 'this machine'} has {here.sm or 'none'}")
    return found


def check_machine(sidecar: Sidecar, engine: Path, here: Here) -> list[str]:
    """Whether a plan can run on this machine.

    Returns
    -------
    list of str
        What differs and does not matter to correctness, a clause each: worth a warning.

    Raises
    ------
    ModelError
        Something differs that matters: one error that names everything, and the command that builds the plan here.
    """
    hard = differences(sidecar, here)
    if hard:
        raise ModelError(
            f"{engine} cannot run on this machine", why=hard, fix=f"build it here: {sidecar.rebuild or REBUILD}"
        )
    soft = []
    for what, built, now in (
        ("GPU", sidecar.gpu, here.gpu),
        ("driver", sidecar.driver, here.driver),
        ("CUDA", _minor(sidecar.cuda), _minor(here.cuda)),
    ):
        if built and now and built != now:
            soft.append(f"built with {what} {built}, running with {now}")
    if sidecar.flavour == "openvino" and _numbers(sidecar.flavour_version) != _numbers(here.version):
        soft.append(f"built with openvino {sidecar.flavour_version}, running with {here.version}")
    return soft


def executed(sidecar: Sidecar) -> str:
    """What a TensorRT plan's convolutions execute, in the words of ``EngineInfo.precision``.

    Graphs are strongly typed, so it is what the graph says. Where the sidecar does not tell the shares, what is not
    quantized in an "int8" one is taken for fp16.
    """
    shares = sidecar.options.get("mac_shares")
    told = shares.items() if isinstance(shares, dict) else ()
    found = sorted(name for name, share in told if isinstance(share, (int, float)) and share > 0)
    return "+".join(found) or ("fp16+int8" if sidecar.precision == "int8" else sidecar.precision)


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version: plans do not depend on what follows."""
    parts = version.split(".")[:3]
    return tuple(int(part) if part.isdigit() else -1 for part in parts)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
