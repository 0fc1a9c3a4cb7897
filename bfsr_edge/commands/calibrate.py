"""`bfsr-edge calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bfsr_edge.calibrate.plan import Plan
    from bfsr_edge.calibrate.run import Outcome


@click.command(name="calibrate", short_help="Find the INT8 scales of a model on faces.")
@click.option(
    "--faces",
    required=True,
    multiple=True,
    metavar="DIR|TAR",
    help="Aligned faces of at least 512×512, or photographs; may be given several times.",
)
@click.option(
    "--model", default="edge", show_default=True, metavar="NAME|FILE", help="A shipped name, or an ONNX file."
)
@click.option(
    "--plan", default="default", show_default=True, metavar="NAME|FILE", help="A plan's name, or a TOML file."
)
@click.option("--out", metavar="DIR", help="Where the files go.  [default: beside the ONNX file, . for a shipped name]")
@click.option("--lq", metavar="DIR", help="Degraded pictures of pairs, to measure what INT8 costs.")
@click.option("--gt", metavar="DIR", help="The true ones, same file names; none of them among the faces.")
@click.option(
    "--aligned/--photos",
    default=None,
    help="What --faces holds.  [default: squares of at least 512 pixels are aligned]",
)
@click.option("--count", type=click.IntRange(1), help="Faces to use. Default: the plan's.")
@click.option("--seed", type=click.IntRange(0), help="Default: the plan's.")
@click.option(
    "--method",
    type=click.Choice(["max", "mse", "percentile", "entropy"]),
    help="How ranges are chosen. Default: the plan's.",
)
@click.option("--percentile", type=click.FloatRange(50, 100, min_open=True), help="Default: the plan's.")
@click.option("--compare", is_flag=True, help="Try all four methods on the pairs; NAME.methods.md.")
@click.option("--sensitivity", is_flag=True, help="Try each layer alone on the pairs; NAME.sensitivity.csv, .md, .png.")
@click.option(
    "--budget", type=float, metavar="DB", help="Leave the costliest layers in FP16 until no more than this is lost."
)
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Find the INT8 scales of a model on faces: NAME.calibration.json and NAME.int8.onnx.

    Exit code 1 says that --budget could not be kept; the best that was reached is written and says so.

    \b
    Example:
        bfsr-edge calibrate --faces faces/ --lq samples/lq --gt samples/gt
    """
    from bfsr_edge.calibrate.plan import load_plan
    from bfsr_edge.resources import find_toml

    changes = {key: options[key] for key in ("count", "seed", "method", "percentile")}
    outcome = _run(load_plan(find_toml("calibrate", options["plan"]), **changes), options)
    calibration = outcome.calibration
    if not options["quiet"]:
        from bfsr_edge.calibrate.run import line

        done = f"{calibration.int8_share:.1%} of the multiply-accumulates in INT8, method {calibration.method}"
        cost = line(calibration.drop) if calibration.drop else "what it costs was not measured: give --lq and --gt"
        click.echo(f"{calibration.model}: {done}; {cost}")
        if outcome.left_in_fp16:
            click.echo(f"left in FP16 for the budget: {', '.join(outcome.left_in_fp16)}")
        click.echo("wrote " + ", ".join(map(str, outcome.files)))
    if calibration.over_budget and calibration.drop:
        click.echo(
            f"bfsr-edge: the budget of {calibration.budget:g} dB was not reached: {calibration.drop.mean:.4f} dB is "
            f"the best with {calibration.int8_share:.1%} in INT8; the files say so\n"
            f"  next: lower minimum_share in the plan, or train further",
            err=True,
        )
        ctx.exit(1)


def _run(plan: Plan, options: dict[str, Any]) -> Outcome:
    """Calibrate behind a progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from bfsr_edge.calibrate.run import calibrate

    console = Console(stderr=True)
    quiet = options["quiet"]
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            bar.advance(tasks[what])

        return calibrate(
            options["faces"],
            options["model"],
            plan,
            options["out"],
            lq=options["lq"],
            gt=options["gt"],
            aligned=options["aligned"],
            compare=options["compare"],
            sensitivity=options["sensitivity"],
            budget=options["budget"],
            announce=lambda text: None if quiet else click.echo(text, err=True),
            progress=progress,
        )
