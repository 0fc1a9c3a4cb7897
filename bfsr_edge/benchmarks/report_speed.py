"""Plots of time: how long a face takes, against what quality, how steadily, and how close to the machine's limits.

Each is a function from a ``View`` and a width in pixels to SVG; an empty text where there is nothing to show.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from bfsr_edge.benchmarks.report_data import View, milliseconds, significant, tick_milliseconds
from bfsr_edge.benchmarks.report_parts import (
    PHONE,
    SHAPES,
    kind_class,
    kinds_legend,
    named_lines,
    quantile,
)
from bfsr_edge.benchmarks.report_svg import Axis, Box, Canvas, frame, linear_axis, log_axis, place_labels, text_width
from bfsr_edge.benchmarks.results import EngineRow

PERCENT_BELOW, PERCENT_ABOVE = 10.0, 30.0
"""The least range of the latency distribution about the median, so that a steady engine does not look restless."""

CROWD = 14
"""More engines than that get numbers and a list, as on a phone."""


def pareto_points(view: View) -> list[tuple[EngineRow, float, float]]:
    """Engines with both latency in ms and mean PSNR in dB, the fastest first."""
    found = [
        (engine, engine.latency_median_ms, engine.psnr_mean)
        for engine in view.engines
        if engine.latency_median_ms is not None and engine.psnr_mean is not None
    ]
    return sorted(found, key=lambda point: point[1])


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, gain), those that no other beats in both, the cheapest first."""
    kept: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or gain > kept[-1][1]:
            kept.append((cost, gain))
    return kept


def pareto(view: View, width: float, *, alone: bool = False) -> str:
    """Median latency against mean PSNR, with the line that no engine of this run is above."""
    points = pareto_points(view)
    if not points:
        return ""
    phone = width < PHONE
    numbered = phone or len(points) > CROWD
    left, right, top, bottom = 52.0, width - 18, 46.0, 0.0
    bottom = top + (300 if phone else 380)
    canvas = Canvas(width, bottom + 48, "Median latency against mean PSNR of every engine")
    x = log_axis([ms for _, ms, _ in points], left, right, pad=0.08)
    y = linear_axis([db for _, _, db in points], bottom, top, pad=0.2, least=0.2)  # room for labels
    frame(
        canvas, x, y, x_title="median latency of one face, log scale", y_title="mean PSNR, dB",
        x_text=tick_milliseconds, y_text=lambda v: significant(v, 4), x_count=4 if phone else 8,
    )  # fmt: skip
    kinds_legend(canvas, [engine.kind for engine, _, _ in points], right, 12)
    steps = [(x.at(ms), y.at(db)) for ms, db in front([(ms, db) for _, ms, db in points])]
    outline = [(steps[0][0], bottom)]
    for (here, level), (following, _) in zip(steps, [*steps[1:], (right, 0.0)], strict=True):
        outline += [(here, level), (following, level)]
    canvas.path([*outline, (right, bottom)], "front-area", closed=True)
    canvas.path(outline[1:], "front")
    labels = []
    for place, (engine, ms, db) in enumerate(points, 1):
        colour = kind_class(engine)
        tip = f"{view.label(engine.id)}: {milliseconds(ms)}, {db:.2f} dB"
        size = 7.5 if engine.id == view.default_id else 6
        canvas.mark(x.at(ms), y.at(db), SHAPES.get(engine.kind, "triangle"), f"mark f{colour}", size=size, tip=tip)
        text = str(place) if numbered else view.label(engine.id)
        labels.append((x.at(ms), y.at(db), text, "bold" if engine.id == view.default_id else "soft"))
    edges = pairwise(outline[1:])
    lines = [Box(min(a, c) - 2, min(b, d) - 2, abs(a - c) + 4, abs(b - d) + 4) for (a, b), (c, d) in edges]
    place_labels(canvas, Box(left + 2, top - 6, right - left, bottom - top + 4), labels, clear_of=lines, radius=7)
    if numbered:
        for place, (engine, ms, db) in enumerate(points, 1):
            line = canvas.height + 18 * (place - 1) + 10
            canvas.text(20, line, f"{place}", "soft", anchor="end")
            weight = "small bold" if engine.id == view.default_id else "small"
            canvas.text(28, line, view.label(engine.id), weight)
            canvas.text(width - 62, line, milliseconds(ms), "small soft", anchor="end")
            canvas.text(width - 8, line, f"{db:.2f}", "small soft", anchor="end")
        canvas.height += 18 * len(points) + 6
    return canvas.svg(alone=alone)


