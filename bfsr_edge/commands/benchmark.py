"""`bfsr-edge benchmark`."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bfsr_edge.benchmarks.measure import Bench, Progress
    from bfsr_edge.benchmarks.prepare import Files
    from bfsr_edge.benchmarks.results import EngineRow
    from bfsr_edge.benchmarks.subjects import Subject
    from bfsr_edge.benchmarks.suite import Suite

Say = Callable[[str], None]


@click.command(name="benchmark", short_help="Measure engines, ours and others', into one report.")
@click.option("--quick", "suite", flag_value="quick", default="quick", help="Less than ten minutes.  [default]")
@click.option("--full", "suite", flag_value="full", help="Every pair and engine, photographs of up to 50 megapixels.")
@click.option("--suite", "suite_file", metavar="NAME|TOML", help="Another suite.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME|FILE", help="Shipped, checkpoint, ONNX or engine; several times."
)
@click.option("--lq", metavar="DIR", help="Degraded pictures of pairs.  [default: the samples, or made-up ones]")
@click.option("--gt", metavar="DIR", help="The true ones, same file names, 4 times as large.")
@click.option("--out", metavar="DIR", help="Run folder; an interrupted run goes on.  [default: results/benchmark-DATE]")
@click.option("--peers", default="all", show_default=True, metavar="all|none|NAME,...", help="Engines of others.")
@click.option("--against", multiple=True, metavar="FILE|DIR", help="Earlier results: exit 1 where one was faster.")
@click.option("--threshold", type=click.FloatRange(min=1.0), default=1.15, show_default=True, help="For --against.")
@click.option("--keep", metavar="DIR", help="Also write a CSV for each engine, as in benchmarks/results.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--tile", type=click.IntRange(16), help="Side of the input in pixels.  [default: the suite's, 128]")
@click.option("--curves", multiple=True, metavar="FILE", help="A log.csv of training, for the report.")
@click.option("--layers", metavar="FILE", help="Calibration with --sensitivity.  [default: the first model's]")
@click.option("--quiet", is_flag=True, help="Errors and warnings only.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Measure engines on the same pictures: PSNR and what INT8 costs of it, latency, throughput, memory, energy.

    Writes CSVs, report.md and report.html into --out. Ctrl-C keeps what was measured, and the same --out goes on.
    Ratios are to the default model on OpenVINO in FP32, taken in turns in the same run.

    Exit code 1 says that the run was interrupted, or that --against found an engine past the threshold.

    \b
    Examples:
        bfsr-edge benchmark
        bfsr-edge benchmark --model mine.onnx --lq samples/lq --gt samples/gt --peers none
    """
    from bfsr_edge.benchmarks import regression, report, state

    before = regression.read_before([Path(path) for path in options["against"]]) if options["against"] else []
    suite = _suite(options)
    folder = _folder(options["out"])
    try:
        with _terminable(), _bar(quiet=options["quiet"]) as (say, progress):
            rows = _measure(suite, folder, options, say, progress)
    except KeyboardInterrupt:
        _interrupted(folder, report.write)
        ctx.exit(1)
    page = report.write(folder)
    if not options["quiet"]:
        click.echo(f"wrote {page}")
    if options["keep"]:
        from bfsr_edge.benchmarks import results

        machine = results.read_json(folder / results.MACHINE)
        for path in regression.keep(rows, Path(options["keep"]), machine["name"], machine["date"]):
            click.echo(f"wrote {path}")
    if before:
        changes = regression.compare(before, rows, state.machine_name(), options["threshold"])
        click.echo(regression.table(changes))
        if any(change.slower for change in changes):
            ctx.exit(1)


def _suite(options: dict[str, Any]) -> Suite:
    """The suite with what the options change."""
    from bfsr_edge.benchmarks.suite import PEERS, load_suite
    from bfsr_edge.errors import UsageError

    suite = load_suite(options["suite_file"] or options["suite"])
    changes: dict[str, Any] = {}
    if options["models"]:
        changes["models"] = tuple(options["models"])
    if options["tile"]:
        changes["tile"] = options["tile"]
    if options["peers"] != "all":
        names = [] if options["peers"] == "none" else options["peers"].split(",")
        unknown = sorted(set(names) - set(PEERS))
        if unknown:
            raise UsageError(f"there is no peer {unknown[0]!r}", fix=f"use all, none, or some of {','.join(PEERS)}")
        changes["peers"] = tuple(names)
    return dataclasses.replace(suite, **changes)


