"""The tables of the report, once for HTML and Markdown: columns with what they mean, cells with what they sort by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bfsr_edge.benchmarks.report_data import NAMES, View, below_fp32, milliseconds, significant
from bfsr_edge.benchmarks.results import EngineRow
from bfsr_edge.calibration import short_layer

WORST = 12
"""Pictures in the table of the largest drops; images.csv holds them all."""


UNMEASURED = "–"
NOT_APPLICABLE = "n/a"
"""In the place of a number that cannot exist, such as what FP32 loses against itself."""


@dataclass(frozen=True)
class Column:
    """One column."""

    title: str
    """Its heading, with the unit."""
    help: str = ""
    """What it means, where the heading does not say."""
    number: bool = True
    """Whether it is set flush right."""


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    """What stands there; empty where it was not measured."""
    value: float | str | None = None
    """What it sorts by; the text where there is nothing else."""
    stands_for: str = UNMEASURED
    """What is shown where the text is empty."""


@dataclass(frozen=True)
class Table:
    """One table."""

    name: str
    """Of its element in the page: ``table-NAME``."""
    title: str
    """The heading above it."""
    columns: tuple[Column, ...]
    """At least one."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells in the columns' order."""
    notes: tuple[int | None, ...] = ()
    """Each row's number among the page's notes, for its cells that are empty."""
    text: str = ""
    """What stands below it."""


def notes(view: View) -> list[str]:
    """The distinct notes of engines, numbered from 1 in the page."""
    return list(dict.fromkeys(engine.note for engine in view.engines if engine.note))


def tables(view: View) -> list[Table]:
    """Those that have rows, in the page's order."""
    made = [accuracy(view), latency(view), cost(view), throughput(view), sizes(view), layers(view), worst_images(view)]
    return [table for table in made if table.rows]


Get = Callable[[EngineRow], "float | None"]
ARITHMETIC = ("parameters", "GMAC", "MB moved", "GMAC/s", "of compute peak", "of memory peak")
NAME = Column("engine", "its id in the CSV files", number=False)


def accuracy(view: View) -> Table:
    """PSNR, SSIM and drop of every engine."""
    spec: list[tuple[Column, Get, Callable[[float], str]]] = [
        (Column("pictures"), lambda e: e.n_images, _count),
        (Column("PSNR mean, dB", "mean over pictures of each one's RGB PSNR"), lambda e: e.psnr_mean, fixed(2)),
        (Column("worst, dB", "the picture with the lowest PSNR"), lambda e: e.psnr_worst, fixed(2)),
        (Column("spread, dB", "standard deviation over pictures"), lambda e: e.psnr_std, fixed(2)),
        (Column("SSIM mean"), lambda e: e.ssim_mean, fixed(4)),
        (Column("SSIM worst"), lambda e: e.ssim_worst, fixed(4)),
        (Column("drop mean, dB", "lost against the same network in FP32, picture by picture"),
         lambda e: e.drop_mean, fixed(4)),
        (Column("drop worst, dB"), lambda e: e.drop_worst, fixed(4)),
        (Column("drop spread, dB"), lambda e: e.drop_std, fixed(4)),
    ]  # fmt: skip
    if any(engine.perceptual_mean is not None for engine in view.engines):
        named = str(view.machine.get("perceptual") or "mean over pictures")
        counts = sorted({engine.n_perceptual for engine in view.engines if engine.n_perceptual})
        of = f", of the first {' or '.join(map(str, counts))} pictures" if counts else ""
        spec.append((Column("perceptual", named + of), lambda e: e.perceptual_mean, fixed(4)))
    return _engines(view, "accuracy", "Accuracy", spec)