def ranking(view: View, width: float) -> str:
    """Median latency of every engine on one logarithmic line each, the fastest at the top."""
    rows = sorted(
        ((engine, engine.latency_median_ms) for engine in view.engines if engine.latency_median_ms is not None),
        key=lambda row: row[1],
    )
    if not rows:
        return ""
    phone = width < PHONE
    label = 0.0 if phone else 12 + max(text_width(view.label(engine.id)) for engine, _ in rows)
    step = 40.0 if phone else 27.0
    top, left, right = 34.0, 10 + label, width - 84
    canvas = Canvas(width, top + step * len(rows) + 30, "Median latency of one face per engine")
    axis = log_axis([ms for _, ms in rows], left, right, pad=0.05)
    bottom = top + step * len(rows) - 6
    for value in axis.ticks(4 if phone else 8):
        canvas.line(axis.at(value), top - 6, axis.at(value), bottom, "grid")
        canvas.text(axis.at(value), bottom + 18, tick_milliseconds(value), "soft", anchor="middle")
    kinds_legend(canvas, [engine.kind for engine, _ in rows], width - 8, 14)
    for place, (engine, ms) in enumerate(rows):
        y = top + step * place + (26 if phone else 12)
        weight = "bold" if engine.id == view.default_id else ""
        if phone:
            canvas.text(left, y - 11, view.label(engine.id), f"small {weight} halo")
        else:
            canvas.text(left - 12, y + 4, view.label(engine.id), weight, anchor="end")
        colour = kind_class(engine)
        canvas.line(left, y, axis.at(ms), y, f"line k{colour} dot")
        canvas.mark(axis.at(ms), y, SHAPES.get(engine.kind, "triangle"), f"mark f{colour}", tip=_runs_of(engine))
        canvas.text(axis.at(ms) + 12, y + 4, milliseconds(ms), f"{weight} halo".strip())
    return canvas.svg()


def _runs_of(engine: EngineRow) -> str:
    ends = [("p90", engine.latency_p90_ms), ("p99", engine.latency_p99_ms)]
    told = [f"{name} {milliseconds(value)}" for name, value in ends if value is not None]
    return ", ".join([*told, f"{engine.latency_n} runs" if engine.latency_n else "runs not counted"])


def distribution(view: View, width: float) -> str:
    """Every timed run against its engine's median, in percent: box of the middle half, whiskers from p5 to p95."""
    rows = [(engine, view.latency[engine.id]) for engine in view.engines if len(view.latency.get(engine.id, ())) > 1]
    if not rows:
        return ""
    phone = width < PHONE
    label = 0.0 if phone else 14 + max(text_width(view.label(engine.id)) for engine, _ in rows)
    value_room = 66.0
    left, right, top = (24 if phone else 12 + label + value_room), width - 26, 34.0
    step = 52.0 if phone else 36.0
    bottom = top + step * len(rows)
    canvas = Canvas(width, bottom + 44, "Latency of every run against the engine's median")
    shifts = {engine.id: _percent(times) for engine, times in rows}
    tails = [quantile(values, share) for values in shifts.values() for share in (0.01, 0.99)]
    low = -min(100.0, max(PERCENT_BELOW, -1.15 * min(tails)))
    high = min(300.0, max(PERCENT_ABOVE, 1.15 * max(tails)))
    x = Axis(low, high, left, right)
    for value in x.ticks(4 if phone else 8):
        canvas.line(x.at(value), top - 6, x.at(value), bottom, "axis" if value == 0 else "grid")
        canvas.text(x.at(value), bottom + 17, f"{value:+.0f} %" if value else "median", "soft", anchor="middle")
    canvas.text(right, bottom + 36, "away from the engine's own median", "soft", anchor="end")
    if not phone:
        canvas.text(left - 12, top - 14, "median", "small soft", anchor="end")
    for place, (engine, times) in enumerate(rows):
        y = top + step * place + step / 2 + (6 if phone else 0)
        colour, values = kind_class(engine), shifts[engine.id]
        weight = "bold" if engine.id == view.default_id else ""
        told = milliseconds(statistics.median(times))
        if phone:
            told = f"{view.label(engine.id)} · {told}, n = {len(times)}"
            canvas.text(left - 12, y - 17, told, f"small {weight} halo")
        else:
            canvas.text(left - value_room - 12, y + 4, view.label(engine.id), weight, anchor="end")
            canvas.text(left - 12, y + 4, told, "soft", anchor="end")
        thin = values if len(values) <= 120 else values[:: math.ceil(len(values) / 120)]
        for count, value in enumerate(thin):
            away = ((count * 7) % 11 - 5) * 1.5  # the same places every time
            canvas.circle(x.at(min(max(value, low), high)), y + away, 1.7, f"dot f{colour}")
        q05, q25, q50, q75, q95 = (quantile(values, share) for share in (0.05, 0.25, 0.5, 0.75, 0.95))
        ends = [min(max(value, low), high) for value in (q05, q95, q25, q75)]
        canvas.line(x.at(ends[0]), y, x.at(ends[1]), y, f"whisker k{colour}")
        half = f"half of the {len(times)} runs between {q25:+.1f} % and {q75:+.1f} %"
        tip = f"{view.label(engine.id)}: {half}, p95 {q95:+.1f} %"
        canvas.rect(
            x.at(ends[2]), y - 8, max(x.at(ends[3]) - x.at(ends[2]), 1), 16, f"box f{colour}", round_=2, tip=tip
        )
        canvas.line(x.at(q50), y - 8, x.at(q50), y + 8, f"median k{colour}")
        if beyond := sum(value > high for value in values):
            canvas.text(right + 4, y + 4, f"+{beyond}", "small soft")
    return canvas.svg()


