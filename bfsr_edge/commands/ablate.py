"""`bfsr-edge ablate`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bfsr_edge.train.recipe import Recipe

CONFIGURATION = "bfsr-edge.toml"


@click.command(name="ablate", short_help="Train several recipes alike and compare them.")
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE…")
@click.option("--baseline", metavar="RECIPE", help="What the others are compared with.  [default: the first]")
@click.option("--iterations", type=click.IntRange(1), help="Of every run.  [default: the baseline's]")
@click.option("--batch", type=click.IntRange(1), help="Of every run.  [default: each recipe's]")
@click.option("--seed", type=click.IntRange(0), help="Of every run.  [default: the baseline's]")
@click.option("--validate-every", type=click.IntRange(1), help="Iterations.  [default: a 20th of the run]")
@click.option(
    "--stop-behind",
    type=click.FloatRange(0),
    metavar="DB",
    help="Halt a run that is so far behind the baseline at the same iteration.  [default: none is halted]",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="The first part of a run, in which it is not halted.",
)
@click.option("--faces", multiple=True, metavar="DIR|TAR", help="Aligned faces, 512×512; may be given several times.")
@click.option("--val-lq", metavar="DIR", help="Validation inputs, 128×128. Default: made from held-out faces.")
@click.option("--val-gt", metavar="DIR", help="The true pictures, same file names.")
@click.option("--out", metavar="DIR", default="runs/ablation", show_default=True, help="Where runs and table go.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, or auto: a GPU if there is one.")
@click.option("--skip-bad", is_flag=True, help="Leave out faces that are not square or too small, with a list.")
@click.option("--quiet", is_flag=True, help="The table and errors only.")
def command(**options: Any) -> None:
    """Train several recipes alike and compare them with a baseline.

    RECIPE… are names or TOML files. All run for the same iterations, their schedules in proportion, from the same seed,
    and are validated on the same pictures at the same iterations. The same command goes on where an earlier one
    stopped, and with more recipes runs only these. Exit code 1 says that a run failed; the table says why.

    \b
    Example:
        bfsr-edge ablate edge srresnet16 mine.toml --iterations 2000 --stop-behind 0.5 --faces faces/
    """
    from bfsr_edge.train.ablation.recipes import equalised
    from bfsr_edge.train.ablation.rule import Rule
    from bfsr_edge.train.ablation.run import Ablation

    recipes, length = _recipes(options)
    equal = equalised(recipes, iterations=length, validate_every=options["validate_every"] or 0, seed=options["seed"])
    behind = math.inf if options["stop_behind"] is None else options["stop_behind"]
    ablation = Ablation(equal, Path(options["out"]), Rule(behind, options["grace"]))
    ablation.run(
        device=options["device"],
        skip_bad=options["skip_bad"],
        quiet=options["quiet"],
        announce=lambda line: None if options["quiet"] else click.echo(line, err=True),
    )
    click.echo(ablation.table(), nl=False)
    if ablation.stopped:
        click.echo("stopped; the same command goes on", err=True)
    if ablation.failed:
        raise click.exceptions.Exit(1)


def _recipes(options: dict[str, Any]) -> tuple[list[Recipe], int]:
    """The recipes, the baseline first, and the iterations that were asked for; 0: the baseline's own."""
    from bfsr_edge.errors import UsageError
    from bfsr_edge.resources import find_toml
    from bfsr_edge.settings import read_toml
    from bfsr_edge.train.recipe import load_recipe

    configuration = read_toml(Path(CONFIGURATION)) if os.path.isfile(CONFIGURATION) else {}
    # a schedule is scaled from the length it was written for, so a length from elsewhere must not be laid over it
    configured = configuration.pop("iterations", 0)
    length = options["iterations"] or configured
    data = {"faces": list(options["faces"]) or None, "val_lq": options["val_lq"], "val_gt": options["val_gt"]}
    given: dict[str, Any] = {"data": {key: value for key, value in data.items() if value is not None}}
    if options["batch"]:
        given["batch"] = options["batch"]

    def load(name: str) -> Recipe:
        return load_recipe(find_toml("train", name), configuration, given)

    written = list(options["recipes"])
    loaded = [load(name) for name in written]
    first = options["baseline"]
    if first is not None:
        places = [i for i, name in enumerate(written) if first in (name, loaded[i].name)]
        baseline = loaded.pop(places[0]) if places else load(first)
        loaded.insert(0, baseline)
    for recipe in loaded:
        if not recipe.data.faces:
            raise UsageError(
                f'no faces to train on: bfsr-edge ablate … --faces DIR, or [data] faces = "DIR" in ./{CONFIGURATION}'
            )
    return loaded, length
