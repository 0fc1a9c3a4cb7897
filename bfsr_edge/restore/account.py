"""What became of every file of a run, as ``--json`` prints it, as the report shows it, and in one line.

The fields are documented in docs/restore.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfsr_edge import __version__
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.plan import Outcome

if TYPE_CHECKING:
    from bfsr_edge.runtime import EngineInfo

STATUSES = ("restored", "planned", "skipped", "kept", "failed", "interrupted")
UNDONE = ("failed", "kept", "interrupted")
"""Those after which no result of this input lies at its place."""


@dataclass(frozen=True)
class Run:
    """What all files of a run have in common."""

    out: Path
    """The result folder."""
    options: Options
    engine: EngineInfo
    """What was loaded, and how it really ran."""
    passed_over: int
    """Files inside folders that are no inputs."""
    notes: tuple[str, ...] = ()
    """What holds for every file, a sentence each."""
    report: Path | None = None


def account(run: Run, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Everything, ready for JSON. ``seconds`` is the run's wall time."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(run.options).items()}
    engine = dataclasses.asdict(run.engine)
    return {
        "version": __version__,
        "model": {name: engine[name] for name in ENGINE},
        "options": options,
        "notes": list(run.notes),
        "files": [_entry(outcome) for outcome in outcomes],
        **counts(outcomes),
        "passed_over": run.passed_over,
        "faces": _found(outcomes),
        "faces_restored": sum(outcome.faces_restored for outcome in outcomes),
        "megapixels": round(_megapixels(outcomes), 3),
        "seconds": round(seconds, 3),
        "out": str(run.out),
        "report": str(run.report) if run.report else None,
    }


ENGINE = ("model", "sha256", "backend", "backend_version", "device", "precision")


def _entry(outcome: Outcome) -> dict[str, Any]:
    return {
        "source": str(outcome.source),
        "result": str(outcome.target) if outcome.target else None,
        "status": outcome.status,
        "reason": outcome.reason,
        "fix": outcome.fix,
        "size": outcome.size,
        "result_size": outcome.result_size,
        "faces": outcome.faces,
        "faces_restored": outcome.faces_restored,
        "face_files": [[str(before), str(after)] for before, after in outcome.crops],
        "reduced": outcome.reduced,
        "notes": list(outcome.notes),
        "seconds": round(outcome.seconds, 3),
    }


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many files there are of each status."""
    return {status: sum(outcome.status == status for outcome in outcomes) for status in STATUSES}


def _found(outcomes: Sequence[Outcome]) -> int | None:
    """Faces found in all files, ``None`` where none were looked for."""
    found = [outcome.faces for outcome in outcomes if outcome.faces is not None]
    return sum(found) if found else None


def _megapixels(outcomes: Sequence[Outcome]) -> float:
    """Of the inputs that were restored."""
    return sum(outcome.megapixels for outcome in outcomes if outcome.status == "restored")


def summary(outcomes: Sequence[Outcome], out: Path, seconds: float) -> str:
    """One line for people."""
    told = ", ".join(f"{number} {status}" for status, number in counts(outcomes).items() if number)
    if found := _found(outcomes):
        told += f", {sum(outcome.faces_restored for outcome in outcomes)} of {found} faces restored"
    megapixels = _megapixels(outcomes)
    speed = f", {megapixels:.1f} MP in {seconds:.1f} s ({megapixels / seconds:.2f} MP/s)" if megapixels else ""
    return f"{told}{speed}; results in {click.format_filename(out)}"
