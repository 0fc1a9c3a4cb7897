"""Recipes against a baseline, one run after the other.

The folder of an ablation holds one folder a run (as ``bfsr-edge train`` makes it), ``ablate.json`` (what each run is
and how it ended), and what is drawn from these and the runs' log.csv at every validation: ``table.md``, ``table.csv``
and ``curves.png``.
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bfsr_edge.errors import BfsrError, TrainingError, UsageError
from bfsr_edge.files import replace
from bfsr_edge.models import create, gmacs, parameter_count
from bfsr_edge.train import disk
from bfsr_edge.train.ablation.recipes import NO_PART, as_json, differences, flat
from bfsr_edge.train.ablation.rule import NEVER, History, Rule, halts_at
from bfsr_edge.train.ablation.table import Row, csv_table, drawn, markdown
from bfsr_edge.train.begin import split_faces
from bfsr_edge.train.distributed import launched
from bfsr_edge.train.log import read_log
from bfsr_edge.train.loop import train
from bfsr_edge.train.progress import Display
from bfsr_edge.train.recipe import Recipe
from bfsr_edge.train.state import Training

FORMAT = "bfsr-edge-ablation"


def read_history(folder: Path) -> History:
    """Validation PSNR by iteration from a run's log.csv; empty where there is none."""
    rows = read_log(folder / "log.csv")
    scores = {int(row["iteration"]): float(row["val_psnr"]) for row in rows if row["val_psnr"]}
    return {iteration: reached for iteration, reached in scores.items() if math.isfinite(reached)}


@dataclass
class Run:
    """One recipe of an ablation, and how far it is."""

    recipe: Recipe
    status: str = "waiting"
    """``waiting``, ``running``, ``stopped`` (by the user), ``halted`` (by the rule), ``failed`` or ``finished``."""
    reason: str = ""
    """Why it failed."""
    parameters: int = 0
    gmac: float = 0.0
    """At 128→512."""