def _folder(out: str | None) -> Path:
    """The run folder, which may not hold anything else."""
    from datetime import datetime

    from bfsr_edge.errors import UsageError

    if out is None:
        return Path("results", f"benchmark-{datetime.now():%Y-%m-%d-%H%M%S}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file", fix="name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "machine.json").is_file():
        raise UsageError(f"--out {folder} holds something else than a benchmark run", fix="name another folder")
    return folder


def _measure(suite: Suite, folder: Path, options: dict[str, Any], say: Say, progress: Progress) -> list[EngineRow]:
    """Everything but the report."""
    import shutil

    from bfsr_edge.benchmarks import measure, pictures, prepare, results, state
    from bfsr_edge.benchmarks.measure import Bench
    from bfsr_edge.runtime.machine import cores

    threads = options["threads"] or cores()
    settings = {
        **dataclasses.asdict(suite),
        "threads": threads,
        **{name: str(Path(options[name]).resolve()) if options[name] else "" for name in ("lq", "gt")},
    }
    machine = _begin(folder, settings, options, threads)
    if "finished" in machine:
        say(f"{folder} is complete: nothing is measured again")
        return list(results.Run.load(folder).engines)
    work = folder / "work"
    chosen = pictures.choose(
        Path(options["lq"]) if options["lq"] else None,
        Path(options["gt"]) if options["gt"] else None,
        work / "pictures",
        suite.tile,
        suite.pairs,
        say,
    )
    models = [prepare.collect(name, work, say) for name in suite.models]
    _curves(folder, options["curves"])
    _layers(folder, options["layers"], models, suite.tile)
    subjects = prepare.subjects(models, suite, work, say)
    machine |= {"pairs": chosen.source, "peaks": machine.get("peaks") or _peaks(suite, threads, say)}
    results.write_json(folder / results.MACHINE, machine)
    bench = Bench(suite, folder, work, chosen, threads, _as_peaks(machine["peaks"]), say, progress)
    rows = measure.run(bench, subjects)
    problems = _sizes(bench, subjects, say)
    machine["after"] = state.now()
    machine["warnings"] = [*measure.warnings(rows, state.advice()), *problems]
    machine["finished"] = True
    results.write_json(folder / results.MACHINE, machine)
    for warning in machine["warnings"]:
        click.echo(f"bfsr-edge: warning: {warning}", err=True)
    shutil.rmtree(work, ignore_errors=True)
    return rows


def _begin(folder: Path, settings: dict[str, Any], options: dict[str, Any], threads: int) -> dict[str, Any]:
    """machine.json: of the run that goes on, or a new one."""
    import hashlib
    import json

    from bfsr_edge.benchmarks import results, state
    from bfsr_edge.benchmarks.prepare import REFERENCE
    from bfsr_edge.errors import UsageError

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = folder / results.MACHINE
    if path.is_file():
        machine = results.read_json(path)
        if machine.get("settings_sha256") != digest:
            raise UsageError(
                f"{folder} holds a run of other models, pictures or settings",
                fix="repeat that run's options to go on with it, or name another --out",
            )
        return machine
    machine = {
        **state.describe(_told(options), threads),
        "suite": settings["name"],
        "reference": REFERENCE,
        "settings_sha256": digest,
        "energy": _energy_source(),
        "before": state.now(),
    }
    results.write_json(path, machine)
    return machine


def _told(options: dict[str, Any]) -> list[str]:
    """The command for the report: folders without their places, which are nobody's business."""
    words = ["bfsr-edge", "benchmark"]
    words += ["--suite", Path(options["suite_file"]).name] if options["suite_file"] else [f"--{options['suite']}"]
    for model in options["models"]:
        words += ["--model", Path(model).name]
    for name in ("lq", "gt"):
        words += [f"--{name}", Path(options[name]).name] if options[name] else []
    words += ["--peers", options["peers"]] if options["peers"] != "all" else []
    for name in ("threads", "tile"):
        words += [f"--{name}", str(options[name])] if options[name] else []
    return words


def _energy_source() -> str:
    from bfsr_edge.benchmarks import energy
    from bfsr_edge.runtime import machine

    found = [energy.find(device) for device in (["cpu", "cuda:0"] if machine.gpus() else ["cpu"])]
    names = dict.fromkeys(source.name for source in found if source)
    return "; ".join(names) or "not measured: no sensor that can be read (RAPL needs root, or there is none)"


def _peaks(suite: Suite, threads: int, say: Say) -> dict[str, Any]:
    """The machine's measured peaks, in a process of their own."""
    from bfsr_edge.benchmarks.client import Client
    from bfsr_edge.errors import BackendError

    say("measuring what this machine can do at most")
    try:
        with Client(None, 0, threads) as client:
            return client.ask("roofline", threads=threads, seconds=suite.peak_seconds)
    except BackendError as error:
        say(f"    not measured: {error.what}")
        return {}


def _as_peaks(found: dict[str, Any]) -> Any:
    from bfsr_edge.benchmarks.rooflines import Peaks

    return Peaks(**found)


def _curves(folder: Path, files: tuple[str, ...]) -> None:
    """Copies of training logs, named after the folder of their run."""
    from bfsr_edge.benchmarks import results
    from bfsr_edge.errors import UsageError

    for file in files:
        path = Path(file)
        if not path.is_file():
            raise UsageError(f"there is no file {file}", fix="give the log.csv of a training run to --curves")
        name = path.resolve().parent.name if path.stem == "log" else path.stem
        results.replace(folder / results.CURVES / f"{name}.csv", path.read_bytes())


def _layers(folder: Path, given: str | None, models: list[Files], tile: int) -> None:
    """layers.csv from a calibration that measured every layer; nothing where there is none."""
    from bfsr_edge.benchmarks import costs, results
    from bfsr_edge.benchmarks.results import LayerRow
    from bfsr_edge.calibration import Calibration
    from bfsr_edge.errors import UsageError
    from bfsr_edge.weights import list_models, resolve

    path = Path(given) if given else None
    onnx = next((files.onnx_path for files in models if files.onnx_path is not None), None)
    if path is None and models:
        first = models[0]
        shipped = {entry.name for entry in list_models() if "calibration" in entry.files}
        if first.name in shipped and first.onnx == first.name:
            path = resolve(first.name, kind="calibration").path
        elif first.onnx_path is not None:
            beside = first.calibration or first.onnx_path.with_name(f"{first.onnx_path.stem}.calibration.json")
            path = beside if beside.is_file() else None
    if path is None or onnx is None:
        return
    measured = [layer for layer in Calibration.load(path).layers if layer.drop is not None]
    if not measured:
        if given:
            raise UsageError(
                f"{given} does not say what each layer costs", fix="bfsr-edge calibrate --sensitivity --lq DIR --gt DIR"
            )
        return
    macs = costs.of_onnx(onnx, tile).macs
    rows = [LayerRow(layer.name, layer.drop or 0.0, layer.share * macs) for layer in measured]
    results.write_table(folder / "layers.csv", rows, LayerRow)


def _sizes(bench: Bench, subjects: list[Subject], say: Say) -> list[str]:
    """Whole photographs, by the fastest engine that `restore` would take; what could not be measured."""
    from bfsr_edge.benchmarks import photographs, results
    from bfsr_edge.benchmarks.client import Client
    from bfsr_edge.benchmarks.results import SizeRow
    from bfsr_edge.errors import BfsrError

    usable = [
        s for s in subjects
        if s.kind == "ours" and s.runner == "engine" and s.backend in ("openvino", "auto") and s.device == "cpu"
        and s.scored and not s.missing
    ]  # fmt: skip
    chosen = next((s for s in usable if "-int8-" in s.id), usable[0] if usable else None)
    done = {(row.id, round(row.megapixels, 1)) for row in results.read_table(bench.folder / "sizes.csv", SizeRow)}
    wanted = [
        size for size in bench.suite.megapixels if chosen and (chosen.id, round(_exact(size), 1)) not in done
    ]  # fmt: skip
    if chosen is None or not wanted:
        return []
    problems = []
    try:
        with Client(chosen, photographs.RESTORE_TILE, bench.threads) as client:
            for size in wanted:
                say(f"a photograph of {size:g} megapixels, from file to file and in parts")
                limits = (bench.threads, bench.suite.network_tiles)
                row = photographs.measure(client, chosen, size, bench.suite.scale, bench.work / "photographs", limits)
                results.append(bench.folder / "sizes.csv", [row])
                core = (row.decode_s + row.network_s + row.encode_s) / bench.threads
                say(f"    {row.wall_s:.2f} s, parts alone {core:.2f} s: {row.wall_s / core:.2f} times")
    except BfsrError as error:
        problems.append(f"photographs were not all measured: {'; '.join((error.what, *error.why))}")
    return problems


def _exact(megapixels: float) -> float:
    from bfsr_edge.benchmarks.photographs import size_of

    height, width = size_of(megapixels)
    return height * width / 1e6


def _interrupted(folder: Path, write: Callable[[Path], Path]) -> None:
    """Say what there is and how to go on; the report shows what was measured."""
    from bfsr_edge.benchmarks import results
    from bfsr_edge.errors import BfsrError

    table = folder / "engines.csv"
    count = len(results.read_table(table, results.EngineRow))
    if count:
        with contextlib.suppress(BfsrError):
            click.echo(f"wrote {write(folder)}")
    words = sys.argv[1:] if "benchmark" in sys.argv else ["benchmark"]
    if "--out" not in words and not any(word.startswith("--out=") for word in words):
        words = [*words, "--out", str(folder)]
    click.echo(
        f"bfsr-edge: interrupted; {count} engines are in {table if count else folder}\n"
        f"  next: to go on: {shlex.join(['bfsr-edge', *words])}",
        err=True,
    )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _bar(*, quiet: bool) -> Iterator[tuple[Say, Progress]]:
    """Lines on standard error, and below them a bar where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)

    def say(line: str) -> None:
        if not quiet:
            console.print(line, markup=False, soft_wrap=True)

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        task: TaskID = bars.add_task("preparing", total=None)

        def progress(what: str, done: int, total: int, /) -> None:
            bars.update(task, description=what, completed=done, total=total)

        yield say, progress
