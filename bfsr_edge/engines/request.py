"""What ``build-engine`` is asked for: the request, what cannot be asked together, and its name and command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from bfsr_edge.engines import target, torch_frontend
from bfsr_edge.engines.graphs import Source
from bfsr_edge.engines.profile import Profile
from bfsr_edge.errors import UsageError
from bfsr_edge.runtime.base import by, tile_size
from bfsr_edge.weights import Model, list_models


@dataclass(frozen=True)
class Request:
    """What to build."""

    model: Model
    """The ONNX file."""
    profile: Profile
    """For which device."""
    target: str = ""
    """What ``--target`` was: a name or the path of a TOML; empty: the profile's name."""
    precision: str = ""
    """"fp32", "fp16" or "int8"; empty: the profile's, where this CPU can."""
    out: Path = Path("engines")
    """Folder to write into."""
    tile: tuple[int, int] | None = None
    """Height and width of the input; None: the profile's, rounded up to the network's stride."""
    batch: tuple[int, int, int] | None = None
    """Smallest, best and largest batch; None: the profile's."""
    calibration: Path | None = None
    """For INT8; None: the one beside the ONNX file, or the one that ships."""
    uint8_io: bool = False
    """8-bit pixels in and out."""
    optimization_level: int | None = None
    """0 to 5; None: the profile's."""
    dla_core: int | None = None
    """Run on this DLA, experimental."""
    force: bool = False
    """Build even if an equal engine is there."""
    frontend: str = "onnx"
    """"onnx" or "torch-tensorrt"."""
    checkpoint: Path | None = None
    """The checkpoint that the ONNX file came from; torch-tensorrt needs it."""
    asked: str = ""
    """What ``--model`` was, for the command that builds it again; empty: the ONNX file's path or shipped name."""


def check(request: Request, here: target.Here, source: Source, precision: str) -> None:
    """Refuse combinations that cannot work, each by name.

    Raises
    ------
    UsageError
        The request contradicts itself, the network or this machine.
    """
    profile = request.profile
    target.check_precision(profile, here, precision)
    if request.calibration is not None and precision != "int8":
        raise UsageError(f"--calibration belongs to --int8, this builds {precision}", fix="leave it out, or add --int8")
    if request.calibration is not None and source.quantized:
        raise UsageError(
            f"{source.path} is quantized already, --calibration would change nothing",
            fix="leave it out, or give the file that it was made from",
        )
    if request.frontend == "torch-tensorrt":
        torch_frontend.check(precision, request.checkpoint, profile.flavour, uint8_io=request.uint8_io)
    if request.dla_core is not None:
        _check_dla(request, precision)


def _check_dla(request: Request, precision: str) -> None:
    profile, core = request.profile, request.dla_core
    assert core is not None
    batch = request.batch or profile.batch
    problem = ""
    if core >= profile.dla_cores:
        problem = f"{profile.name} has {profile.dla_cores or 'no'} DLA cores"
    elif precision == "fp32":
        problem = "a DLA has no FP32: add --fp16"
    elif precision == "int8":
        problem = "a DLA takes INT8 without Q/DQ nodes only, and our graphs have them: add --fp16"
    elif not batch[0] == batch[1] == batch[2]:
        problem = f"a DLA takes one shape, and batches go from {batch[0]} to {batch[2]}: add --batch 1,1,1"
    if problem:
        raise UsageError(f"--dla-core {core} (experimental) cannot be used: {problem}", fix="build without --dla-core")


def tile_of(request: Request, source: Source) -> tuple[int, int]:
    """Height and width to build for.

    Raises
    ------
    UsageError
        They are no multiples of the network's stride.
    """
    return tile_size(request.tile, source.stride, _default_tile(request.profile, source))


def _default_tile(profile: Profile, source: Source) -> tuple[int, int]:
    side = -(-profile.tile // source.stride) * source.stride
    return side, side


def stem(request: Request, source: Source, precision: str, tile: tuple[int, int]) -> str:
    """The name of an engine or bundle without its suffix: what it is, and what differs from the profile."""
    words = [source.name, request.profile.name, precision]
    if tile != _default_tile(request.profile, source):
        words.append(by(tile).replace("×", "x"))
    words += ["uint8"] if request.uint8_io else []
    words += [] if request.dla_core is None else [f"dla{request.dla_core}"]
    words += ["torch"] if request.frontend == "torch-tensorrt" else []
    return "-".join(words)


def command_of(request: Request, precision: str) -> str:
    """The command that makes this request."""
    shipped = {entry.name for entry in list_models()}
    model = request.asked or (request.model.name if request.model.name in shipped else str(request.model.path))
    flag = {"fp32": "--fp32", "int8": "--int8", "auto": "--precision auto"}.get(precision, "--fp16")
    words = [
        "bfsr-edge",
        "build-engine",
        "--model",
        model,
        *flag.split(),
        "--target",
        request.target or request.profile.name,
    ]
    if request.tile is not None:
        height, width = request.tile
        words += ["--tile", str(height) if height == width else f"{height}x{width}"]
    if request.batch is not None:
        words += ["--batch", ",".join(map(str, request.batch))]
    if request.calibration is not None:
        words += ["--calibration", str(request.calibration)]
    if request.optimization_level is not None:
        words += ["--opt-level", str(request.optimization_level)]
    words += ["--uint8-io"] if request.uint8_io else []
    words += [] if request.dla_core is None else ["--dla-core", str(request.dla_core)]
    words += [] if request.frontend == "onnx" else ["--frontend", request.frontend]
    words += ["--out", str(request.out)] if request.out != Path("engines") else []
    return shlex.join(words)
