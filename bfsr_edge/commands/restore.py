"""``bfsr-edge restore``: photographs in, restored photographs out."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfsr_edge.errors import BackendError, UsageError
from bfsr_edge.image_formats import FORMATS

if TYPE_CHECKING:
    from bfsr_edge.restore.options import Options
    from bfsr_edge.restore.plan import Task
    from bfsr_edge.restore.report import Report
    from bfsr_edge.restore.telling import Teller
    from bfsr_edge.runtime import Choice, Engine

FACES = ("auto", "only", "off", "aligned", "largest")
FACE_OPTIONS = ("max_faces", "strength", "save_faces")
EXAMPLES = """\b
Examples:
  bfsr-edge restore photos/ --out results/
  bfsr-edge restore photos/ --out results/ --scale 1 --format png
  bfsr-edge restore 'scans/*.tif' --out results/ --dry-run

Exit codes: 0 all done, 1 some failed (or something else lay at a result's place and was kept), 2 wrong usage."""


@click.command(epilog=EXAMPLES)
@click.argument("photos", nargs=-1, metavar="PHOTOS...")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the results.")
@click.option("--model", default="edge", show_default=True, metavar="NAME|FILE", help="Shipped name, or a file.")
@click.option("--list-models", is_flag=True, help="List the shipped models, a line each, and stop.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (the GPU, if an engine for it is there), cpu or cuda:0.",
)
@click.option("--backend", default="auto", show_default=True, help="auto, openvino, onnxruntime, torch or tensorrt.")
@click.option("--build", is_flag=True, help="First build an engine for this machine, if there is none yet.")
@click.option("--scale", type=int, default=4, show_default=True, help="Size of the result: 1, 2 or 4 times the input.")
@click.option(
    "--faces",
    type=click.Choice(FACES),
    default="auto",
    show_default=True,
    help="auto: restore each by itself, and the rest. only: leave the rest. largest: one. aligned: pictures are faces.",
)
@click.option("--max-faces", type=int, help="Restore so many of the largest.  [default: all]")
@click.option("--strength", type=float, help="How much of a restored face is blended in, 0 to 1.  [default: 1]")
@click.option(
    "--save-faces", type=click.Path(file_okay=False, path_type=Path), help="Folder for each face before and after."
)
@click.option(
    "--reduce", type=int, help="Reduce so often first, 1, 2 or 4; times --scale at most 4.  [default: measured]"
)
@click.option("--tta", is_flag=True, help="Restore all twice, once mirrored: a little better, twice the time.")
@click.option("--tile", type=int, help="Side of a tile in pixels.  [default: the engine's, else 192 or 128]")
@click.option("--overlap", type=int, help="Context at each inner edge of a tile, in pixels.  [default: 16]")
@click.option("--batch", type=int, help="Tiles given to the network at a time.  [default: the engine's; 1]")
@click.option("--threads", type=int, help="CPU threads for the network.  [default: all cores]")
@click.option(
    "--format", "format_", type=click.Choice(tuple(FORMATS)), help="Of the results.  [default: that of the input]"
)
@click.option("--quality", type=int, help="1 to 100, for JPEG, WebP and HEIC.  [default: 95]")
@click.option("--suffix", default="", help="Put between a result's name and its extension, such as _restored.")
@click.option("--strip-metadata", is_flag=True, help="Carry no EXIF (date, place), only the colour profile.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Also write one HTML page to look at.")
@click.option(
    "--max-megapixels", type=float, help="Refuse larger inputs: a small file can unpack to gigabytes.  [default: 512]"
)
@click.option("--overwrite", is_flag=True, help="Redo every picture and replace what lies at its result's place.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print an account of every file as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print a line for every file.")
def command(
    photos: tuple[str, ...],
    out: Path | None,
    model: str,
    list_models: bool,
    device: str,
    backend: str,
    build: bool,
    scale: int,
    faces: str,
    max_faces: int | None,
    strength: float | None,
    save_faces: Path | None,
    reduce: int | None,
    tta: bool,
    tile: int | None,
    overlap: int | None,
    batch: int | None,
    threads: int | None,
    format_: str | None,
    quality: int | None,
    suffix: str,
    strip_metadata: bool,
    report: Path | None,
    max_megapixels: float | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Restore photographs: files, folders (recursively), globs.

    Folders are mirrored below --out. A result that was made from the same input by the same weights and options is
    skipped, one of the same input by others is made anew; any other file that lies at a result's place is kept and
    named, unless --overwrite is given.
    """
    if list_models:
        _list_models()
        return
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other")
    if not photos:
        raise UsageError("no photographs were given", fix="bfsr-edge restore photos/ --out results/")
    if out is None:
        raise UsageError("--out is missing", fix=f"bfsr-edge restore {photos[0]} --out results/")
    if os.path.exists(out) and not os.path.isdir(out):  # pathlib's own raise for names that are too long
        raise UsageError(f"--out {out} is a file", fix="name a folder")
    if report and dry_run:
        raise UsageError(
            "--report and --dry-run exclude each other", fix="leave out --report: a dry run writes nothing"
        )
    if build and dry_run:
        raise UsageError(
            "--build and --dry-run exclude each other",
            fix="leave out --build: a dry run writes nothing, no engine either",
        )
    # Pillow's and OpenCV's remarks on odd files are not for users; what cannot be read is an error of ours
    warnings.filterwarnings("ignore", module="PIL")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

    from bfsr_edge.restore import account, array, find, memory, options, plan, record, telling
    from bfsr_edge.restore import report as report_page

    if report:
        report_page.check(report)
    given: dict[str, Any] = {
        "tile": tile, "overlap": overlap, "batch": batch, "quality": quality, "max_faces": max_faces,
        "strength": strength, "save_faces": save_faces, "reduce": reduce, "max_megapixels": max_megapixels,
    }  # fmt: skip
    # checked before the model is looked at: a wrong number is the quicker thing to say
    settings = options.Options(
        scale=scale,
        faces=faces,
        tta=tta,
        strip_metadata=strip_metadata,
        overwrite=overwrite,
        **{name: value for name, value in given.items() if value is not None},
    )
    # "photos/*" in a shell names an earlier report too, which nobody means
    named = [name for name in photos if not report_page.is_report(Path(name))]
    found = find.find(
        named,
        out,
        format=format_,
        suffix=suffix,
        is_result=lambda path: record.record_of(path) is not None,
    )
    teller = telling.Teller(quiet, verbose)
    for remark in found.notes:
        teller.note(remark)
    settings = _with_faces(settings, [name for name in FACE_OPTIONS if given[name] is not None], teller)
    choice = _choose(model, backend, device, tile, threads, build=build, quiet=quiet)
    if choice.note:
        teller.note(choice.note)
    network_for = _networks(choice, threads, tta)
    settings = _fit(settings, choice, tile, batch)
    info = network_for(settings.tile or options.TILE).info
    if batch is None and info.backend == "torch" and info.device != "cpu":
        settings = dataclasses.replace(settings, batch=memory.batch_for(info, memory.free(info)))
    # a picture of more than one tile: what does not fit the network is wrong for all of them
    array.plan_for(info, 2 * info.tile[0], 2 * info.tile[1], scale=scale, overlap=settings.overlap)
    started = time.perf_counter()
    with telling.progress("looking at", len(found.jobs), "files", quiet) as advance:
        tasks, outcomes = plan.decide(found.jobs, settings, info.sha256, lambda job: advance(1))
    unsaved = sum(outcome.status == "skipped" for outcome in outcomes) if save_faces else 0
    if unsaved:
        teller.note(
            f"{unsaved} pictures were already made, and faces are saved only of those that are restored now; "
            "add --overwrite to have them all"
        )
    outcomes += [
        plan.Outcome(path, None, "failed", reason, "check its name and its permissions, or leave it out")
        for path, reason in found.unreadable
    ]
    passed_over = found.passed_over + len(photos) - len(named)
    with _terminable(), report_page.Report(report, settings) if report else nullcontext() as page:
        try:
            for outcome in outcomes:
                if outcome.status != "planned" or dry_run:
                    teller.tell(outcome)
                    if page:
                        page.add(outcome)
            if not dry_run:
                _restore(tasks, settings, network_for, info.scale, teller, page)
        finally:
            # also when interrupted: what was finished is accounted for, and another signal must not cut that short
            _deafen()
            seconds = time.perf_counter() - started
            run = account.Run(out, settings, info, passed_over, tuple(teller.notes), report)
            told = account.account(run, outcomes, seconds)
            if as_json:
                click.echo(json.dumps(told, indent=1))
            if not quiet:
                click.echo(account.summary(outcomes, out, seconds), err=as_json)
            if page:
                page.write(told)
                if not quiet:
                    click.echo(f"report: {click.format_filename(page.path)}", err=as_json)
    if not all(outcome.done for outcome in outcomes):
        sys.exit(1)


def _with_faces(settings: Options, asked: list[str], teller: Teller) -> Options:
    """The settings as far as faces can be looked for here; what was asked for by name is never left out silently."""
    from bfsr_edge import detect

    words = " and ".join("--" + name.replace("_", "-") for name in asked)
    if settings.faces == "off" and asked:
        raise UsageError(f"--faces off leaves nothing for {words} to do", fix=f"leave out --faces off, or {words}")
    if "max_faces" in asked and settings.faces in ("largest", "aligned"):
        raise UsageError(f"--faces {settings.faces} is one face, so --max-faces has no say", fix="leave it out")
    if settings.reduce is not None and settings.faces in ("only", "aligned"):
        raise UsageError(
            f"--faces {settings.faces} sends nothing but faces through the network, so --reduce has no say",
            fix="leave it out, or take --faces auto",
        )
    if settings.faces in ("off", "aligned"):
        return settings
    try:
        detect.model_file()
    except BackendError as error:
        if settings.faces != "auto" or asked:
            wanted = words if settings.faces == "auto" else f"--faces {settings.faces}"
            raise UsageError(f"{wanted}: {error.what}", why=error.why, fix=error.fix) from error
        teller.note(f"{error.what}, so photographs are restored as a whole; to have them found: {error.fix}")
        return dataclasses.replace(settings, faces="off")
    return settings


def _list_models() -> None:
    from bfsr_edge import weights

    entries = weights.list_models()
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        click.echo(f"{entry.name:{width}}  {entry.summary} ({entry.parameters:,} parameters, {entry.gmacs:.3g} GMAC)")


def _choose(
    model: str, backend: str, device: str, tile: int | None, threads: int | None, *, build: bool, quiet: bool
) -> Choice:
    """The file that runs; with ``build`` an engine, built first where there is none."""
    from bfsr_edge import runtime

    if quiet:
        logger = logging.getLogger("bfsr_edge")
        click.get_current_context().call_on_close(functools.partial(logger.setLevel, logger.level))
        logger.setLevel(logging.ERROR)
    choice = runtime.choose(model, backend=backend, device=device, tile=tile, threads=threads)
    if build and choice.sidecar is None:
        engine = _build(model, device, quiet)
        choice = runtime.choose(engine, backend=backend, device=device, tile=tile, threads=threads)
    return choice


def _build(model: str, device: str, quiet: bool) -> Path:
    """Build an engine for this machine, or take an equal one from the user's cache."""
    from bfsr_edge import weights
    from bfsr_edge.engines import target
    from bfsr_edge.engines.build import build as build_engine
    from bfsr_edge.engines.graphs import find_calibration, read_source
    from bfsr_edge.engines.profile import load_profile
    from bfsr_edge.engines.request import Request
    from bfsr_edge.runtime import build_command, machine

    shipped = model in {entry.name for entry in weights.list_models()}
    found = weights.resolve(model, kind="onnx" if shipped else None)
    if found.kind != "onnx":
        raise UsageError(
            f"--build builds engines of shipped models and ONNX files, not of {found.path}",
            fix=f"{build_command(model)}; then --model with the engine that it names",
        )
    here = target.look()
    profile, why = (load_profile("cpu"), "--device cpu") if device == "cpu" else target.choose(here)
    if device.startswith("cuda") and profile.flavour == "openvino":
        raise BackendError(f"no engine for {device} can be built here: {why}", fix="bfsr-edge doctor")
    obstacle = target.obstacle(profile, here)
    if obstacle:
        raise BackendError(f"no engine for {profile.name} can be built here: {obstacle}", fix="bfsr-edge doctor")

    def announce(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    announce(f"building an engine of {found.name} for {profile.name}: {why}")
    precision, _ = target.default_precision(profile, here)
    source = read_source(found)
    if precision == "int8" and not source.quantized:
        try:
            find_calibration(source, None)
        except UsageError as error:
            precision = "fp32" if profile.flavour == "openvino" else "fp16"
            announce(f"{error.what}, so it is built in {precision}")
    folder = machine.cache_folder() / "engines"
    request = Request(model=found, profile=profile, precision=precision, asked=model, out=folder)
    return build_engine(request, here, announce=announce).path


def _fit(settings: Options, choice: Choice, tile: int | None, batch: int | None) -> Options:
    """The settings with an engine's own tile and batch, where nothing else was asked."""
    if choice.sidecar is None:
        return settings
    if tile is None:
        settings = dataclasses.replace(settings, tile=choice.sidecar.tile[0])
    if batch is None and choice.fixed_tile is not None:
        # one batch is copied while another is computed
        settings = dataclasses.replace(settings, batch=2 * choice.sidecar.batch[1])
    return settings


def _networks(choice: Choice, threads: int | None, tta: bool) -> Callable[[int], Any]:
    """Engines by the side of their tile, each loaded when first asked for."""
    from bfsr_edge import runtime
    from bfsr_edge.restore import memory

    context = click.get_current_context()
    streams = memory.streams_for(choice.device, threads)
    loaded: dict[int, Engine] = {}

    def network_for(tile: int) -> Engine:
        if tile not in loaded:
            own = choice.sidecar is not None and tile == choice.sidecar.tile[0]  # which may not be square
            engine = runtime.load(choice, tile=None if own else tile, threads=threads, streams=streams, tta=tta)
            # a GPU's memory is given back while its driver is still there
            context.call_on_close(engine.close)
            loaded[tile] = engine
        return loaded[tile]

    return network_for


def _restore(
    tasks: list[Task],
    settings: Options,
    network_for: Callable[[int], Engine],
    factor: int,
    teller: Teller,
    page: Report | None,
) -> None:
    from bfsr_edge.restore import pipeline, telling

    megapixels = sum(task.outcome.megapixels for task in tasks)
    with telling.progress("restoring", megapixels, "MP", teller.quiet) as advance:
        steps = pipeline.run(tasks, settings, network_for, *([page.watch] if page else []), factor=factor)
        try:
            for step in steps:
                advance(step.megapixels)
                if step.note:
                    teller.note(step.note, urgent=step.urgent)
                if step.finished is not None:
                    teller.tell(step.finished)
                    if page:
                        page.add(step.finished)
        finally:
            steps.close()  # type: ignore[attr-defined]  # a generator: ends its threads
            for task in tasks:
                if task.outcome.status == "planned":  # where not even a thread had begun
                    task.outcome.status = "interrupted"


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, so that no unfinished file stays."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)


def _deafen() -> None:
    """Heed no signal until the end of ``_terminable``."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
