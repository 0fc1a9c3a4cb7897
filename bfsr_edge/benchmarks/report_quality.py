"""Plots of what INT8 costs, of the photograph's size, and of training.

Each is a function from a ``View`` and a width in pixels to SVG; an empty text where there is nothing to show.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial

from bfsr_edge.benchmarks.report_data import View, significant, tick_milliseconds
from bfsr_edge.benchmarks.report_parts import PHONE, named_lines, side_by_side
from bfsr_edge.benchmarks.report_svg import Axis, Canvas, linear_axis, text_width
from bfsr_edge.calibration import short_layer


def drop_layers(view: View, width: float) -> str:
    """A bar a layer in the graph's order: dB lost where it alone is quantized."""
    if not view.layers:
        return ""
    phone = width < PHONE
    names = [short_layer(layer.layer) for layer in view.layers]
    total = sum(layer.macs or 0.0 for layer in view.layers)
    left = 16 + max(text_width(name, 11) for name in names) + (0 if phone or not total else 54)
    top, step = (20.0 if phone else 40.0), 17.0
    bottom = top + step * len(names)
    canvas = Canvas(width, bottom + 46, "dB lost per layer where it alone is INT8")
    values = [layer.drop_db for layer in view.layers]
    x = linear_axis(values, left, width - 62, pad=0.0, least=0.001, zero=True)
    for value in x.ticks(3 if phone else 6):
        canvas.line(x.at(value), top - 4, x.at(value), bottom, "grid")
        canvas.text(x.at(value), bottom + 17, significant(value, 3), "soft", anchor="middle")
    canvas.text(width - 8, bottom + 36, "dB lost where this layer alone is INT8", "soft", anchor="end")
    if total and not phone:
        canvas.text(left - 10, top - 12, "share of MACs", "small soft", anchor="end")
    worst = max(values)
    for place, (layer, name) in enumerate(zip(view.layers, names, strict=True)):
        y = top + step * place + step / 2
        share = f"{(layer.macs or 0.0) / total:.1%}" if total else ""
        if share and not phone:
            canvas.text(left - 10, y + 4, share, "small soft", anchor="end")
        canvas.text(left - (64 if share and not phone else 10), y + 4, name, "small", anchor="end")
        ends = sorted((x.at(0.0), x.at(layer.drop_db)))
        colour = 1 if layer.drop_db == worst else 0
        tip = f"{layer.layer}: {layer.drop_db:+.4f} dB lost{', ' + share + ' of the MACs' if share else ''}"
        canvas.rect(ends[0], y - 5, max(ends[1] - ends[0], 0.8), 10, f"f{colour}", round_=1.5, tip=tip)
        if layer.drop_db >= 0.02 * worst:
            canvas.text(ends[1] + 5, y + 4, f"{layer.drop_db:.4f}", "small soft")
    canvas.line(x.at(0.0), top - 4, x.at(0.0), bottom, "axis")
    return canvas.svg()


def drop_images(view: View, width: float) -> str:
    """A dot a picture: dB lost against the same network in FP32; bar at the mean, the worst is named."""
    rows = [(engine, view.drops[engine.id]) for engine in view.engines if view.drops.get(engine.id)]
    if not rows:
        return ""
    everything = [drop for _, drops in rows for _, drop in drops]
    phone = width < PHONE
    step = 84.0
    left, right, top = 16.0, width - (24 if phone else 70), 16.0
    bottom = top + step * len(rows)
    canvas = Canvas(width, bottom + 46, "dB lost per picture against FP32")
    x = linear_axis(everything, left, right, pad=0.03, least=0.01, zero=True)
    for value in x.ticks(4 if phone else 8):
        canvas.line(x.at(value), top, x.at(value), bottom, "grid")
        canvas.text(x.at(value), bottom + 17, significant(value, 3), "soft", anchor="middle")
    canvas.line(x.at(0.0), top, x.at(0.0), bottom, "axis")
    canvas.text(right, bottom + 36, "dB lost against FP32, one dot a picture", "soft", anchor="end")
    for place, (engine, drops) in enumerate(rows):
        line = top + step * place
        mean = statistics.fmean(drop for _, drop in drops)
        name, worst = max(drops, key=lambda item: item[1])
        canvas.text(left, line + 13, view.label(engine.id), "bold halo")
        canvas.text(
            right,
            line + 13,
            f"mean {mean:.4f}, worst {worst:.4f}" + ("" if phone else f" ({name})"),
            "soft halo",
            anchor="end",
        )
        _swarm(canvas, x, line + 48, [(drop, f"{image}: {drop:+.4f} dB lost") for image, drop in drops], 0, 22)
        canvas.line(x.at(mean), line + 24, x.at(mean), line + 72, "median k1")
        canvas.circle(x.at(worst), line + 48, 4.5, "mark f1", tip=f"worst: {name}, {worst:+.4f} dB lost")
    return canvas.svg()