def latency(view: View) -> Table:
    """Milliseconds of one batch."""
    spec: list[tuple[Column, Get, Callable[[float], str]]] = [
        (Column("min"), lambda e: e.latency_min_ms, milliseconds),
        (Column("median"), lambda e: e.latency_median_ms, milliseconds),
        (Column("mean"), lambda e: e.latency_mean_ms, milliseconds),
        (Column("p90"), lambda e: e.latency_p90_ms, milliseconds),
        (Column("p95"), lambda e: e.latency_p95_ms, milliseconds),
        (Column("p99"), lambda e: e.latency_p99_ms, milliseconds),
        (Column("variation", "standard deviation over mean"), lambda e: e.latency_cv, _percent),
        (Column("runs", "timed after the warm-up"), lambda e: e.latency_n, _count),
        (Column("ratio to reference", "to the median of the reference engine, which ran in turns; below 1 is faster"),
         lambda e: e.ratio_to_reference, _ratio),
    ]  # fmt: skip
    if any(engine.device_latency_median_ms is not None for engine in view.engines):
        spec.insert(
            2,
            (
                Column("device median", "between two events of the GPU"),
                lambda e: e.device_latency_median_ms,
                milliseconds,
            ),
        )
    if view.default:
        column = Column(f"times {view.label(view.default_id)}", "how many times as long as the headline's engine takes")
        spec.append((column, view.times_faster, _ratio))
    return _engines(view, "latency", "Latency of one batch, array in to array out", spec)


def cost(view: View) -> Table:
    """What an engine is, needs and reaches."""
    text: list[tuple[Column, Callable[[EngineRow], str]]] = [
        (Column("kind", number=False), lambda e: e.kind),
        (Column("precision", "executed, not asked", number=False), lambda e: e.precision.upper()),
        (Column("backend", number=False), lambda e: f"{NAMES.get(e.backend, e.backend)} {e.backend_version}".strip()),
        (Column("device", number=False), lambda e: e.device),
        (Column("tile", "input, height×width", number=False), lambda e: e.tile.replace("x", "×")),
    ]
    spec: list[tuple[Column, Get, Callable[[float], str]]] = [
        (Column("threads"), lambda e: e.threads, _count),
        (Column("batch"), lambda e: e.batch, _count),
        (Column("parameters"), lambda e: e.parameters, _count),
        (Column("GMAC", "10⁹ multiply-accumulates for one input"), lambda e: e.gmacs, fixed(2)),
        (Column("MB moved", "at least, for one input"), lambda e: e.mbytes, _three),
        (Column("GMAC/s", "reached"), lambda e: e.gmacs_per_s, _three),
        (Column("of compute peak"), lambda e: e.roofline_compute, _percent),
        (Column("of memory peak"), lambda e: e.roofline_memory, _percent),
        (Column("cold start", "a fresh process to its first result"),
         lambda e: None if e.cold_start_s is None else 1000 * e.cold_start_s, milliseconds),
        (Column("peak RSS, MB", "of a process that ran this engine alone"), lambda e: e.peak_rss_mb, _three),
        (Column("device memory, MB"), lambda e: e.device_mb, _three),
        (Column("energy, J", "for one input"), lambda e: e.energy_j, _three),
    ]  # fmt: skip
    return _engines(view, "cost", "What each engine is, needs and reaches", spec, text)


def throughput(view: View) -> Table:
    """Faces a second, a column a batch."""
    batches = sorted({batch for points in view.throughput.values() for batch, _ in points})
    rows = []
    for name, points in view.throughput.items():
        rates = dict(points)
        rows.append((Cell(name), *(_cell(rates.get(batch), _three) for batch in batches)))
    columns = (NAME, *(Column(f"batch {batch}") for batch in batches))
    return Table("throughput", "Throughput, faces a second", columns, tuple(rows))


def sizes(view: View) -> Table:
    """Photographs from file to file against their parts timed alone."""
    threads = {engine.id: engine.threads for engine in view.engines}
    columns = (
        Column("engine", number=False), Column("megapixels"), Column("scale"), Column("wall", "files to files"),
        Column("decode", "core-seconds, timed alone"), Column("network", "core-seconds of as many tiles, timed alone"),
        Column("encode", "core-seconds, timed alone"),
        Column("wall ÷ (parts ÷ cores)", "1 where nothing is lost between the parts"),
        Column("wall per megapixel"), Column("peak RSS, MB"),
    )  # fmt: skip
    rows = []
    for row in view.sizes:
        parts, cores = row.decode_s + row.network_s + row.encode_s, threads.get(row.id) or view.cores
        ratio = row.wall_s * cores / parts if cores and parts else None
        seconds = (row.wall_s, row.decode_s, row.network_s, row.encode_s)
        rows.append((
            Cell(row.id), _cell(row.megapixels, _three), Cell(f"×{row.scale}", row.scale),
            *(_cell(1000 * second, milliseconds) for second in seconds),
            _cell(ratio, _ratio), _cell(1000 * row.wall_s / row.megapixels, milliseconds),
            _cell(row.peak_rss_mb, _three),
        ))  # fmt: skip
    return Table("sizes", "Photographs, end to end", columns, tuple(rows))