def _percent(times: Sequence[float]) -> list[float]:
    median = statistics.median(times)
    return [100 * (time / median - 1) for time in times]


def throughput(view: View, width: float) -> str:
    """Faces a second against the batch, one line an engine."""
    simple = {engine.id for engine in view.engines if engine.kind == "baseline"}
    lines = {
        name: [(float(batch), rate) for batch, rate in points]
        for name, points in view.throughput.items()
        if points and name not in simple
    }
    if not lines:
        return ""
    rates = [rate for points in lines.values() for _, rate in points if rate > 0]
    wide_range = max(rates) / min(rates) > 12
    return named_lines(
        {view.label(name): points for name, points in lines.items()},
        width,
        title="Faces a second against batch size",
        x_title="batch",
        y_title=f"faces a second{', log scale' if wide_range else ''}",
        x_text=lambda v: f"{v:.0f}",
        y_text=lambda v: significant(v, 3),
        x_log=True,
        y_log=wide_range,
        x_ticks=sorted({batch for points in lines.values() for batch, _ in points}),
    )


def roofline(view: View, width: float) -> str:
    """How much of the machine's measured arithmetic and memory bandwidth each engine uses."""
    rows = [e for e in view.engines if e.roofline_compute is not None or e.roofline_memory is not None]
    if not rows:
        return ""
    phone = width < PHONE
    label = 0.0 if phone else 14 + max(text_width(view.label(engine.id)) for engine in rows)
    step, top = (46.0 if phone else 30.0), 36.0
    left, right = 12 + label, width - 26
    bottom = top + step * len(rows)
    canvas = Canvas(width, bottom + 44, "Share of the machine's measured peak per engine")
    shares = [value for e in rows for value in (e.roofline_compute, e.roofline_memory) if value is not None]
    x = Axis(0.0, max(1.0, *shares), left, right)
    for value in x.ticks(4 if phone else 10):
        canvas.line(x.at(value), top - 6, x.at(value), bottom, "axis" if value in (0.0, 1.0) else "grid")
        canvas.text(x.at(value), bottom + 17, f"{100 * value:.0f} %", "soft", anchor="middle")
    canvas.text(right, bottom + 36, "of the peak measured on this machine", "soft", anchor="end")
    place = left
    for colour, shape, name in ((0, "circle", "arithmetic"), (4, "square", "memory bandwidth")):
        canvas.mark(place + 6, 14, shape, f"mark f{colour}", size=5)
        canvas.text(place + 17, 18, name)
        place += 36 + text_width(name)
    for row, engine in enumerate(rows):
        y = top + step * row + step / 2 + (7 if phone else 0)
        weight = "bold" if engine.id == view.default_id else ""
        if phone:
            canvas.text(left, y - 13, view.label(engine.id), f"small {weight} halo")
        else:
            canvas.text(left - 12, y + 4, view.label(engine.id), weight, anchor="end")
        canvas.line(left, y, right, y, "grid")
        for share, colour, shape, name in (
            (engine.roofline_memory, 4, "square", "memory bandwidth"),
            (engine.roofline_compute, 0, "circle", "arithmetic"),
        ):
            if share is not None:
                canvas.mark(x.at(share), y, shape, f"mark f{colour}", size=5.5, tip=f"{name}: {share:.1%} of the peak")
    return canvas.svg()