def _swarm(canvas: Canvas, axis: Axis, y: float, points: Sequence[tuple[float, str]], colour: int, room: float) -> None:
    """Dots at their values, moved up and down so that they do not hide each other."""
    columns: dict[int, int] = {}
    radius = 3.4
    for value, tip in sorted(points):
        column = round(axis.at(value) / (2 * radius))
        count = columns[column] = columns.get(column, 0) + 1
        away = (count // 2) * 2 * radius * (1 if count % 2 else -1)
        # more dots than room: they share it
        away = math.copysign(min(abs(away), room), away)
        canvas.circle(axis.at(value), y + away, radius, f"dot f{colour}", tip=tip)


def sizes(view: View, width: float) -> str:
    """Seconds and peak memory against megapixels, log-log, with the line of linear cost."""
    walls: dict[str, list[tuple[float, float]]] = {}
    memory: dict[str, list[tuple[float, float]]] = {}
    for row in view.sizes:
        name = f"{view.label(row.id)} ×{row.scale:g}"
        if row.wall_s > 0:
            walls.setdefault(name, []).append((row.megapixels, row.wall_s))
        if row.peak_rss_mb > 0:
            memory.setdefault(name, []).append((row.megapixels, row.peak_rss_mb))
    against = partial(
        named_lines, x_title="megapixels of the photograph, log scale", x_text=lambda v: significant(v, 3), x_log=True,
        y_log=True, below=True,
    )  # fmt: skip
    panels = []
    if walls:
        slope = statistics.median(seconds / size for size, seconds in next(iter(walls.values())))
        panels.append(
            partial(against, walls, y_title="seconds, wall clock, log scale", y_text=seconds_text, slope=slope)
        )
    if memory:
        panels.append(partial(against, memory, y_title="peak memory (RSS), log scale", y_text=megabytes_text))
    canvas = Canvas(width, 0, "Time and memory against the photograph's size")
    side_by_side(canvas, panels)
    return canvas.svg() if panels else ""


def seconds_text(value: float) -> str:
    """Tick labels of seconds."""
    return tick_milliseconds(1000 * value)


def megabytes_text(value: float) -> str:
    """Tick labels of memory, from MB."""
    return f"{significant(value / 1000, 3)} GB" if value >= 1000 else f"{significant(value, 3)} MB"


def training(view: View, width: float) -> str:
    """Validation PSNR and loss over iterations, one line a log."""
    panels = []
    for column, title, digits in (("val_psnr", "validation PSNR, dB", 4), ("loss", "training loss", 3)):
        lines = {name: points for name in view.curves if len(points := view.curve(name, column)) > 1}
        if lines:
            panels.append(partial(
                named_lines, lines, x_title="iteration", y_title=title, x_text=thousands,
                y_text=partial(significant, digits=digits), marks=False, below=True, x_count=4,
            ))  # fmt: skip
    canvas = Canvas(width, 0, "Training curves")
    side_by_side(canvas, panels)
    return canvas.svg() if panels else ""


def thousands(value: float) -> str:
    """Tick labels of iterations: 150 000 as 150k."""
    return f"{significant(value / 1000, 3)}k" if value >= 1000 else f"{value:.0f}"
