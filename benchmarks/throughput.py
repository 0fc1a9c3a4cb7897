"""How many faces a second each recipe trains with here: loader, step, both, and the convolutions alone.

    python benchmarks/throughput.py                                    # the default recipe, made-up faces
    python benchmarks/throughput.py --recipe all --device cuda --out benchmarks/results/throughput.csv

Prints a Markdown table; --out adds rows to a CSV. It needs no more than training does, from a bare checkout too
(PYTHONPATH=.). bfsr_edge/train/throughput.py says what is timed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import io
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch

from bfsr_edge import __version__
from bfsr_edge.errors import BfsrError, UsageError
from bfsr_edge.faceset import find_faces
from bfsr_edge.files import replace
from bfsr_edge.resources import find_toml, list_tomls
from bfsr_edge.runtime.machine import cores, cpu_name
from bfsr_edge.train.devices import checked_device
from bfsr_edge.train.recipe import load_recipe
from bfsr_edge.train.throughput import Plan, Throughput, make_faces, measure

MADE = 64
"""Faces that are made up where none are given."""
FIGURES = ("loader", "step", "both", "convolutions")
HEADINGS = (
    *("recipe", "device", "precision", "batch", "loader", "step", "both", "convolutions"),
    *("step / convolutions", "loader / step"),
)


COLUMNS = (
    *("date", "machine", "versions", "recipe", "note", "parameters", "gmacs", "device", "precision", "compiled"),
    *("batch", "side", "pipeline", "workers", "faces", "rounds"),
    *(f"{figure}_{what}" for figure in FIGURES for what in ("faces_per_second", "slowest", "fastest")),
    *("step_percent_of_convolutions", "loader_per_step"),
)


def machine(device: torch.device) -> str:
    """The processor, and the GPU where it trains on one."""
    threads = f"{cpu_name()}, {cores()} threads, {torch.get_num_threads()} of them torch's"
    return f"{torch.cuda.get_device_name(device)}; {threads}" if device.type == "cuda" else threads


def versions(device: torch.device) -> str:
    """What was installed."""
    told = [f"bfsr-edge {__version__}", f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    told.append(f"OpenCV {cv2.__version__}")
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's own
        told.append(f"CUDA {torch.version.cuda}, cuDNN {cudnn}")
    return ", ".join(told)


def csv_row(done: Throughput, source: str, device: torch.device) -> dict[str, str]:
    """One measurement, everything that it depends on beside it."""
    row = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(device),
        "versions": versions(device),
        "recipe": done.recipe.name,
        "note": done.note,
        "parameters": str(done.parameters),
        "gmacs": f"{done.gmacs:.2f}",
        "device": done.device,
        "precision": done.precision,
        "compiled": "yes" if done.compiled else "no",
        "batch": str(done.recipe.batch),
        "side": str(done.recipe.picture_side),
        "pipeline": done.pipeline,
        "workers": str(done.workers),
        "faces": source,
        "rounds": str(len(done.step)),
    }
    for figure in FIGURES:
        rates = getattr(done, figure)
        row[f"{figure}_faces_per_second"] = f"{done.median(figure):.2f}"
        row[f"{figure}_slowest"] = f"{min(rates):.2f}"
        row[f"{figure}_fastest"] = f"{max(rates):.2f}"
    row["step_percent_of_convolutions"] = f"{done.of_convolutions:.1f}"
    row["loader_per_step"] = f"{done.loader_per_step:.2f}"
    return row


def table_row(done: Throughput) -> str:
    """One line of the Markdown table."""
    cells = [
        done.recipe.name + ("\\*" if done.note else ""),
        f"{done.device}, {done.pipeline} pipeline" + (f", workers {done.workers}" if done.workers else ""),
        done.precision + (", compiled" if done.compiled else ""),
        str(done.recipe.batch),
        *(f"{done.median(figure):.1f}" for figure in FIGURES),
        f"{done.of_convolutions:.0f} %",
        f"{done.loader_per_step:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def older_rows(path: Path) -> list[dict[str, str]]:
    """What a CSV of this benchmark holds, nothing where there is none; UsageError for a file of something else."""
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if list(reader.fieldnames or ()) == list(COLUMNS):
                return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV", why=(str(error),), fix="give another --out") from error
    raise UsageError(f"{path} has other columns than this benchmark", fix="give another --out")


def add_row(path: Path, row: dict[str, str]) -> None:
    """Put a row at the end of a CSV, which is replaced as a whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*older_rows(path), row])
    replace(path, text.getvalue().encode())


def run(given: argparse.Namespace) -> Iterator[tuple[Throughput, str, torch.device]]:
    """Measure each recipe; what faces were used, and where."""
    device = checked_device(given.device)
    if given.out:
        older_rows(given.out)  # a file that cannot be added to is refused before the work
    names = list_tomls("train") if given.recipe == ["all"] else given.recipe
    changes = {key: getattr(given, key) for key in ("precision", "batch", "compile") if getattr(given, key) is not None}
    data = {key: getattr(given, key) for key in ("pipeline", "workers") if getattr(given, key) is not None}
    recipes = [load_recipe(find_toml("train", name), changes, {"data": data}) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        for recipe in recipes:
            source = ", ".join(Path(place).name for place in given.faces)
            places = given.faces
            if not places:
                size = recipe.data.size
                made = Path(folder, str(size))
                places = [made if made.is_dir() else make_faces(made, MADE, size)]
                source = "made up"
            faces = find_faces(places)
            # the recipe's own faces may lie elsewhere; a run is not begun, so nothing is held out
            recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, faces=()))
            done = measure(recipe, faces, device, Plan(given.rounds, given.seconds))
            yield done, f"{len(faces)} {source}", device


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--recipe", nargs="+", default=["edge"], metavar="NAME", help="recipes, or all")
    options.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    options.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), help="default: the recipe's")
    options.add_argument("--compile", choices=("auto", "on", "off"), help="default: the recipe's")
    options.add_argument("--batch", type=int, help="default: the recipe's")
    options.add_argument("--pipeline", choices=("auto", "cpu", "device"), help="default: the recipe's")
    options.add_argument("--workers", type=int, help="of the cpu pipeline; default: the recipe's")
    options.add_argument("--faces", nargs="+", default=[], metavar="DIR|TAR", help="default: made up")
    options.add_argument("--rounds", type=int, default=Plan().rounds)
    options.add_argument("--seconds", type=float, default=Plan().seconds, help="of each timing, at least")
    options.add_argument("--out", type=Path, metavar="FILE.csv", help="add the rows to this file")
    given = options.parse_args()
    notes = set()
    try:
        for number, (done, source, device) in enumerate(run(given)):
            if not number:
                print(f"{machine(device)}\n{versions(device)}\nfaces a second, median of {given.rounds} rounds\n")
                print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
            print(table_row(done), flush=True)
            if done.note:
                notes.add(done.note)
            if given.out:
                add_row(given.out, csv_row(done, source, device))
    except BfsrError as error:
        print(f"throughput: {error}", file=sys.stderr)
        return error.exit_code
    for note in sorted(notes):
        print(f"\n\\* {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
