"""`bfsr-edge train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bfsr_edge.train.loop import Outcome
    from bfsr_edge.train.recipe import Recipe
    from bfsr_edge.train.state import Training

CONFIGURATION = "bfsr-edge.toml"
FIGURES = {"loss": "loss {:.4f}", "faces_per_second": "{:.1f} faces/s", "val_psnr": "{:.3f} dB"}


@click.command(name="train", short_help="Train a network on a folder or tars of faces.")
@click.option("--recipe", default="edge", show_default=True, help="A recipe's name, or a TOML file.")
@click.option("--faces", multiple=True, metavar="DIR|TAR", help="Aligned faces, 512×512; may be given several times.")
@click.option("--val-lq", metavar="DIR", help="Validation inputs, 128×128. Default: made from held-out faces.")
@click.option("--val-gt", metavar="DIR", help="The true pictures, same file names.")
@click.option("--out", metavar="DIR", help="Where checkpoints, state and log go.  [default: runs/RECIPE]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, or auto: a GPU if there is one.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Default: the recipe's.")
@click.option("--iterations", type=click.IntRange(1), help="Default: the recipe's.")
@click.option("--batch", type=click.IntRange(1), help="Default: the recipe's.")
@click.option("--max-minutes", type=click.FloatRange(0, min_open=True), help="Save and stop after this long.")
@click.option("--restart", is_flag=True, help="Throw the state in --out away and begin again.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained and how long it would take; needs no data.")
@click.option("--quiet", is_flag=True, help="Errors only.")
def command(**options: Any) -> None:
    """Train a network on a folder or tars of faces.

    The same command goes on where an earlier one stopped: at a time limit, Ctrl-C, or a power cut.

    \b
    Example:
        bfsr-edge train --faces faces/ --max-minutes 60
    """
    recipe = _recipe(options)
    out = Path(options["out"] or f"runs/{recipe.name}")
    if options["dry_run"]:
        from bfsr_edge.train.dryrun import describe

        click.echo(describe(recipe, options["device"]))
        return
    if not recipe.data.faces:
        from bfsr_edge.errors import UsageError

        raise UsageError(
            f'no faces to train on: bfsr-edge train --faces DIR, or [data] faces = "DIR" in ./{CONFIGURATION}'
        )
    outcome = _run(recipe, out, options)
    if not options["quiet"]:
        end = "finished" if outcome.finished else "stopped; the same command goes on"
        click.echo(f"{end}: {outcome.iteration} iterations, best {outcome.best:.3f} dB, {outcome.checkpoint}")


def _recipe(options: dict[str, Any]) -> Recipe:
    """The recipe, then the configuration of this folder, then the options."""
    from bfsr_edge.resources import find_toml
    from bfsr_edge.train.recipe import load_recipe, read_toml

    data = {
        "faces": list(options["faces"]) or None,
        "val_lq": options["val_lq"],
        "val_gt": options["val_gt"],
    }
    given = {
        "precision": options["precision"],
        "iterations": options["iterations"],
        "batch": options["batch"],
        "data": {key: value for key, value in data.items() if value is not None},
    }
    configuration = read_toml(Path(CONFIGURATION)) if os.path.isfile(CONFIGURATION) else {}
    given = {key: value for key, value in given.items() if value is not None}
    return load_recipe(find_toml("train", options["recipe"]), configuration, given)


def _run(recipe: Recipe, out: Path, options: dict[str, Any]) -> Outcome:
    import math

    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from bfsr_edge.train.loop import train

    if options["restart"]:
        (out / "state.safetensors").unlink(missing_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    from rich.console import Console

    console = Console(stderr=True)
    quiet = options["quiet"]
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(recipe.name, total=recipe.iterations, figures="")
        figures = dict.fromkeys(FIGURES, "")

        def report(training: Training, row: dict[str, float]) -> None:
            figures.update({key: FIGURES[key].format(row[key]) for key in FIGURES if key in row})
            if "val_psnr" in row and not quiet:
                bar.console.print(f"iteration {training.iteration}: {row['val_psnr']:.3f} dB", highlight=False)
            bar.update(task, completed=training.iteration, figures="  ".join(filter(None, figures.values())))

        return train(
            recipe,
            out,
            device=options["device"],
            max_minutes=options["max_minutes"] or math.inf,
            report=report,
            announce=lambda line: None if quiet else bar.console.print(line, highlight=False),
        )
