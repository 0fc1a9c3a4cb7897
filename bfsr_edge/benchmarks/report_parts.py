"""What the plots share: sizes, the look of the kinds of engines, lines with names, panels side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from bfsr_edge.benchmarks.report_svg import SERIES, Canvas, frame, linear_axis, log_axis, spread, text_width
from bfsr_edge.benchmarks.results import EngineRow

WIDE, NARROW = 860, 380
"""Widths in pixels, for a desk and for a phone."""
PHONE = 560
"""Narrower plots are for a phone."""
SHAPES = {"ours": "circle", "peer": "square", "baseline": "triangle"}
COLOURS = {"ours": 0, "peer": 1, "baseline": 6}
KINDS = {"ours": "bfsr-edge", "peer": "peers", "baseline": "interpolation"}


def kind_class(engine: EngineRow) -> int:
    """The colour of an engine's kind."""
    return COLOURS.get(engine.kind, 6)


def kinds_legend(canvas: Canvas, kinds: Sequence[str], right: float, y: float) -> None:
    """Which shape and colour is what, in one line that ends at ``right``."""
    place = right
    for kind in reversed([kind for kind in SHAPES if kind in kinds]):
        place -= text_width(KINDS[kind])
        canvas.text(place, y + 4, KINDS[kind])
        canvas.mark(place - 11, y, SHAPES[kind], f"mark f{COLOURS[kind]}", size=5)
        place -= 32


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest ranks, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def named_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    width: float,
    *,
    title: str = "",
    x_title: str,
    y_title: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_log: bool = False,
    y_log: bool = False,
    x_ticks: Sequence[float] = (),
    x_count: int = 6,
    slope: float | None = None,
    marks: bool = True,
    below: bool = False,
) -> str:
    """Lines with their names at their ends, or in a list ``below`` the plot.

    ``slope`` draws y = slope · x, which on two logarithmic axes is the line of linear cost.
    """
    phone = width < PHONE
    below = below or phone
    names = list(lines)
    left, top = 58.0, 38.0
    right = width - 18 if below else width - 30 - max(text_width(name) for name in names)
    bottom = top + (230 if phone else 300)
    canvas = Canvas(width, bottom + 46, title)
    every_x = [x for points in lines.values() for x, _ in points]
    every_y = [y for points in lines.values() for _, y in points]
    x = log_axis(every_x, left, right, pad=0.04) if x_log else linear_axis(every_x, left, right, pad=0.02)
    y = log_axis(every_y, bottom, top) if y_log else linear_axis(every_y, bottom, top, pad=0.08)
    frame(
        canvas, x, y, x_title=x_title, y_title=y_title, x_text=x_text, y_text=y_text, x_ticks=x_ticks, x_count=x_count
    )
    if slope:
        ends = [max(x.low, y.low / slope), min(x.high, y.high / slope)]
        if ends[0] < ends[1]:
            canvas.path([(x.at(end), y.at(slope * end)) for end in ends], "guide")
            near = ends[0] * (ends[1] / ends[0]) ** 0.72
            canvas.text(x.at(near) + 10, y.at(slope * near) + 18, "linear cost", "small soft")
    lasts = []
    for place, (name, points) in enumerate(lines.items()):
        colour = place % SERIES
        ordered = sorted(points)
        drawn = [(x.at(a), y.at(b)) for a, b in ordered]
        canvas.path(drawn, f"line k{colour}{_again(place)}", tip=name)
        if marks:
            for (a, b), (px, py) in zip(ordered, drawn, strict=True):
                canvas.circle(px, py, 4, f"mark f{colour}", tip=f"{name}: {x_text(a)}, {y_text(b)}")
        lasts.append(drawn[-1][1])
    if below:
        for place, name in enumerate(names):
            line = canvas.height + 18 * place + 6
            canvas.line(left - 40, line - 4, left - 20, line - 4, f"line k{place % SERIES}{_again(place)}")
            canvas.text(left - 12, line, name, "small")
        canvas.height += 18 * len(names) + 4
    else:
        for place, (name, y_end) in enumerate(zip(names, spread(lasts, 16, top, bottom), strict=True)):
            end = x.at(max(a for a, _ in lines[name]))
            if abs(y_end - lasts[place]) > 4 or right - end > 14:
                canvas.line(end + 5, lasts[place], right + 10, y_end, "lead")
            canvas.text(right + 13, y_end + 4, name, f"f{place % SERIES}")
    return canvas.svg()


def _again(place: int) -> str:
    """The class of lines whose colour was taken before: they are dashed."""
    return " dashed" if place >= SERIES else ""


def side_by_side(canvas: Canvas, panels: Sequence[Callable[[float], str]]) -> None:
    """Two drawings beside each other, on a phone below each other; each is a function from a width to its SVG."""
    phone, gap = canvas.width < PHONE, 24
    width = canvas.width if phone or len(panels) == 1 else (canvas.width - gap) / 2
    for place, panel in enumerate(panels):
        drawn = panel(width)
        height = float(drawn.split('viewBox="0 0 ')[1].split('"')[0].split()[1])
        x, y = (0.0, canvas.height) if phone else (place * (width + gap), 0.0)
        inner = drawn[drawn.index(">") + 1 : drawn.rindex("</svg>")]
        canvas.shapes.append(f'<g transform="translate({x:.0f} {y:.0f})">{inner}</g>')
        canvas.height = max(canvas.height, y + height)
