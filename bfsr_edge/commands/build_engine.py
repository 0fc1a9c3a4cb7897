"""`bfsr-edge build-engine`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bfsr_edge.engines.build import Outcome
    from bfsr_edge.engines.builder import Progress
    from bfsr_edge.weights import Model

PRECISIONS = ("fp32", "fp16", "int8")


@click.command(name="build-engine", short_help="Make a network ready for one kind of device.")
@click.option("--model", default="edge", show_default=True, metavar="NAME|FILE", help="Shipped, ONNX or checkpoint.")
@click.option("--fp32", is_flag=True, help="Full precision.")
@click.option("--fp16", is_flag=True, help="Half precision; on a CPU bf16 or f16, where it has them.")
@click.option("--int8", is_flag=True, help="8-bit convolutions; takes a calibration, the default model has one.")
@click.option("--precision", type=click.Choice(["auto", *PRECISIONS]), help="auto: build two, time both, keep one.")
@click.option("--target", metavar="NAME|TOML", help="A device profile.  [default: what this machine has]")
@click.option("--list-targets", is_flag=True, help="Say which profiles there are, and stop.")
@click.option("--tile", metavar="N|HxW", help="Size of the input in pixels.  [default: the profile's]")
@click.option("--batch", metavar="MIN,OPT,MAX", help="Tiles at a time.  [default: the profile's]")
@click.option("--out", default="engines", show_default=True, metavar="DIR", help="Folder to write into.")
@click.option("--calibration", metavar="FILE", help="For INT8.  [default: beside the ONNX file, or what ships]")
@click.option(
    "--budget", type=click.FloatRange(0), default=0.03, show_default=True, help="auto: dB that INT8 may cost."
)
@click.option("--opt-level", type=click.IntRange(0, 5), help="How long TensorRT looks for fast kernels.")
@click.option("--uint8-io", is_flag=True, help="8-bit pixels in and out: a quarter of the copies.")
@click.option("--frontend", type=click.Choice(["onnx", "torch-tensorrt"]), default="onnx", show_default=True)
@click.option("--dla-core", type=click.IntRange(0), help="Experimental: run on this DLA of a Jetson Orin.")
@click.option("--force", is_flag=True, help="Build even if an equal engine is there.")
@click.option("--quiet", is_flag=True, help="Errors only.")
def command(**options: Any) -> None:
    """Make a network ready for one kind of device: an engine and beside it a sidecar that says what it is.

    Where this machine cannot build for the target, it writes a bundle instead: a folder with everything that the device
    needs, and the command to run there.

    \b
    Example:
        bfsr-edge build-engine --int8
        bfsr-edge build-engine --fp16 --target rtx-40
    """
    if options["list_targets"]:
        click.echo(_targets())
        return
    from bfsr_edge.engines import target
    from bfsr_edge.engines.auto import build_auto
    from bfsr_edge.engines.build import build
    from bfsr_edge.engines.profile import load_profile
    from bfsr_edge.engines.request import Request

    def announce(line: str) -> None:
        if not options["quiet"]:
            click.echo(line, err=True)

    precision = _precision(options)
    here = target.look()
    if options["target"]:
        profile = load_profile(options["target"])
    else:
        profile, why = target.choose(here)
        announce(f"building for {profile.name}: {why}")
    if options["frontend"] == "torch-tensorrt":
        from bfsr_edge.engines.torch_frontend import check_target

        check_target(profile.flavour)  # before a checkpoint is exported for nothing
    model, checkpoint = _model(options, announce)
    request = Request(
        model=model,
        profile=profile,
        target=options["target"] or "",
        precision="" if precision == "auto" else precision,
        out=Path(options["out"]),
        tile=_tile(options["tile"]),
        batch=_batch(options["batch"]),
        calibration=Path(options["calibration"]) if options["calibration"] else None,
        uint8_io=options["uint8_io"],
        optimization_level=options["opt_level"],
        dla_core=options["dla_core"],
        force=options["force"],
        frontend=options["frontend"],
        checkpoint=checkpoint,
        asked=options["model"],
    )
    with _progress(quiet=options["quiet"]) as progress:
        if precision == "auto":
            done = build_auto(request, here, budget=options["budget"], progress=progress, announce=announce)
        else:
            done = build(request, here, progress=progress, announce=announce)
    if not options["quiet"]:
        click.echo(_told(done))


def _targets() -> str:
    from bfsr_edge.engines.profile import list_profiles, load_profile

    lines = []
    for name in list_profiles():
        profile = load_profile(name)
        sm = f", SM {', '.join(profile.sm)}" if profile.sm else ""
        lines.append(f"{name:<18} {profile.flavour:<13} {profile.precision:<5} {profile.summary}{sm}")
    return "\n".join(lines)


def _precision(options: dict[str, Any]) -> str:
    """The one precision that was asked for; empty: none was."""
    from bfsr_edge.errors import UsageError

    asked = [f"--{name}" for name in PRECISIONS if options[name]]
    asked += [f"--precision {options['precision']}"] if options["precision"] else []
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} contradict each other", fix="ask for one precision")
    return asked[0].split()[-1].removeprefix("--") if asked else ""


def _tile(text: str | None) -> tuple[int, int] | None:
    from bfsr_edge.errors import UsageError

    if text is None:
        return None
    matched = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not matched:
        raise UsageError(f"--tile {text} is no size", fix="write --tile 128, or height and width: --tile 96x128")
    return int(matched[1]), int(matched[2] or matched[1])


def _batch(text: str | None) -> tuple[int, int, int] | None:
    from bfsr_edge.errors import UsageError

    if text is None:
        return None
    numbers = [int(word) for word in text.split(",")] if re.fullmatch(r"\d+(,\d+){0,2}", text) else []
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise UsageError(
            f"--batch {text} is no range of batches", fix="write the smallest, the best and the largest: --batch 1,4,4"
        )
    return numbers[0], numbers[1], numbers[2]


def _model(options: dict[str, Any], announce: Any) -> tuple[Model, Path | None]:
    """The ONNX file to build from, and the checkpoint that it came from, if that was given.

    A checkpoint is exported into the output folder first, unless that holds its ONNX file already.
    """
    from bfsr_edge.errors import UsageError
    from bfsr_edge.weights import list_models, resolve

    shipped = {entry.name: entry for entry in list_models()}
    name = options["model"]
    if name in shipped and "onnx" in shipped[name].files and options["frontend"] == "onnx":
        return resolve(name, kind="onnx"), None
    found = resolve(name, kind="checkpoint" if name in shipped else None)
    if found.kind == "onnx":
        return found, None
    if found.kind != "checkpoint":
        raise UsageError(f"{found.path} is an engine already", fix="give the ONNX file or checkpoint that it came from")
    target = Path(options["out"]) / f"{Path(found.name).stem}.onnx"
    if not _exported_from(target, found.sha256):
        from bfsr_edge.engines.files import unwritable
        from bfsr_edge.export import export

        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(target, error) from error
        announce(f"exporting {found.path} to {target}")
        export(found.path, target)
    return resolve(target), found.path


def _exported_from(target: Path, sha256: str) -> bool:
    """Whether an ONNX file is there that was exported from the checkpoint of that hash."""
    if not target.is_file():
        return False
    import onnx

    from bfsr_edge.runtime.graph import PREFIX

    try:
        proto = onnx.load(str(target), load_external_data=False)
    except Exception:  # not ONNX: it is exported anew
        return False
    return any(entry.key == f"{PREFIX}checkpoint_sha256" and entry.value == sha256 for entry in proto.metadata_props)


def _told(done: Outcome) -> str:
    """What there is now, for people."""
    lines = list(done.notes)
    if done.sidecar is None:
        command = (done.path / "README.txt").read_text("utf-8").split("In this folder:")[1].strip().splitlines()[0]
        return "\n".join([*lines, f"no engine was built; wrote the bundle {done.path}", f"run there: {command}"])
    made = done.sidecar
    shares = ", ".join(f"{share:.0%} {name}" for name, share in done.shares.items() if share)
    size = done.path.stat().st_size / 1e6
    how = "is there already, from an equal build (--force builds again)" if done.reused else f"{done.seconds:.1f} s"
    lines.append(f"{done.path}: {size:.2f} MB, {how}")
    lines.append(
        f"{made.precision} ({shares} of the multiply-accumulates) for {made.target}, {made.flavour} "
        f"{made.flavour_version}, tiles of {made.tile[0]}×{made.tile[1]}, batch {made.batch[0]} to {made.batch[2]}"
    )
    if made.psnr_drop is not None:
        through = made.options.get("psnr", {}).get("backend", "the calibration")
        lines.append(f"INT8 costs {made.psnr_drop:.3f} dB of PSNR against FP32, measured through {through}")
    return "\n".join(lines)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """TensorRT's phases as bars; each goes when its phase is over."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from bfsr_edge.engines.builder import Progress as Sink

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def start(phase: str, parent: str, steps: int) -> None:
            tasks[phase] = bars.add_task(("  " if parent else "") + phase, total=max(steps, 1))

        def step(phase: str, number: int) -> None:
            if phase not in tasks:
                return
            if number < 0:
                bars.remove_task(tasks.pop(phase))
            else:
                bars.update(tasks[phase], completed=number + 1)

        yield Sink(start, step)