def read_known(path: Path) -> dict[str, dict[str, Any]]:
    """The runs of an ``ablate.json`` by name, none where there is no such file; UsageError where it is not ours."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        kept = ("recipe", "status", "reason", "parameters", "gmac")
        return {name: {key: entry[key] for key in kept} for name, entry in content["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is no record of an ablation", why=(f"{type(error).__name__}: {error}",), fix="give another --out"
        ) from error


def recalled(recipe: Recipe, known: dict[str, dict[str, Any]], out: Path) -> Run:
    """The run of ``recipe`` as ``out`` holds it; a new one where it never got to a state or a validation.

    Raises
    ------
    UsageError
        ``out`` holds another run of that name; what differs is named.
    """
    folder = out / recipe.name
    entry = known.get(recipe.name)
    if not (folder / "state.safetensors").exists() and not read_history(folder):
        return Run(recipe)
    if entry is None:
        raise UsageError(
            f"{folder} holds a run that is not of this ablation", fix="give another --out, or remove that folder"
        )
    # a setting that is newer than the record had no effect then: its default
    mine, theirs = flat(as_json(recipe)), flat(as_json(Recipe())) | flat(entry["recipe"])
    keys = dict.fromkeys((*mine, *theirs))
    differing = [key for key in keys if key not in NO_PART and mine.get(key) != theirs.get(key)]
    if differing:
        raise UsageError(
            f"{folder} is a run of another {recipe.name}: {', '.join(differing)} differ",
            why=("the recipe was changed", "--iterations, --batch, --seed or the pictures are others"),
            fix=f"give another --out, or remove {folder}",
        )
    return Run(recipe, entry["status"], entry["reason"], entry["parameters"], entry["gmac"])


class Halted(Exception):
    """Raised in the report of a run, to leave its loop: the log has its last row, the state is of an earlier step."""


class Ablation:
    """Runs recipes one after the other in ``out``; what is finished or halted there already is not run again.

    Parameters
    ----------
    recipes
        From `equalised`; the first is the baseline.
    out
        The folder of the ablation.
    rule
        When a challenger is halted. A run that another rule halted earlier goes on if this one would not have.

    Raises
    ------
    UsageError
        ``out`` holds other runs of the same names.
    """

    def __init__(self, recipes: Sequence[Recipe], out: Path, rule: Rule = NEVER) -> None:
        self.out = out
        self.rule = rule
        known = read_known(out / "ablate.json")
        self.runs = [recalled(recipe, known, out) for recipe in recipes]
        self.others = {name: entry for name, entry in known.items() if name not in [r.name for r in recipes]}
        """What an earlier call ran and this one does not name: kept, and in no table."""
        self._shown: object = None

    @property
    def failed(self) -> bool:
        """Whether a run failed."""
        return any(run.status == "failed" for run in self.runs)

    @property
    def stopped(self) -> bool:
        """Whether the user stopped a run."""
        return any(run.status == "stopped" for run in self.runs)

    def run(
        self,
        *,
        device: str = "auto",
        skip_bad: bool = False,
        quiet: bool = True,
        announce: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Run what is left to run; a failure is recorded and the next one begins, Ctrl-C ends it all with all saved.

        Parameters
        ----------
        device, skip_bad
            As for `loop.train`.
        quiet
            Show no progress of the runs.
        announce
            Called with lines for the user between runs.

        Raises
        ------
        BfsrError
            No run can begin: the faces or the pairs are missing or unfit, or the disk cannot be written to.
        """
        if launched().world > 1:
            raise UsageError(
                "an ablation runs in one process, not under torchrun",
                fix="bfsr-edge ablate … --device cuda:N; on each GPU other recipes, the same baseline, its own --out",
            )
        for name in self.others:
            announce(f"{self.out / name} is kept and not part of this table")
        left = [run for run in self.runs if not self._is_done(run)]
        if left:
            split_faces(self.runs[0].recipe, skip_bad=skip_bad)  # what would fail every run is said before the first
        self.save()
        disk.sweep(self.out)
        for run in self.runs:
            # asked again: against what the baseline has become, a halted run may go on
            if not self._is_done(run):
                with Display(run.recipe, quiet=quiet) as display:
                    self._run_one(run, device, skip_bad, display)
                _tidy_up()
            announce(f"{run.recipe.name}: {self._end(run)}")
            if run.status == "stopped":
                break

    def _run_one(self, run: Run, device: str, skip_bad: bool, display: Display) -> None:
        recipe = run.recipe
        first = self.runs[0]
        baseline = {} if run is first else self.history(first)

        def watch(training: Training, row: dict[str, float]) -> None:
            display.report(training, row)
            if "val_psnr" in row:
                now = training.iteration
                self.save()
                delta = self.delta(recipe.name, now)
                if delta is not None:
                    display.announce(f"{delta:+.3f} dB against {first.recipe.name}")
                # as the log holds it, so that the same comes out when the log is read again
                reached = {step: value for step, value in self.history(run).items() if step == now}
                if halts_at(reached, baseline, self.rule, recipe.iterations):
                    raise Halted

        run.status, run.reason = "running", ""
        self.save()
        display.announce(f"{recipe.name}: {recipe.iterations} iterations of {recipe.batch} faces")
        try:
            network = create(recipe.network.architecture, **recipe.network.settings)
            run.parameters, run.gmac = parameter_count(network), gmacs(network)
            outcome = train(
                recipe,
                self.out / recipe.name,
                device=device,
                report=watch,
                announce=display.announce,
                skip_bad=skip_bad,
            )
        except Halted:
            run.status = "halted"
        except Exception as error:  # whatever it is, out of memory or our own mistake: the others go on
            what = error.what if isinstance(error, BfsrError) else f"{type(error).__name__}: {error}"
            run.status, run.reason = "failed", " ".join(what.split())
            display.announce(str(error))
        else:
            run.status = "finished" if outcome.finished else "stopped"
        self.save()

    def _is_done(self, run: Run) -> bool:
        history = self.history(run)
        if run.status == "finished":
            return max(history, default=0) == run.recipe.iterations  # not so where its folder was removed
        # after a change of the rule or the baseline, a halted run may go on
        baseline = self.history(self.runs[0])
        return run.status == "halted" and bool(halts_at(history, baseline, self.rule, run.recipe.iterations))

    def _end(self, run: Run) -> str:
        row = self.row(run)
        scores = [
            f"{row.final:.3f} dB" if row.final is not None else "",
            f"Δ {row.delta:+.3f} dB" if row.delta is not None else "",
        ]
        return ", ".join(filter(None, (row.ending(), *scores)))

    def history(self, run: Run) -> History:
        """Validation PSNR by iteration of a run."""
        return read_history(self.out / run.recipe.name)

    def delta(self, name: str, iteration: int) -> float | None:
        """A challenger's validation PSNR minus the baseline's at ``iteration``, in dB; None where one has none."""
        mine, baseline = (read_history(self.out / each) for each in (name, self.runs[0].recipe.name))
        known = name != self.runs[0].recipe.name and iteration in mine and iteration in baseline
        return mine[iteration] - baseline[iteration] if known else None

    def row(self, run: Run) -> Row:
        """What the table says of a run."""
        log = read_log(self.out / run.recipe.name / "log.csv")
        history = self.history(run)
        last = max(history, default=0)
        speeds = [float(row["faces_per_second"]) for row in log if row["faces_per_second"]]
        return Row(
            recipe=run.recipe.name,
            differs="; ".join(differences(run.recipe, self.runs[0].recipe)),
            parameters=run.parameters or None,
            gmac=run.gmac or None,
            iterations=int(log[-1]["iteration"]) if log else 0,
            planned=run.recipe.iterations,
            status=run.status,
            reason=run.reason,
            best=max(history.values(), default=None),
            final=history.get(last),
            delta=self.delta(run.recipe.name, last),
            faces_per_second=statistics.median(speeds) if speeds else None,
            hours=float(log[-1]["seconds"]) / 3600 if log else None,
        )

    def table(self) -> str:
        """The table as Markdown."""
        rows = [self.row(run) for run in self.runs]
        first = self.runs[0].recipe
        return markdown(rows) + (
            f"\n{first.iterations:,} iterations each, schedules in proportion, seed {first.seed}, validated every "
            f"{first.validate_every:,}. Δ is against {first.name} at the same iteration. One seed says nothing about "
            "chance: run the baseline under another --seed, into another --out, to see how far that alone moves it.\n"
        )

    def save(self) -> None:
        """Write ablate.json, the tables and the curves, each whole or not at all."""
        entries = {
            run.recipe.name: {
                "recipe": as_json(run.recipe),
                "status": run.status,
                "reason": run.reason,
                "parameters": run.parameters,
                "gmac": run.gmac,
            }
            for run in self.runs
        }
        content = {"format": FORMAT, "version": 1, "baseline": self.runs[0].recipe.name, "runs": entries | self.others}
        self._write("ablate.json", json.dumps(content, indent=1).encode())
        self._write("table.md", self.table().encode())
        self._write("table.csv", csv_table([self.row(run) for run in self.runs]).encode())
        histories = {run.recipe.name: self.history(run) for run in self.runs}
        halted = {run.recipe.name for run in self.runs if run.status == "halted"}
        if self._shown != (histories, halted):  # drawing takes longer than all the rest
            self._write("curves.png", drawn(histories, halted, self.rule, self.runs[0].recipe.iterations))
            self._shown = (histories, halted)

    def _write(self, name: str, content: bytes) -> None:
        try:
            replace(self.out / name, content)
        except OSError as error:
            raise TrainingError(
                f"{self.out / name} cannot be written",
                why=(error.strerror or str(error),),
                fix="free some space or give another --out; the same command goes on where the last state was saved",
            ) from error


def _tidy_up() -> None:
    """Give the next run what the last one held: memory, and the compiler's limit of variants of one function."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
