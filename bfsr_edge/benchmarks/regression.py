"""Whether engines became slower: ratios to the reference engine of the same run against those of an earlier one.

Absolute times of one machine on two days say nothing; how many times faster than OpenVINO in FP32 an engine is,
measured in turns with it, carries over. To another kind of processor it does not: where one multiplies INT8 in
matrices, another has no such instructions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bfsr_edge.benchmarks.results import MACHINE, EngineRow, read_json, read_table, write_table
from bfsr_edge.errors import UsageError

THRESHOLD = 1.15


@dataclass(frozen=True)
class Change:
    """One engine then and now."""

    id: str
    before: float
    """Its ratio to the reference then."""
    now: float
    threshold: float

    @property
    def factor(self) -> float:
        """How many times slower it became, relative to the reference; below 1 is faster."""
        return self.now / self.before

    @property
    def slower(self) -> bool:
        """Whether it is past the threshold."""
        return self.factor > self.threshold


def read_before(paths: Sequence[Path]) -> list[EngineRow]:
    """Engines of earlier runs: CSVs, folders of CSVs, or run folders.

    Raises
    ------
    UsageError
        There is none, or no row has a ratio.
    """
    rows: list[EngineRow] = []
    for path in paths:
        if path.is_dir():
            files = [path / "engines.csv"] if (path / "engines.csv").is_file() else sorted(path.glob("*.csv"))
        else:
            files = [path]
        if not files or not all(file.is_file() for file in files):
            raise UsageError(f"there is no result to compare with in {path}", fix="give a file of benchmarks/results")
        for file in files:
            told = file.with_name(MACHINE)
            name = str(read_json(told).get("name", "")) if told.is_file() else ""
            rows += [replace(row, machine=row.machine or name) for row in read_table(file, EngineRow)]
    found = [row for row in rows if row.ratio_to_reference]
    if not found:
        raise UsageError(
            f"{', '.join(map(str, paths))} holds no engine with a ratio to the reference",
            fix="give an engines.csv that bfsr-edge benchmark wrote",
        )
    return found


def compare(
    before: Sequence[EngineRow], now: Sequence[EngineRow], machine: str, threshold: float = THRESHOLD
) -> list[Change]:
    """Engines that are in both, by network, precision, backend, device, tile and batch; the last of several counts.

    Parameters
    ----------
    machine
        The name of this one; what was measured on others is left out.

    Raises
    ------
    UsageError
        None is in both, or none of those before was measured on such a machine.
    """
    here = [row for row in before if row.machine == machine]
    if not here:
        others = sorted({row.machine or "a machine that has no name" for row in before})
        raise UsageError(
            f"the results to compare with were not measured on {machine}",
            why=(f"they are of {', '.join(others)}, and ratios of one kind of processor say nothing of another",),
            fix="measure on this machine once with --keep DIR, and give that folder to --against",
        )
    old = {_key(row): row.ratio_to_reference for row in here if row.ratio_to_reference}
    changes = [
        Change(row.id, ratio, row.ratio_to_reference, threshold)
        for row in now
        if row.ratio_to_reference and (ratio := old.get(_key(row)))
    ]
    if not changes:
        raise UsageError(
            "no engine of this run is in the results to compare with",
            why=("they are of another network, precision, backend, device, tile or batch",),
            fix="measure the same engines: --model, --suite",
        )
    return changes


def table(changes: Sequence[Change]) -> str:
    """For people, the worst first."""
    width = max(len(change.id) for change in changes)
    lines = [f"{'engine':<{width}}  {'ratio then':>10}  {'now':>8}  {'change':>7}"]
    for change in sorted(changes, key=lambda change: -change.factor):
        verdict = f"  slower than {change.threshold:g} times" if change.slower else ""
        lines.append(
            f"{change.id:<{width}}  {change.before:>10.4g}  {change.now:>8.4g}  {change.factor:>6.2f}×{verdict}"
        )
    return "\n".join(lines)


def keep(rows: Sequence[EngineRow], folder: Path, machine: str, date: str) -> list[Path]:
    """Write a CSV for each engine that was timed: NETWORK-PRECISION-BACKEND-MACHINE-DATE.csv.

    Parameters
    ----------
    machine
        In a form that fits into a file's name.
    date
        Of the run, ISO 8601; its day is taken.
    """
    written = []
    for row in rows:
        if row.latency_median_ms is None or row.ratio_to_reference is None:
            continue
        words = (row.network, row.precision, row.backend, machine, date[:10])
        name = "-".join(re.sub(r"[^A-Za-z0-9.+]+", "-", word).strip("-") for word in words)
        path = folder / f"{name}.csv"
        write_table(path, [replace(row, machine=machine)], EngineRow)
        written.append(path)
    return written


def _key(row: EngineRow) -> tuple[object, ...]:
    return row.network, row.precision, row.backend, row.device, row.tile, row.batch
