"""Pictures side by side, with labels: what a person looks at to judge a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

SIDE = 384
"""Longest side of a picture in the sheet, in pixels, where nothing else is asked for."""
LABEL = 32
"""Height of a line of text."""
GAP = 8
WHITE = 255
INK = (40, 40, 40)


@dataclass(frozen=True)
class Row:
    """Pictures that belong together."""

    caption: str
    """Written above them."""
    pictures: tuple[Pixels, ...]
    """uint8 H×W×3 RGB, of any sizes but one shape: each is fitted to the same cell."""


def draw(titles: Sequence[str], rows: Sequence[Row], side: int = SIDE) -> Pixels:
    """A white sheet: the titles above the columns, a caption above each row. RGB; ``side`` is a picture's longest.

    Small pictures are enlarged by nearest neighbour, so that what a network was given can be seen; large ones are
    reduced by area. Text outside ASCII shows as question marks, as OpenCV's fonts hold nothing else.
    """
    heights = [max(_fitted(picture, side)[1] for picture in row.pictures) for row in rows]
    width = len(titles) * (side + GAP) + GAP
    sheet = np.full((LABEL + sum(LABEL + height + GAP for height in heights), width, 3), WHITE, np.uint8)
    for column, title in enumerate(titles):
        _write(sheet, title, GAP + column * (side + GAP), 0)
    top = LABEL
    for row, height in zip(rows, heights, strict=True):
        _write(sheet, row.caption, GAP, top)
        top += LABEL
        for column, picture in enumerate(row.pictures):
            cell = _resize(picture, side)
            left = GAP + column * (side + GAP)
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        top += height + GAP
    return sheet


def _fitted(picture: Pixels, side: int) -> tuple[int, int]:
    """Width and height of the picture in its cell."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _resize(picture: Pixels, side: int) -> Pixels:
    import cv2

    small = max(picture.shape[:2]) < side
    how = cv2.INTER_NEAREST if small else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, _fitted(picture, side), interpolation=how), np.uint8)


def _write(sheet: Pixels, text: str, left: int, top: int) -> None:
    import cv2

    plain = text.encode("ascii", "replace").decode()
    cv2.putText(sheet, plain, (left, top + LABEL - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
