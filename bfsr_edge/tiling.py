"""Where tiles lie on a picture, and how their results become one picture again.

Knows nothing of files or networks: arrays in, arrays out. Tiles touch the picture's edges exactly, so a network sees
there what it would see in the whole picture; only sides that are no multiple of the stride, or shorter than a tile,
are continued by reflection. Inner tile edges are hidden: what a network with a small receptive field can have got wrong
near them is discarded, the rest is blended by a smooth ramp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import UsageError

Float = npt.NDArray[np.float32]

BAND = 64
"""Output rows handed over at a time; a multiple of every scale, so that bands can be reduced one by one."""
EDGE_SHARE = 8
"""Of what two tiles share, this part is discarded at either edge where the receptive field is too large to be."""


@dataclass(frozen=True)
class Axis:
    """The tiles along one side of the picture."""

    length: int
    """Of the picture, in input pixels."""
    tile: int
    """Length of a tile."""
    starts: tuple[int, ...]
    """Where tiles begin, ascending, multiples of the stride; the first is 0, the last ends at or behind the picture."""
    receptive_field: int
    """Radius of the network in input pixels, 0 where it is not known."""

    def weights(self, scale: int) -> list[Float]:
        """A weight for each output pixel of each tile; over all tiles they sum to 1 at each pixel of the picture."""
        position = (np.arange(self.tile * scale, dtype=np.float64) + 0.5) / scale
        weights = [np.ones(self.tile * scale) for _ in self.starts]
        for left in range(len(self.starts) - 1):
            shared = self.tile - (self.starts[left + 1] - self.starts[left])
            rise = _ramp(position, shared, self.receptive_field)
            weights[left + 1] *= rise
            weights[left] *= rise[::-1]
        total = np.zeros((self.starts[-1] + self.tile) * scale)
        for start, weight in zip(self.starts, weights, strict=True):
            total[start * scale : (start + self.tile) * scale] += weight
        return [
            (weight / total[start * scale : (start + self.tile) * scale]).astype(np.float32)
            for start, weight in zip(self.starts, weights, strict=True)
        ]


def _ramp(position: npt.NDArray[np.float64], shared: int, receptive_field: int) -> npt.NDArray[np.float64]:
    """0 at a tile's edge to 1 where its neighbour ends, smooth at both ends."""
    if not shared:
        return np.ones_like(position)
    exact = receptive_field > 0 and 2 * receptive_field < shared
    discard = receptive_field if exact else shared / EDGE_SHARE
    along = np.clip((position - discard) / (shared - 2 * discard), 0, 1)
    return np.asarray(along * along * (3 - 2 * along))


@dataclass(frozen=True)
class Plan:
    """The tiles of one picture, row by row from the top left."""

    rows: Axis
    """From top to bottom."""
    columns: Axis
    """From left to right."""

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self.rows.starts) * len(self.columns.starts)

    def positions(self) -> Iterator[tuple[int, int]]:
        """Top and left of each tile, in the order in which ``blend`` wants the results."""
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield top, left


