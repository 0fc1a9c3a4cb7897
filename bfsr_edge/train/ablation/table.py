"""What an ablation shows: a table, as Markdown and CSV, and curves."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bfsr_edge.train.ablation.rule import History, Rule


@dataclass(frozen=True)
class Row:
    """A run in the table; None where nothing is known."""

    recipe: str
    differs: str
    """From the baseline; empty for the baseline itself."""
    parameters: int | None
    gmac: float | None
    """At 128→512."""
    iterations: int
    """Done, as far as the log says."""
    planned: int
    """Of the whole run."""
    status: str
    reason: str
    best: float | None
    """Validation PSNR in dB."""
    final: float | None
    """The last one."""
    delta: float | None
    """``final`` minus the baseline's at the same iteration, in dB."""
    faces_per_second: float | None
    """Median over the log's rows."""
    hours: float | None
    """Validation and all else included."""

    def ending(self) -> str:
        """The status in words."""
        if self.status == "failed":
            return f"failed: {self.reason}"
        return self.status if self.status in ("finished", "waiting") else f"{self.status} at {self.iterations:,}"


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, a line a run; the first is the baseline."""
    titles = ["recipe", "differs by", "parameters", "GMAC", "iterations", "status", "best dB", "final dB", "Δ dB"]
    titles += ["faces/s", "hours"]

    def text(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    lines = [titles, ["---"] * len(titles)]
    for place, row in enumerate(rows):
        lines.append(
            [
                row.recipe,
                row.differs or ("nothing" if place else "*the baseline*"),
                text(row.parameters, ",d"),
                text(row.gmac, ".2f"),
                f"{row.iterations:,}",
                row.ending(),
                text(row.best, ".3f"),
                text(row.final, ".3f"),
                text(row.delta, "+.3f"),
                text(row.faces_per_second, ".1f"),
                text(row.hours, ".3g"),
            ]
        )
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def csv_table(rows: Sequence[Row]) -> str:
    """The same as CSV, unrounded; what is not known stays empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return file.getvalue()


def drawn(histories: dict[str, History], halted: set[str], rule: Rule, iterations: int) -> bytes:
    """A PNG: validation PSNR of all runs, and below it their difference from the first one's.

    Both axes show the range of the runs that were not halted, behind the grace period, so that small differences can
    be seen; the first validations and what was halted may lie below.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7))  # placed by hand: a layout engine draws everything twice
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    figure.subplots_adjust(left=0.06, right=0.78, top=0.95, bottom=0.07, hspace=0.16)
    baseline = next(iter(histories.values()))
    colours = colormaps["tab10" if len(histories) <= 10 else "turbo"]
    for place, (name, history) in enumerate(histories.items()):
        colour = colours(place if len(histories) <= 10 else place / (len(histories) - 1))
        points = sorted(history.items())
        delta = [(step, value - baseline[step]) for step, value in points if step in baseline]
        ended = f"\nhalted at {max(history):,}" if name in halted and history else ""
        for axes, line in ((upper, points), (lower, delta)):
            x, y = [step for step, _ in line], [value for _, value in line]
            label = name + ended if axes is upper else None
            axes.plot(x, y, color=colour, label=label, marker="." if len(x) < 40 else "", linewidth=1.5)
            if name in halted and line:
                axes.plot(x[-1:], y[-1:], color=colour, marker="X", markersize=9)
    if math.isfinite(rule.behind):
        begin = rule.grace * iterations
        lower.plot([begin, iterations], [-rule.behind] * 2, color="grey", linestyle="--", linewidth=1)
        lower.annotate("halted below", (iterations, -rule.behind), color="grey", ha="right", va="bottom", fontsize=8)
    late = [
        (value, value - baseline[step] if step in baseline else 0.0)
        for name, history in histories.items()
        for step, value in history.items()
        if step >= rule.grace * iterations and name not in halted
    ]
    for axes, values in ((upper, [a for a, _ in late]), (lower, [b for _, b in late])):
        if values:
            margin = max(0.02, 0.08 * (max(values) - min(values)))
            axes.set_ylim(min(values) - margin, max(values) + margin)
        axes.grid(alpha=0.3)
    upper.set_title("validation PSNR, dB")
    lower.set_title(f"difference from {next(iter(histories))} at the same iteration, dB")
    lower.set_xlabel("iteration")
    lower.set_xlim(0, iterations)
    upper.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
