"""The report of a run folder: report.md, and one report.html that needs nothing beside it and no network."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from bfsr_edge import __version__
from bfsr_edge.benchmarks import markdown, report_html, report_words
from bfsr_edge.benchmarks.plots import PLOTS
from bfsr_edge.benchmarks.report_data import PICTURES, View, pictures
from bfsr_edge.benchmarks.report_parts import WIDE
from bfsr_edge.benchmarks.report_svg import COLOURS, STYLE
from bfsr_edge.benchmarks.report_tables import notes, tables
from bfsr_edge.benchmarks.results import Run, replace

TEMPLATE = Path(__file__).with_name("report.html")


def write(folder: Path) -> Path:
    """Make both reports from the files of a run, each whole or not at all.

    Parameters
    ----------
    folder
        Of a run; only files inside it are read.

    Returns
    -------
    Path
        Of report.html.

    Raises
    ------
    UsageError
        It is no run folder, or one of its files is damaged.
    BfsrError
        The reports cannot be written.
    """
    folder = Path(folder)
    view = View.of(folder, Run.load(folder))
    replace(folder / "report.md", as_markdown(view).encode())
    page = folder / "report.html"
    replace(page, as_html(view).encode())
    return page


def as_html(view: View) -> str:
    """The page."""
    sentence, tiles = report_words.headline(view)
    machine = report_words.machine_name(view.machine)
    date = report_words.fact(view.machine.get("date"))
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        title=escape(f"bfsr-edge benchmark {date}".strip()),
        plot_style=COLOURS + STYLE,
        machine=escape(machine),
        facts=report_html.facts(report_words.top_facts(view.machine)),
        all_facts=report_html.facts(report_words.all_facts(view.machine)),
        headline=report_html.tiles(sentence, tiles),
        plots=report_html.plots(view),
        tables="\n".join(report_html.table(table, view.default_id) for table in tables(view)),
        notes=report_html.notes(notes(view)),
        gallery=report_html.gallery(view),
        caveats=report_html.bullets(report_words.caveats(view)),
        version=escape(__version__),
    )


def as_markdown(view: View) -> str:
    """The same without the plots: tables, the gallery's files by their names, notes and caveats."""
    sentence, tiles = report_words.headline(view)
    facts = [[markdown.escaped(name), markdown.escaped(text)] for name, text in report_words.top_facts(view.machine)]
    parts = [
        f"# bfsr-edge benchmark\n\n{markdown.escaped(report_words.machine_name(view.machine))}\n",
        markdown.grid(["", ""], facts) if facts else "",
        f"## Headline\n\n{markdown.escaped(sentence)}\n",
        "".join(f"- **{' '.join((t.value, t.unit)).strip()}** {markdown.escaped(t.text)}\n" for t in tiles),
        "## Plots\n\nThey are in report.html.\n",
        "".join(f"- {plot.title}: not measured. {plot.missing}\n" for plot in PLOTS if not plot.draw(view, WIDE)),
        "## Tables\n\nA dash was not measured; the number in brackets is that of the note that says why.\n",
        *(markdown.table(table) for table in tables(view)),
        "### Notes on engines\n",
        "".join(f"{place}. {markdown.escaped(note)}\n" for place, note in enumerate(notes(view), 1)) or "None.\n",
        "## Gallery of the worst drops\n",
        _gallery(view),
        "## Caveats\n",
        "".join(f"- {markdown.escaped(line)}\n" for line in report_words.caveats(view)),
    ]
    return "\n".join(part for part in parts if part)


def _gallery(view: View) -> str:
    rows = []
    for row in view.gallery:
        shown = [f"![{name}]({path.relative_to(view.folder).as_posix()})" for name, path in
                 zip(PICTURES, pictures(view.folder, row), strict=True)]  # fmt: skip
        scores = (f"{row.psnr_fp32:.2f}", f"{row.psnr_int8:.2f}")
        rows.append([markdown.escaped(row.image), markdown.escaped(row.id), *scores, *shown])
    headings = ("picture", "engine", "FP32, dB", "INT8, dB", *report_html.CAPTIONS)
    return markdown.grid(headings, rows) if rows else "None.\n"