def layers(view: View) -> Table:
    """The costliest first."""
    total = sum(layer.macs for layer in view.layers)
    columns = (Column("layer", number=False), Column("dB lost"), Column("share of MACs"))
    rows = [
        (
            Cell(short_layer(row.layer)),
            _cell(row.drop_db, fixed(5)),
            _cell(row.macs / total if total else None, _percent),
        )
        for row in sorted(view.layers, key=lambda row: -row.drop_db)
    ]
    return Table("layers", "PSNR drop per layer, each alone in INT8", columns, tuple(rows))


def worst_images(view: View) -> Table:
    """The pictures that lose most."""
    found = sorted(((drop, name, image) for name, drops in view.drops.items() for image, drop in drops), reverse=True)[
        :WORST
    ]
    scores = {(row.id, row.image): row for row in view.images}
    columns = (
        Column("picture", number=False),
        Column("engine", number=False),
        Column("dB lost"),
        Column("PSNR, dB"),
        Column("SSIM"),
    )
    rows = [
        (Cell(image), Cell(name), _cell(drop, fixed(4)), _cell(scores[name, image].psnr, fixed(2)),
         _cell(scores[name, image].ssim, fixed(4)))
        for drop, name, image in found
    ]  # fmt: skip
    total = sum(map(len, view.drops.values()))
    return Table(
        "images", "Largest drops", columns, tuple(rows), text=f"{len(rows)} of {total}; images.csv holds them all."
    )


def _engines(
    view: View,
    name: str,
    title: str,
    spec: Sequence[tuple[Column, Get, Callable[[float], str]]],
    text: Sequence[tuple[Column, Callable[[EngineRow], str]]] = (),
) -> Table:
    numbered = {note: place for place, note in enumerate(notes(view), 1)}
    shown = [entry for entry in spec if any(entry[1](engine) is not None for engine in view.engines)]
    left_out = [column.title for column, get, _ in spec if all(get(engine) is None for engine in view.engines)]
    energy = str(view.machine.get("energy") or "").removeprefix("not measured: ")
    reasons = {"energy, J": energy} if energy else {}
    told = [f"{title} ({reasons[title]})" if title in reasons else title for title in left_out]
    rows = [
        (
            Cell(engine.id),
            *(Cell(get(engine)) for _, get in text),
            *(_applicable(engine, column, _cell(get(engine), tell)) for column, get, tell in shown),
        )
        for engine in view.engines
    ]
    columns = (NAME, *(column for column, _ in text), *(column for column, _, _ in shown))
    below = f"Not measured for any engine: {'; '.join(told)}." if told and rows else ""
    row_notes = tuple(numbered.get(engine.note) for engine in view.engines)
    return Table(name, title, columns, tuple(rows), row_notes, below)


def _applicable(engine: EngineRow, column: Column, cell: Cell) -> Cell:
    """A drop belongs to what is not FP32, and interpolation has no arithmetic that is counted."""
    drop, arithmetic = column.title.startswith("drop "), column.title in ARITHMETIC
    never = (drop and engine.precision and not below_fp32(engine)) or (arithmetic and engine.kind == "baseline")
    return Cell("", "", NOT_APPLICABLE) if not cell.text and never else cell


def _cell(value: float | None, tell: Callable[[float], str]) -> Cell:
    return Cell("") if value is None else Cell(tell(value), value)


def fixed(digits: int) -> Callable[[float], str]:
    """What writes a number with so many decimals."""
    # what rounds to zero has no sign
    return lambda value: f"{round(value, digits) + 0.0:.{digits}f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _three(value: float) -> str:
    return significant(value, 3)


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
