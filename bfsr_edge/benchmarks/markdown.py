"""Tables and text as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bfsr_edge.benchmarks.report_tables import UNMEASURED, Table


def escaped(text: str) -> str:
    """Text that stays in its cell and means itself."""
    for sign in ("\\", "|", "*", "_", "`", "<"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool] = ()) -> str:
    """A table; columns that are ``numbers`` are set flush right. Cells are Markdown already."""
    rules = ["--:" if number else "---" for number in numbers] or ["---"] * len(headings)
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, rules, *rows))


def table(made: Table) -> str:
    """One table of the report with its heading; what was not measured is a dash with the number of its note."""
    rows = []
    for place, row in enumerate(made.rows):
        note = made.notes[place] if made.notes else None
        reason = f"{UNMEASURED} [{note}]" if note else UNMEASURED
        empty = {UNMEASURED: reason}
        rows.append([escaped(cell.text) or empty.get(cell.stands_for, cell.stands_for) for cell in row])
    text = grid([escaped(column.title) for column in made.columns], rows, [column.number for column in made.columns])
    below = f"\n{made.text}\n" if made.text else ""
    return f"### {made.title}\n\n{text}{below}"
