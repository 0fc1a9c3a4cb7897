"""Drawing plots as SVG text: a canvas that takes only finite numbers, axes with ticks, labels that avoid each other.

Coordinates are in pixels of the SVG, y grows downwards. Colours are classes, never values: the page decides what they
are in light and in dark (``STYLE``), and a plot that stands alone carries that style with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

SERIES = 7
"""Colours that lines can have: ``s0`` to ``s6``, after Okabe and Ito, told apart by colour-blind readers too."""
# width of an average character in em: rather too wide than labels that touch
EM = 0.6

_LIGHT = (
    "--ink:#1b1f24;--soft:#5c6570;--grid:#e3e6ea;--axis:#9aa3ad;--paper:#ffffff;--band:#0072b214;"
    "--s0:#0072b2;--s1:#d55e00;--s2:#00875f;--s3:#b0528a;--s4:#b87800;--s5:#3a8fc4;--s6:#6b7280"
)
_DARK = (
    "--ink:#e8eaed;--soft:#a3acb7;--grid:#2d333b;--axis:#616b77;--paper:#15181c;--band:#56b4e91c;"
    "--s0:#56b4e9;--s1:#f2803a;--s2:#2fc49a;--s3:#e29bc4;--s4:#f0b840;--s5:#9cd3f5;--s6:#9aa3ad"
)
COLOURS = f":root{{{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
"""Custom properties of both schemes, on ``:root``."""
STYLE = (
    "svg.plot{display:block;width:100%;height:auto;font-family:system-ui,-apple-system,'Segoe UI',Roboto,"
    "'Helvetica Neue',Arial,sans-serif}"
    ".plot text{fill:var(--ink);font-size:12px}.plot .soft{fill:var(--soft)}.plot .small{font-size:11px}"
    ".plot .bold{font-weight:600}"
    ".plot .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}"
    ".plot .grid{stroke:var(--grid);stroke-width:1}.plot .axis{stroke:var(--axis);stroke-width:1}"
    ".plot .lead{stroke:var(--axis);stroke-width:.8}.plot .guide{stroke:var(--soft);stroke-dasharray:2 4;fill:none}"
    ".plot .front{fill:none;stroke:var(--soft);stroke-width:1.5;stroke-dasharray:6 4}"
    ".plot .front-area{fill:var(--band);stroke:none}.plot .paper{fill:var(--paper)}"
    ".plot .mark{stroke:var(--paper);stroke-width:1.5}.plot .line{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".plot .dashed{stroke-dasharray:7 4}.plot .dot{fill-opacity:.5}"
    ".plot .box{fill-opacity:.22}.plot .whisker{stroke-width:1.2}"
    ".plot .median{stroke-width:2.5}"
    + "".join(
        f".plot .f{n}{{fill:var(--s{n})}}.plot .k{n}{{stroke:var(--s{n})}}.plot text.f{n}{{fill:var(--s{n})}}"
        for n in range(SERIES)
    )
)
"""What the classes mean; needs ``COLOURS``."""


def number(value: float) -> str:
    """A coordinate with a tenth of a pixel.

    Raises
    ------
    ValueError
        NaN or infinite: such a path would silently draw nothing.
    """
    if not math.isfinite(value):
        raise ValueError(f"a coordinate is {value}")
    return f"{value:.1f}".removesuffix(".0")


def text_width(text: str, size: float = 12) -> float:
    """About how wide a text is, in pixels."""
    return EM * size * len(text)


@dataclass
class Canvas:
    """Collects shapes; ``svg`` gives the text. Later shapes lie above earlier ones."""

    width: float
    """In pixels."""
    height: float
    """In pixels; may be set until ``svg`` is called."""
    title: str
    """What screen readers say."""
    shapes: list[str] = field(default_factory=list)
    """SVG elements so far."""

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        ends = " ".join(f'{n}="{number(v)}"' for n, v in zip(("x1", "y1", "x2", "y2"), (x1, y1, x2, y2), strict=True))
        self.shapes.append(f'<line {ends} class="{css}"/>')

    def path(self, points: Iterable[tuple[float, float]], css: str, *, closed: bool = False, tip: str = "") -> None:
        """A line through points, or the area inside them."""
        steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        if steps:
            self._add("path", f'd="M{steps}{"Z" if closed else ""}" class="{css}"', tip)

    def rect(
        self, x: float, y: float, width: float, height: float, css: str, *, round_: float = 0, tip: str = ""
    ) -> None:
        """A rectangle; width and height below zero are an error of the caller."""
        corners = f' rx="{number(round_)}"' if round_ else ""
        size = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"{corners}'
        self._add("rect", f'{size} class="{css}"', tip)

    def circle(self, x: float, y: float, radius: float, css: str, *, tip: str = "") -> None:
        """A dot, with a tooltip."""
        self._add("circle", f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" class="{css}"', tip)

    def mark(self, x: float, y: float, shape: str, css: str, *, size: float = 6, tip: str = "") -> None:
        """A "circle", "square" or "triangle" of the same weight."""
        if shape == "circle":
            self.circle(x, y, size, css, tip=tip)
        elif shape == "square":
            half = size * 0.9
            self.rect(x - half, y - half, 2 * half, 2 * half, css, round_=1, tip=tip)
        else:
            tall = size * 1.15
            self.path(
                [(x, y - tall), (x + tall, y + 0.8 * tall), (x - tall, y + 0.8 * tall)], css, closed=True, tip=tip
            )

    def text(self, x: float, y: float, text: str, css: str = "", *, anchor: str = "start") -> None:
        """A line of text; y is its baseline."""
        ends = "" if anchor == "start" else f' text-anchor="{anchor}"'
        kind = f' class="{css}"' if css else ""
        self.shapes.append(f'<text x="{number(x)}" y="{number(y)}"{kind}{ends}>{escape(text)}</text>')

    def svg(self, *, alone: bool = False) -> str:
        """The element; ``alone`` makes a file of its own, with background and colours of both schemes."""
        size = f'viewBox="0 0 {number(self.width)} {number(self.height)}"'
        label = escape(self.title, {'"': "&quot;"})
        if not alone:
            return f'<svg class="plot" {size} role="img" aria-label="{label}">{"".join(self.shapes)}</svg>\n'
        start = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" {size} width="{number(self.width)}" '
            f'height="{number(self.height)}" role="img" aria-label="{label}">'
        )
        paper = f'<rect width="{number(self.width)}" height="{number(self.height)}" rx="8" class="paper"/>'
        return "\n".join((start, f"<style>{COLOURS}{STYLE}</style>", paper, *self.shapes, "</svg>", ""))

    def _add(self, tag: str, attributes: str, tip: str) -> None:
        inner = f"><title>{escape(tip)}</title></{tag}>" if tip else "/>"
        self.shapes.append(f"<{tag} {attributes}{inner}")


@dataclass(frozen=True)
class Axis:
    """Values to pixels, linear or logarithmic."""

    low: float
    """The value at ``start``."""
    high: float
    """The value at ``end``, above ``low``."""
    start: float
    """In pixels."""
    end: float
    """In pixels; may be below ``start``, as on an axis that points upwards."""
    log: bool = False
    """Equal ratios take equal room; both values are then above zero."""

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside, about ``count`` of them: 1, 2, 5 times powers of ten."""
        if self.log and self.high / self.low > 8:
            return self._log_ticks(count)
        step = nice_step((self.high - self.low) / max(count, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(place * step, 10) for place in range(first, last + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found: list[float] = []
        for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
            inside = [
                s * 10.0**d for d in decades for s in steps if self.low * 0.999 <= s * 10.0**d <= self.high * 1.001
            ]
            if found and len(inside) > count:
                break
            found = inside
            if len(found) >= max(3, count // 2):
                break
        return found


def nice_step(rough: float) -> float:
    """The 1, 2 or 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)


def linear_axis(
    values: Sequence[float], start: float, end: float, *, pad: float = 0.06, least: float = 0.0, zero: bool = False
) -> Axis:
    """An axis that holds all values with room at both ends.

    Parameters
    ----------
    values
        At least one, finite.
    start, end
        In pixels.
    pad
        Room at either end, as a share of the values' range.
    least
        The smallest range, where the values are closer together or equal.
    zero
        Whether the axis begins at zero where all values are positive.
    """
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if (span := high - low) < least or span == 0:
        middle, span = (low + high) / 2, max(least, abs(high) * 0.1, 1e-9)
        low, high = middle - span / 2, middle + span / 2
    return Axis(low if zero and low == 0 else low - pad * span, high + pad * span, start, end)


def log_axis(values: Sequence[float], start: float, end: float, *, pad: float = 0.06) -> Axis:
    """The same on a logarithmic axis; values are above zero."""
    low, high = min(values), max(values)
    if high / low < 2:
        low, high = low / 1.5, high * 1.5
    factor = (high / low) ** pad
    return Axis(low / factor, high * factor, start, end, log=True)


@dataclass(frozen=True)
class Box:
    """A rectangle that labels keep clear of."""

    x: float
    """Left."""
    y: float
    """Top."""
    width: float
    """To the right."""
    height: float
    """Downwards."""

    def overlap(self, other: Box) -> float:
        """The area that both cover, in square pixels."""
        wide = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        tall = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, wide) * max(0.0, tall)


def place_labels(
    canvas: Canvas,
    inside: Box,
    points: Sequence[tuple[float, float, str, str]],
    *,
    clear_of: Sequence[Box] = (),
    radius: float = 6,
) -> None:
    """Write each point's text near it where it covers least: no label, no point, no border.

    Parameters
    ----------
    canvas
        Gets texts, and a thin line where a text stands away from its point.
    inside
        Where texts may stand.
    points
        Each as x, y, text and class.
    clear_of
        What else they should not cover, such as lines.
    radius
        Of the marks at the points.
    """
    taken = [*clear_of, *(Box(x - radius, y - radius, 2 * radius, 2 * radius) for x, y, _, _ in points)]
    height = 15.0
    # what matters most chooses first; of the others the most crowded would find no room: begin at the outside
    for x, y, text, css in sorted(points, key=lambda point: ("bold" not in point[3], point[1], point[0])):
        width = text_width(text) * (1.1 if "bold" in css else 1)
        best: tuple[float, Box, float] | None = None
        for away in (4.0, 12.0, 22.0, 34.0, 48.0, 64.0):
            reach = radius + away
            for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7)):
                left = x + dx * reach - (0 if dx > 0 else width if dx < 0 else width / 2)
                top = y + dy * reach - (height / 2 if abs(dy) < 0.1 else height if dy < 0 else 0)
                box = Box(left, top, width, height)
                outside = box.width * box.height - box.overlap(inside)
                cost = 4 * outside + 3 * sum(box.overlap(other) for other in taken) + 1.5 * away + (3 if dx < 0 else 0)
                if best is None or cost < best[0]:
                    best = (cost, box, away)
        assert best is not None
        _, box, away = best
        taken.append(box)
        if away > 12:
            near_x = min(max(x, box.x), box.x + box.width)
            near_y = min(max(y, box.y), box.y + box.height)
            canvas.line(x, y, near_x, near_y, "lead")
        canvas.text(box.x, box.y + height - 4, text, f"{css} halo".strip())


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to the wanted ones as a distance of ``gap`` allows, in the given order, between two limits."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    groups: list[tuple[float, list[int]]] = []  # centre, members: groups that touch become one
    for member in order:
        groups.append((wanted[member], [member]))
        while len(groups) > 1:
            (first, many), (second, more) = groups[-2:]
            if second - first >= gap * (len(many) + len(more)) / 2:
                break
            joined = many + more
            groups[-2:] = [((first * len(many) + second * len(more)) / len(joined), joined)]
    placed = [0.0] * len(wanted)
    for centre, members in groups:
        half = gap * (len(members) - 1) / 2
        centre = min(max(centre, low + half), max(high - half, low + half))
        for step, member in enumerate(members):
            placed[member] = centre - half + step * gap
    return placed


def frame(
    canvas: Canvas,
    x: Axis,
    y: Axis,
    *,
    x_title: str,
    y_title: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_ticks: Sequence[float] = (),
    x_count: int = 6,
) -> None:
    """Grid, tick labels and titles: the title of y stands above the axis, where it can be read without turning.

    ``x_ticks`` says where the ticks of x are; without it they are about ``x_count`` round values.
    """
    left, right, bottom, top = x.start, x.end, y.start, y.end
    for value in y.ticks(8):
        canvas.line(left, y.at(value), right, y.at(value), "grid")
        canvas.text(left - 7, y.at(value) + 4, y_text(value), "soft", anchor="end")
    for value in x_ticks or x.ticks(x_count):
        canvas.line(x.at(value), top, x.at(value), bottom, "grid")
        canvas.text(x.at(value), bottom + 18, x_text(value), "soft", anchor="middle")
    canvas.line(left, bottom, right, bottom, "axis")
    canvas.text(right, bottom + 37, x_title, "soft", anchor="end")
    canvas.text(max(left - 40, 2), top - 12, y_title, "soft")
