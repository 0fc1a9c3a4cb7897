"""The pieces of report.html: every text is escaped here, every picture is put inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from bfsr_edge.benchmarks.plots import PLOTS
from bfsr_edge.benchmarks.report_data import PICTURES, View, pictures
from bfsr_edge.benchmarks.report_parts import NARROW, WIDE
from bfsr_edge.benchmarks.report_tables import UNMEASURED, Cell, Table
from bfsr_edge.benchmarks.report_words import Tile

CAPTIONS = ("input", "FP32", "INT8", "difference ×8")


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """What and value, as items of a description list."""
    made = []
    for name, value in pairs:
        start, text = "<div>", escape(value)
        if name == "command":
            start, text = '<div class="long">', f"<code>{text}</code>"
        made.append(f"{start}<dt>{escape(name)}</dt><dd>{text}</dd></div>")
    return "".join(made)


def tiles(sentence: str, made: Sequence[Tile]) -> str:
    """The headline: a sentence, then numbers in large type."""
    boxes = []
    for tile in made:
        unit = f" <small>{escape(tile.unit)}</small>" if tile.unit else ""
        kind = "tile main" if tile.main else "tile"
        boxes.append(
            f'<div class="{kind}"><b>{escape(tile.value)}{unit}</b><span class="soft">{escape(tile.text)}</span></div>'
        )
    return f"<p>{escape(sentence)}</p>\n" + (f'<div class="tiles">{"".join(boxes)}</div>' if boxes else "")


def plots(view: View) -> str:
    """Every plot for a desk and for a phone, or the reason why there is none."""
    made = []
    for plot in PLOTS:
        wide = plot.draw(view, WIDE)
        shown = (
            f'<div class="wide">{wide}</div><div class="narrow">{plot.draw(view, NARROW)}</div>'
            f"<figcaption>{escape(plot.caption)}</figcaption>"
            if wide
            else f'<p class="missing">Not measured: {escape(plot.missing)}</p>'
        )
        made.append(f'<figure id="plot-{plot.name}"><h3>{escape(plot.title)}</h3>{shown}</figure>')
    return "\n".join(made)


def table(made: Table, default: str) -> str:
    """One table; the row of the headline's engine is set in bold."""
    headings = "".join(
        f"<th{_kind(column.number)}{_title(column.help)}>{escape(column.title)}</th>" for column in made.columns
    )
    if sum(row[0].text == default for row in made.rows) != 1:
        default = ""  # where every row is about it, none stands out
    rows = []
    for place, row in enumerate(made.rows):
        note = made.notes[place] if made.notes else None
        cells = [
            _cell(cell, first=at == 0, number=made.columns[at].number, note=note) for at, cell in enumerate(row)
        ]  # fmt: skip
        mark = ' class="default"' if default and row[0].text == default else ""
        rows.append(f"<tr{mark}>{''.join(cells)}</tr>")
    below = f'<p class="soft">{escape(made.text)}</p>' if made.text else ""
    return (
        f'<div class="table" id="table-{made.name}"><h3>{escape(made.title)}</h3><div class="scroll"><table>'
        f"<thead><tr>{headings}</tr></thead><tbody>\n" + "\n".join(rows) + f"\n</tbody></table></div>{below}</div>"
    )


def _cell(cell: Cell, *, first: bool, number: bool, note: int | None) -> str:
    tag = "th" if first else "td"
    if not cell.text:
        reason = f'<a href="#note-{note}">{note}</a>' if note and cell.stands_for == UNMEASURED else ""
        kind = "none number" if number else "none"
        return f'<{tag} class="{kind}" data-v="">{escape(cell.stands_for)}{reason}</{tag}>'
    value = "" if cell.value is None else f' data-v="{escape(str(cell.value))}"'
    return f"<{tag}{_kind(number)}{value}>{escape(cell.text)}</{tag}>"


def _kind(number: bool) -> str:
    return ' class="number"' if number else ""


def _title(text: str) -> str:
    return f' title="{escape(text)}"' if text else ""


def notes(lines: Sequence[str]) -> str:
    """Numbered, so that empty cells can lead here."""
    if not lines:
        return '<p class="missing">None.</p>'
    items = "".join(f'<li id="note-{place}">{escape(line)}</li>' for place, line in enumerate(lines, 1))
    return f'<ol class="notes">{items}</ol>'


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def gallery(view: View) -> str:
    """Four pictures a row, each in the page itself."""
    made = []
    for row in view.gallery:
        boxes = []
        for path, name, caption in zip(pictures(view.folder, row), PICTURES, CAPTIONS, strict=True):
            score = {"fp32": f", {row.psnr_fp32:.2f} dB", "int8": f", {row.psnr_int8:.2f} dB"}.get(name, "")
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            told = escape(f"{row.image}: {caption}{score}")
            image = f'<img src="data:image/png;base64,{data}" alt="{told}"/>'
            boxes.append(f"<div>{image}<span>{escape(caption + score)}</span></div>")
        title = f"{row.image}: {row.psnr_fp32 - row.psnr_int8:.4f} dB lost"
        made.append(
            f'<figure id="gallery-{row.n}"><h3>{escape(title)}</h3><div class="quad">{"".join(boxes)}</div>'
            f"<figcaption>{escape(row.id)}. Grey in the difference means equal.</figcaption></figure>"
        )
    return "\n".join(made) or '<p class="missing">No gallery: no INT8 engine was compared with FP32 on pictures.</p>'
