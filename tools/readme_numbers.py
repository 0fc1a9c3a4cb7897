"""README's benchmark table and assets/pareto.svg, from the CSV files of engines in benchmarks/results.

    python tools/readme_numbers.py            # writes both
    python tools/readme_numbers.py --check    # exits with 1 where either is stale

The table stands between the lines ``<!-- benchmark:begin -->`` and ``<!-- benchmark:end -->``; without these README is
left alone and there is nothing to check. Files are named NETWORK-PRECISION-BACKEND-MACHINE-DATE.csv.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bfsr_edge.benchmarks.markdown import escaped, grid
from bfsr_edge.benchmarks.report_data import NAMES, View, milliseconds
from bfsr_edge.benchmarks.report_parts import WIDE
from bfsr_edge.benchmarks.report_speed import pareto
from bfsr_edge.benchmarks.report_tables import fixed
from bfsr_edge.benchmarks.report_words import count
from bfsr_edge.benchmarks.results import EngineRow, read_table, replace
from bfsr_edge.errors import BfsrError

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
COMMAND = "python tools/readme_numbers.py"
NOT_RUN = "*not run here*"
KINDS = ("ours", "peer", "baseline")


@dataclass(frozen=True)
class Group:
    """Engines that were measured on one machine on one day: the only ones that may be compared."""

    machine: str
    """As the file names have it."""
    date: str
    """The same; empty where a name has none."""
    engines: tuple[EngineRow, ...]
    """Ours first, the fastest first; an engine stands here once."""


def groups(folder: Path) -> list[Group]:
    """Every machine's newest day, the machine with most engines first; other CSV files are left out.

    Raises
    ------
    UsageError
        A file of engines is damaged.
    """
    found: dict[tuple[str, str], dict[str, EngineRow]] = {}
    for path in sorted(folder.glob("*.csv")):
        if not _holds_engines(path):
            continue
        rows = read_table(path, EngineRow)
        if rows:
            found.setdefault(machine_and_date(path.stem, rows[0]), {}).update({row.id: row for row in rows})
    newest = {machine: max(date for name, date in found if name == machine) for machine, _ in found}
    made = [Group(machine, date, _ordered(found[machine, date].values())) for machine, date in newest.items()]
    return sorted(made, key=lambda group: (-len(group.engines), group.machine))


def machine_and_date(stem: str, row: EngineRow) -> tuple[str, str]:
    """Of a file's name; what cannot be told apart belongs to the machine."""
    rest, date = stem, ""
    if found := re.search(r"-(\d{4}-?\d{2}-?\d{2})$", stem):
        rest, date = stem[: found.start()], found[1]
    for word in (row.network, row.precision, row.backend):
        part = re.sub(r"[^A-Za-z0-9.+]+", "-", word).strip("-")  # as bfsr-edge benchmark --keep names its files
        if part and rest.startswith(f"{part}-"):
            rest = rest[len(part) + 1 :]
    return rest, date


def table(group: Group) -> str:
    """Markdown: a row an engine, and what machine and day they are from."""
    view = View(Path(), {}, group.engines)
    default = view.default
    headings = ["engine", "runs on", "mean PSNR", "dB lost against FP32", "one face"]
    if default:
        headings.append(f"times `{default.id}`")
    rows = []
    for engine in group.engines:
        times = view.times_faster(engine)
        psnr = f"{engine.psnr_mean:.2f} dB" if engine.psnr_mean is not None else "–"
        psnr += f" ({engine.n_images} pictures)" if engine.psnr_mean is not None and engine.n_images else ""
        cells = [
            f"`{engine.id}`",
            escaped(f"{NAMES.get(engine.backend, engine.backend)} {engine.backend_version}".strip()),
            psnr,
            fixed(4)(engine.drop_mean) if engine.drop_mean is not None else "–",
            milliseconds(engine.latency_median_ms) if engine.latency_median_ms is not None else NOT_RUN,
        ]
        if default:
            cells.append(f"{count(times)}×" if times else "–")
        rows.append([f"**{cell}**" if engine is default and cell != "–" else cell for cell in cells])
    told = ", ".join(part for part in (group.machine, group.date) if part)
    return f"{grid(headings, rows, [False, False, *[True] * (len(headings) - 2)])}\n{escaped(told)}.\n"


def block(found: Sequence[Group]) -> str:
    """What stands between the markers."""
    ran = any(e.backend.startswith("tensorrt") and e.latency_median_ms for group in found for e in group.engines)
    last = [] if ran else [f"TensorRT, Jetson: {NOT_RUN}.\n"]
    return "\n".join([f"{BEGIN}\n", *(table(group) for group in found), *last, END])


def wanted(root: Path) -> dict[Path, str]:
    """File to what it should hold; nothing where README has no markers.

    Raises
    ------
    BfsrError
        There are markers and no results, or only one of the markers.
    """
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    if BEGIN not in text and END not in text:
        return {}
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise BfsrError(f"README.md needs both {BEGIN} and, behind it, {END}")
    found = groups(root / "benchmarks" / "results")
    if not found:
        raise BfsrError(
            "README.md has a place for benchmarks, but benchmarks/results has no engine's CSV",
            fix="bfsr-edge benchmark, and put its files there",
        )
    made = {readme: text[: text.index(BEGIN)] + block(found) + text[text.index(END) + len(END) :]}
    if picture := pareto(View(Path(), {}, found[0].engines), WIDE, alone=True):
        made[root / "assets" / "pareto.svg"] = picture
    return made


def stale(made: dict[Path, str]) -> list[Path]:
    """The files that hold something else."""
    return [path for path, text in made.items() if not path.is_file() or path.read_text("utf-8") != text]


def _holds_engines(path: Path) -> bool:
    with open(path, encoding="utf-8", newline="") as file:
        return {"id", "kind", "latency_median_ms", "psnr_mean"} <= set(next(csv.reader(file), ()))


def _ordered(engines: Iterable[EngineRow]) -> tuple[EngineRow, ...]:
    def place(engine: EngineRow) -> tuple[int, float, str]:
        kind = KINDS.index(engine.kind) if engine.kind in KINDS else len(KINDS)
        return kind, engine.latency_median_ms or math.inf, engine.id

    return tuple(sorted(engines, key=place))


def main() -> int:
    """0 done or fresh, 1 stale or impossible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where something is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout")
    given = parser.parse_args()
    try:
        made = wanted(given.root)
        old = stale(made)
        if given.check:
            for path in old:
                print(f"{path.relative_to(given.root)} is stale\n  next: {COMMAND}", file=sys.stderr)
            return 1 if old else 0
        for path in old:
            replace(path, made[path].encode())
            print(f"wrote {path.relative_to(given.root)}")
    except BfsrError as error:
        print(f"readme_numbers: {error}", file=sys.stderr)
        return 1
    if not made:
        print(f"README.md has no {BEGIN}: nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
