"""`bfsr-edge train`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from bfsr_edge.errors import BfsrError
    from bfsr_edge.train.loop import Outcome
    from bfsr_edge.train.recipe import Recipe

CONFIGURATION = "bfsr-edge.toml"


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
@click.option("--compile", type=click.Choice(["auto", "on", "off"]), help="torch.compile.  [default: the recipe's]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting: --set loss.weight=0.5")
@click.option("--max-minutes", type=click.FloatRange(0, min_open=True), help="Save and stop after this long.")
@click.option("--skip-bad", is_flag=True, help="Leave out faces that are not square or too small, with a list.")
@click.option("--restart", is_flag=True, help="Throw the state in --out away and begin again.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained and how long it would take; needs no data.")
@click.option(
    "--describe-data",
    metavar="DIR|TAR",
    help="Only describe these faces (and those of --faces) beside the validation pictures, in --out or runs/data.",
)
@click.option("--quiet", is_flag=True, help="Errors only.")
def command(**options: Any) -> None:
    """Train a network on a folder or tars of faces.

    The same command goes on where an earlier one stopped: at a time limit, Ctrl-C, or a power cut. On several GPUs,
    put torchrun in front of it.

    \b
    Examples:
        bfsr-edge train --faces faces/ --max-minutes 60
        torchrun --nproc-per-node 4 -m bfsr_edge.cli train --faces faces/
    """
    first = os.environ.get("RANK", "0") == "0"  # of several processes that torchrun started
    with _one_voice(first):
        recipe = _recipe(options)
    out = Path(options["out"] or f"runs/{recipe.name}")
    if options["dry_run"]:
        from bfsr_edge.train.dryrun import describe

        click.echo(describe(recipe, options["device"]) if first else "", nl=first)
        return
    if options["describe_data"]:
        if first:
            _describe_data(recipe, options)
        return
    outcome = _run(recipe, out, options, quiet=options["quiet"] or not first)
    if first and not options["quiet"]:
        end = "finished" if outcome.finished else "stopped; the same command goes on"
        best = f"best {outcome.best:.3f} dB" if outcome.best else "not validated yet"
        click.echo(f"{end}: {outcome.iteration} iterations, {best}, {outcome.checkpoint}")
        if not outcome.best_checkpoint:
            click.echo("PSNR does not choose among sharper pictures, so there is no best.safetensors: see faces.png")


@contextlib.contextmanager
def _one_voice(first: bool) -> Iterator[None]:
    """Every process finds the same error inside; the first alone says it."""
    from bfsr_edge.errors import BfsrError

    try:
        yield
    except BfsrError as error:
        if first:
            raise
        _leave(error)


def _leave(error: BfsrError) -> NoReturn:
    """End without a word, once the process that has the word has had it: torchrun ends all with the first that ends."""
    time.sleep(1)
    raise SystemExit(error.exit_code) from error


def _recipe(options: dict[str, Any]) -> Recipe:
    """The recipe, then the configuration of this folder, then the options."""
    from bfsr_edge.resources import find_toml
    from bfsr_edge.settings import read_setting, read_toml
    from bfsr_edge.train.recipe import load_recipe

    data = {
        "faces": list(options["faces"]) or None,
        "val_lq": options["val_lq"],
        "val_gt": options["val_gt"],
    }
    given = {
        "precision": options["precision"],
        "iterations": options["iterations"],
        "batch": options["batch"],
        "compile": options["compile"],
        "data": {key: value for key, value in data.items() if value is not None},
    }
    configuration = read_toml(Path(CONFIGURATION)) if os.path.isfile(CONFIGURATION) else {}
    given = {key: value for key, value in given.items() if value is not None}
    settings = [read_setting(text) for text in options["settings"]]
    recipe = load_recipe(find_toml("train", options["recipe"]), configuration, given, *settings)
    if not recipe.data.faces and not (options["dry_run"] or options["describe_data"]):
        from bfsr_edge.errors import UsageError

        raise UsageError(
            f'no faces to train on: bfsr-edge train --faces DIR, or [data] faces = "DIR" in ./{CONFIGURATION}'
        )
    return recipe


def _describe_data(recipe: Recipe, options: dict[str, Any]) -> None:
    """Print what the faces look like; data.png and data.csv hold the same by picture."""
    from rich.console import Console
    from rich.progress import Progress

    from bfsr_edge.train import describe

    out = Path(options["out"] or "runs/data")
    describe.check_ours(out)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=options["quiet"] or not console.is_terminal) as bar:
        task = bar.add_task("looking at pictures", total=None)
        found = describe.describe(
            [options["describe_data"], *options["faces"]],
            recipe,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    describe.save(found, out)
    click.echo(describe.report(found), nl=False)


def _run(recipe: Recipe, out: Path, options: dict[str, Any], *, quiet: bool) -> Outcome:
    import math

    from bfsr_edge.train.distributed import PeerFailed
    from bfsr_edge.train.loop import train
    from bfsr_edge.train.progress import Display

    try:
        with Display(recipe, quiet=quiet) as display:
            return train(
                recipe,
                out,
                device=options["device"],
                max_minutes=options["max_minutes"] or math.inf,
                report=display.report,
                announce=display.announce,
                skip_bad=options["skip_bad"],
                restart=options["restart"],
            )
    except PeerFailed as error:
        _leave(error)
