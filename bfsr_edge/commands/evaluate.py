"""`bfsr-edge evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bfsr_edge.evaluate import Pairs, Report, Upscaler


@click.command(name="evaluate", short_help="Score a model on pairs of degraded and true pictures.")
@click.option("--lq", required=True, metavar="DIR", help="Degraded pictures.")
@click.option("--gt", required=True, metavar="DIR", help="The true ones, same file names, 4 times as large.")
@click.option(
    "--model",
    default="edge",
    show_default=True,
    metavar="NAME|FILE",
    help="A shipped name, a checkpoint or an ONNX file; bicubic scores the baseline alone.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "openvino", "onnxruntime", "torch"]),
    default="auto",
    show_default=True,
    help="auto: openvino for ONNX, torch for checkpoints.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Pictures that run together.")
@click.option("--json", "as_json", is_flag=True, help="Print every picture's figures and the summary as JSON.")
@click.option("--sheet", metavar="FILE", help="Draw input, result and truth of the worst to the best picture.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def command(
    ctx: click.Context,
    lq: str,
    gt: str,
    model: str,
    backend: str,
    device: str,
    precision: str,
    batch: int,
    as_json: bool,
    sheet: str | None,
    quiet: bool,
) -> None:
    """Score a model on pairs of pictures: PSNR (RGB, 8 bits, whole picture), SSIM, and bicubic's PSNR beside it.

    Exit code 1 says that a picture was left out; its name and the reason are on standard error.

    \b
    Example:
        bfsr-edge evaluate --lq samples/lq --gt samples/gt --sheet results/sheet.png
    """
    from pathlib import Path

    from bfsr_edge import images
    from bfsr_edge.evaluate import Upscaler, find_pairs, save_sheet

    pairs = find_pairs(lq, gt)
    if sheet:
        images.format_of(Path(sheet))  # a name that cannot be written is refused before the work
    upscaler = Upscaler(model, backend=backend, device=device, precision=precision)
    report = _run(pairs, upscaler, batch, quiet)
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


def _run(pairs: Pairs, upscaler: Upscaler, batch: int, quiet: bool) -> Report:
    """Score behind a progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from bfsr_edge.evaluate import evaluate

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(upscaler.name, total=len(pairs.pairs))
        return evaluate(pairs, upscaler, batch=batch, progress=lambda: bar.advance(task))
