"""What a person sees of a run: a bar on a terminal; elsewhere, in a log file say, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from bfsr_edge.train.recipe import Recipe
    from bfsr_edge.train.state import Training

EVERY = 30.0
"""Seconds between lines where there is no terminal; validations come on top."""
FIGURES = {"loss": "loss {:.4f}", "faces_per_second": "{:.1f} faces/s", "val_psnr": "{:.3f} dB"}


class Pace:
    """How long the rest takes, from all that this part of the run has spent on its steps, validation included."""

    def __init__(self, iterations: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._iterations = iterations
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def left(self, done: int) -> float | None:
        """Seconds to the end behind step ``done``; None at the first call, whose step also warmed up."""
        now = self._clock()
        if self._first is None:
            self._first = done, now
            return None
        begin, since = self._first
        return (now - since) / (done - begin) * (self._iterations - done) if done > begin else None


def duration(seconds: float) -> str:
    """A time in the two units that matter: ``3 d 4 h``, ``2 h 5 min``, ``12 min``, ``40 s``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


class Display:
    """A context in which `report` and `announce` may be given to `loop.train`. Everything goes to stderr.

    Parameters
    ----------
    recipe
        Its name and length are shown.
    quiet
        Show nothing.
    """

    def __init__(self, recipe: Recipe, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._bar = Progress(*columns, console=self._console, disable=quiet or not self._console.is_terminal)
        self._task = self._bar.add_task(recipe.name, total=recipe.iterations, now="")
        self._pace = Pace(recipe.iterations)
        self._figures: dict[str, str] = {}
        self._printed = float("-inf")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._bar.stop()

    def announce(self, line: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def report(self, training: Training, row: dict[str, float]) -> None:
        """What was measured at this step, if anything was."""
        left = self._pace.left(training.iteration)
        self._figures |= {key: text.format(row[key]) for key, text in FIGURES.items() if key in row}
        figures = [self._figures[key] for key in FIGURES if key in self._figures]
        rest = [f"{duration(left)} left"] if left else []
        self._bar.update(self._task, completed=training.iteration, now="  ".join(figures + rest))
        if not row:
            return
        validated, now = "val_psnr" in row, time.monotonic()
        if self._console.is_terminal:
            if validated:
                self.announce(f"iteration {training.iteration}: {row['val_psnr']:.3f} dB")
        elif validated or now - self._printed >= EVERY:
            self._printed = now
            self.announce(f"iteration {training.iteration}: {', '.join([*_fresh(row), *rest])}")


def _fresh(row: dict[str, float]) -> list[str]:
    return [text.format(row[key]) for key, text in FIGURES.items() if key in row]