def plan(
    height: int,
    width: int,
    *,
    tile: tuple[int, int],
    overlap: int,
    stride: int = 1,
    receptive_field: int = 0,
    offset: int = 0,
) -> Plan:
    """Lay tiles on a picture.

    Parameters
    ----------
    height, width
        Of the picture, at least 1.
    tile
        Height and width of a tile, multiples of the stride.
    overlap
        Context that a tile carries at each inner edge, in input pixels: neighbours share at least twice as much. A
        network whose receptive field (a radius) is below it gives exactly the result on the whole picture.
    stride
        Tiles begin at multiples of it.
    receptive_field
        Radius of the network in input pixels, 0 where it is not known.
    offset
        Moves the inner tile edges by that many pixels, a multiple of the stride. For comparing two tilings.

    Raises
    ------
    UsageError
        The tile is no multiple of the stride, or the overlap leaves nothing of it (where more than one is needed).
    """
    if height < 1 or width < 1:
        raise UsageError(f"a picture of {width}×{height} pixels has no tiles")
    cut_sides = [side for side, length in zip(tile, (height, width), strict=True) if length > side]
    if overlap < 0 or any(side - 2 * overlap < stride for side in cut_sides):
        raise UsageError(
            f"an overlap of {overlap} leaves nothing of a tile of {tile[1]}×{tile[0]}",
            why=("each tile gives up the overlap at both of its edges",),
            fix=f"use an overlap of 0 to {(min(tile) - stride) // 2}, or a larger tile",
        )
    if any(side % stride for side in tile) or offset % stride or offset < 0:
        raise UsageError(f"tile {tile[1]}×{tile[0]} and offset {offset} must be multiples of the stride, {stride}")

    def axis(length: int, side: int) -> Axis:
        step = max(stride, (side - 2 * overlap) // stride * stride)
        return Axis(length, side, _starts(length, side, step, stride, offset), receptive_field)

    return Plan(axis(height, tile[0]), axis(width, tile[1]))


def _starts(length: int, tile: int, step: int, stride: int, offset: int) -> tuple[int, ...]:
    """Evenly spaced, at most ``step`` apart: what the last tile would have too much is shared by all."""
    last = max(0, -(-length // stride) * stride - tile)
    intervals = -(-last // step)
    even = [stride * (number * (last // stride) // intervals) for number in range(1, intervals)]
    shift = offset % step
    moved = [start + shift for start in ([0, *even] if shift else even)]
    return tuple(sorted({0, last, *(start for start in moved if start < last)}))


def cut(image: npt.NDArray[Any], plan: Plan, top: int, left: int) -> npt.NDArray[Any]:
    """One tile of an H×W×C picture, continued by reflection where the picture ends; a view where it does not."""
    tile = image[top : top + plan.rows.tile, left : left + plan.columns.tile]
    below, right = plan.rows.tile - tile.shape[0], plan.columns.tile - tile.shape[1]
    return np.pad(tile, ((0, below), (0, right), (0, 0)), mode="reflect") if below or right else tile


def blend(plan: Plan, results: Iterable[Float], scale: int) -> Iterator[Float]:
    """Put results together, from top to bottom.

    Parameters
    ----------
    plan
        Where the tiles lie.
    results
        For each of ``plan.positions()`` a C×(scale·tile height)×(scale·tile width) array, which is overwritten.
    scale
        Output pixels per input pixel.

    Yields
    ------
    numpy.ndarray
        C×n×(scale·width), n at most ``BAND``, as soon as no later tile can change these rows. Valid until the next is
        asked for. One row of tiles is held, whatever the height of the picture.
    """
    rows, columns = plan.rows, plan.columns
    across, down = columns.weights(scale), rows.weights(scale)
    width = columns.length * scale
    held: Float | None = None
    carried = 0  # rows of it that the row of tiles above has written to
    iterator = iter(results)
    for index, top in enumerate(rows.starts):
        filled = 0  # columns of the others that a tile of this row has written to
        for left, weight in zip(columns.starts, across, strict=True):
            result = next(iterator)
            if held is None:
                held = np.empty((result.shape[0], rows.tile * scale, width), np.float32)
            _weigh(result, weight)
            _weigh(result.swapaxes(1, 2), down[index])
            first = left * scale
            last = min(first + result.shape[2], width)
            shared = filled - first
            held[:, :carried, first:last] += result[:, :carried, : last - first]
            held[:, carried:, first:filled] += result[:, carried:, :shared]
            held[:, carried:, filled:last] = result[:, carried:, shared : last - first]
            filled = last
        assert held is not None
        end = rows.starts[index + 1] if index + 1 < len(rows.starts) else rows.length
        done = (end - top) * scale
        for start in range(0, done, BAND):
            yield held[:, start : min(done, start + BAND)]
        carried = held.shape[1] - done
        held[:, :carried] = held[:, done:]


def _weigh(result: Float, weight: Float) -> None:
    """Multiply the last axis by a weight, in place; the middle of a tile has a weight of 1 and is left alone."""
    other = np.flatnonzero(weight != 1)
    if not len(other):
        return
    gap = int(np.argmax(np.diff(other, prepend=-1, append=len(weight))))
    begin = int(other[gap - 1]) + 1 if gap else 0
    end = int(other[gap]) if gap < len(other) else len(weight)
    result[..., :begin] *= weight[:begin]
    result[..., end:] *= weight[end:]
