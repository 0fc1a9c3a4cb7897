"""`bfsr-edge evaluate`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from bfsr_edge.evaluate import Report, Upscaler
    from bfsr_edge.pairs import Pairs

SCALE = 4  # of the challenge


@click.command(name="evaluate", short_help="Score a model on pairs of degraded and true pictures.")
@click.option("--lq", required=True, metavar="DIR", help="Degraded pictures.")
@click.option("--gt", metavar="DIR", help="The true ones, same file names, 4 times as large.")
@click.option("--submission", metavar="FILE.zip", help="Write every result as PNG into a zip; needs no --gt.")
@click.option(
    "--model",
    default="edge",
    show_default=True,
    metavar="NAME|FILE",
    help="A shipped name, a checkpoint, ONNX file or engine; bicubic scores the baseline alone.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "openvino", "onnxruntime", "torch", "tensorrt"]),
    default="auto",
    show_default=True,
    help="auto: openvino for ONNX, torch for checkpoints, what an engine was built for.",
)
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda:N or auto: a GPU with an engine, else cpu."
)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True)
@click.option("--tta", is_flag=True, help="Run every picture twice, once mirrored, and take the mean.")
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Pictures that run together.")
@click.option("--json", "as_json", is_flag=True, help="Print every picture's figures and the summary as JSON.")
@click.option("--sheet", metavar="FILE", help="Draw input, result and truth of the worst to the best picture.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def command(
    ctx: click.Context,
    lq: str,
    gt: str | None,
    submission: str | None,
    model: str,
    backend: str,
    device: str,
    precision: str,
    tta: bool,
    batch: int,
    as_json: bool,
    sheet: str | None,
    quiet: bool,
) -> None:
    """Score a model on pairs of pictures: PSNR (RGB, 8 bits, whole picture), SSIM, and bicubic's PSNR beside it.

    Exit code 1 says that a picture was left out; its name and the reason are on standard error.

    --submission writes what the challenge's server takes: the result of every picture in --lq as 8-bit RGB PNG of the
    same name, flat in a zip. One unreadable picture is named, and no zip is written. With --gt too, the PNGs in the zip
    are what is scored.

    \b
    Examples:
        bfsr-edge evaluate --lq samples/lq --gt samples/gt --sheet results/sheet.png
        bfsr-edge evaluate --lq samples/lq --submission results/submission.zip
    """
    from pathlib import Path

    from bfsr_edge import images
    from bfsr_edge.errors import UsageError
    from bfsr_edge.evaluate import Upscaler, save_sheet
    from bfsr_edge.pairs import find_pairs

    if gt is None:
        unused = [name for name, given in (("--json", as_json), ("--sheet", sheet)) if given]
        if submission is None or unused:
            raise UsageError(
                f"{' and '.join(unused) or 'a score'} needs the true pictures",
                fix=f"bfsr-edge evaluate --lq {lq} --gt DIR; to write results without a score: --submission FILE.zip",
            )
    pairs = find_pairs(lq, gt) if gt is not None else None
    if sheet:
        images.format_of(Path(sheet))  # a name that cannot be written is refused before the work
    if submission is not None:
        _check_submission(lq, Path(submission))
    upscaler = Upscaler(model, backend=backend, device=device, precision=precision, tta=tta)
    if submission is not None:
        _write_submission(Path(lq), Path(submission), upscaler, batch, quiet, to_stderr=as_json)
        _check_size(model, upscaler, to_stderr=as_json)
    if gt is None or pairs is None:
        return
    report = _run(pairs, upscaler, batch, quiet, submission)
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else report.line())
    if sheet:
        save_sheet(Path(sheet), report, upscaler)
    for name, reason in report.failures.items():
        click.echo(f"bfsr-edge: left out {name}: {reason}", err=True)
    for folder, names in ((gt, pairs.only_lq), (lq, pairs.only_gt)):
        for name in names:
            click.echo(f"bfsr-edge: left out {name}: it is not in {folder}", err=True)
    if not report.complete:
        ctx.exit(1)


@contextlib.contextmanager
def _bar(label: str, total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, where that is a terminal; calling what it gives moves it on by one."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def _run(pairs: Pairs, upscaler: Upscaler, batch: int, quiet: bool, submission: str | None) -> Report:
    """Score what the network gives, or what a submission holds."""
    from functools import partial
    from pathlib import Path

    from bfsr_edge.evaluate import evaluate
    from bfsr_edge.submission import read_result

    results = partial(read_result, Path(submission)) if submission is not None else None
    with _bar(f"{upscaler.name}: score", len(pairs.pairs), quiet) as progress:
        return evaluate(pairs, upscaler, batch=batch, progress=progress, results=results)


def _check_submission(lq: str, target: Path) -> None:
    """What can be refused before a network is loaded."""
    from bfsr_edge.submission import check_target, find_inputs

    find_inputs(lq)
    check_target(target)


def _write_submission(lq: Path, target: Path, upscaler: Upscaler, batch: int, quiet: bool, *, to_stderr: bool) -> None:
    """Write the zip and say so; standard output may be kept for JSON."""
    from bfsr_edge import submission
    from bfsr_edge.errors import UsageError
    from bfsr_edge.pairs import read_rgb

    if upscaler.scale != SCALE:
        raise UsageError(f"the challenge takes pictures {SCALE} times as large; {upscaler.name} has {upscaler.scale}")
    pictures = submission.find_inputs(lq)
    info = upscaler.info
    note = f"{info.model}, sha256 {info.sha256}, {info.backend} {info.precision}" if info else upscaler.name
    with _bar(f"{upscaler.name}: restore", len(pictures), quiet) as progress:
        submission.write(target, pictures, upscaler, read=read_rgb, note=note, batch=batch, progress=progress)
    click.echo(f"wrote {target}: {len(pictures)} PNGs, {target.stat().st_size / 1e6:.1f} MB", err=to_stderr)


def _check_size(model: str, upscaler: Upscaler, *, to_stderr: bool) -> None:
    """Say how large the network is, and warn where the challenge does not allow it."""
    from bfsr_edge.submission import parameters
    from bfsr_edge.train.recipe import CHALLENGE_PARAMETERS

    count = parameters(model) if upscaler.info else None
    size = f"{count:,} parameters" if count is not None else "its parameters are not known"
    click.echo(f"{upscaler.name}: {size}; the challenge allows fewer than {CHALLENGE_PARAMETERS:,}", err=to_stderr)
    if count is not None and count >= CHALLENGE_PARAMETERS:
        click.echo(f"bfsr-edge: warning: {upscaler.name} is too large for the challenge", err=True)
