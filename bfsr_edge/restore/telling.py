"""What a run says on stderr while it goes on: a bar, and a line for each file that needs one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from bfsr_edge.restore.plan import Outcome


class Teller:
    """Says what became of each file: problems always, everything else on request; and remembers notes."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self.quiet, self.verbose = quiet, verbose
        self.notes: list[str] = []
        """What was said that holds for more than one file."""

    def tell(self, outcome: Outcome) -> None:
        """A line, and the next step where there is one."""
        if outcome.done and not self.verbose and not (outcome.status == "planned" and not self.quiet):
            return
        line = str(outcome.source)
        if outcome.done:
            line += f" -> {outcome.target}"
            if outcome.size and outcome.result_size:
                line += " ({}×{} to {}×{})".format(*outcome.size, *outcome.result_size)
            if outcome.faces:
                line += f", {outcome.faces_restored} of {outcome.faces} faces restored"
        told = "; ".join((*filter(None, [outcome.reason]), *outcome.notes))
        if told:
            # most errors name the file themselves
            line = told if line in told else f"{line}: {told}"
        line = f"{outcome.status}: {line}"
        click.echo(line + (f"\n  next: {outcome.fix}" if outcome.fix else ""), err=True)

    def note(self, note: str, *, urgent: bool = False) -> None:
        """What holds for more than one file. With ``--quiet`` only what is urgent."""
        if note in self.notes:
            return
        self.notes.append(note)
        if urgent or not self.quiet:
            click.echo(f"bfsr-edge: {note}", err=True)


@contextmanager
def progress(word: str, total: float, unit: str, quiet: bool) -> Iterator[Callable[[float], None]]:
    """A bar with the rate and the time left, where stderr is a terminal.

    Parameters
    ----------
    word
        What is done, in front of the bar.
    total
        How much there is to do.
    unit
        Of ``total``.
    quiet
        Show nothing.

    Yields
    ------
    Callable
        Takes how much more is done.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Bar) -> Text:
            return Text(f"{task.speed:.3g} {unit}/s" if task.speed else "")

    columns = (
        TextColumn(word), BarColumn(), TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
        Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        identity = bar.add_task("", total=total)
        yield lambda more: bar.advance(identity, more)
