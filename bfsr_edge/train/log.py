"""What a run writes down as it goes: log.csv, TensorBoard, faces.png, and curves.png drawn from log.csv."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bfsr_edge.files import replace
from bfsr_edge.train.board import Board

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("iteration", "seconds", "rate", "loss", "faces_per_second", "val_psnr")
"""Of every log.csv; adversarial training adds one for each of its losses behind them."""
SIDE, BOARD_SIDE = 512, 256
"""Side of a picture in faces.png and in TensorBoard, in pixels."""
BOARD_PICTURES = 40
"""Sheets that TensorBoard gets over a whole run: its files keep every one, and it shows ten."""


class Log:
    """Appends rows; on a resumed run first drops the rows behind the resume state, which will come again.

    Parameters
    ----------
    folder
        Of the run; gets ``log.csv``, ``curves.png``, ``faces.png`` and TensorBoard's event files.
    iteration
        Where the run goes on; 0 for a new one.

    Raises
    ------
    OSError
        From every method: the disk cannot be written to.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        self.path = folder / "log.csv"
        rows = [row for row in read_log(self.path) if int(row["iteration"]) <= iteration] if iteration else []
        self._rewrite(list(rows[0]) if rows else list(COLUMNS), rows)
        self._board = Board(folder, iteration)

    def write(self, iteration: int, seconds: float, row: dict[str, float]) -> None:
        """Append one row; missing columns stay empty, new ones are added. A validation draws the curves anew."""
        new = [key for key in row if key not in self._columns]
        if new:
            self._rewrite([*self._columns, *new], [{**dict.fromkeys(new, ""), **old} for old in read_log(self.path)])
        values = {key: f"{value:.6g}" for key, value in row.items()}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writerow({"iteration": iteration, "seconds": f"{seconds:.1f}", **values})
        self._board.scalars(iteration, row)
        if "val_psnr" in row:
            draw_curves(self.path, self.path.with_name("curves.png"))

    def picture(self, iteration: int, draw: Callable[[int], NDArray[np.uint8]], *, on_board: bool) -> None:
        """Replace faces.png by what ``draw(side)`` gives for pictures of that side, RGB; TensorBoard gets a JPEG."""
        import cv2

        encoded = cv2.imencode(".png", draw(SIDE)[:, :, ::-1])[1]
        replace(self.path.with_name("faces.png"), encoded.tobytes())
        if on_board:
            sheet = draw(BOARD_SIDE)
            encoded = cv2.imencode(".jpg", sheet[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            self._board.picture(iteration, "faces", encoded.tobytes(), *sheet.shape[:2])

    def sync(self) -> None:
        """The rows are on the disk before a state that counts on them."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """End TensorBoard's file."""
        self._board.close()

    def _rewrite(self, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        replace(self.path, text.getvalue().encode())
        self._columns = list(columns)


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv, none where there is no such file. A row that a kill or a full disk cut off is left out."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        text = file.read()
    whole = io.StringIO(text[: text.rfind("\n") + 1], newline="")
    return [row for row in csv.DictReader(whole) if None not in row.values() and row["iteration"].isdecimal()]


def draw_curves(log: Path, picture: Path) -> None:
    """Loss, learning rate and validation PSNR over iterations, from ``log`` to a PNG, replaced in one step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(log)
    figure = Figure(figsize=(13, 3.6))
    figure.subplots_adjust(0.06, 0.14, 0.98, 0.9, 0.45)  # matplotlib's own layout takes as long as the rest
    FigureCanvasAgg(figure)
    panels = (("loss", "loss"), ("rate", "learning rate"), ("val_psnr", "validation PSNR, dB"))
    for place, (key, title) in enumerate(panels, 1):
        points = [(int(row["iteration"]), float(row[key])) for row in rows if row[key]]
        axes = figure.add_subplot(1, len(panels), place)
        axes.set_xlabel("iteration")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        # the PSNR loss is negative: a run that ends with it gets a second axis
        negative = [point for point in points if point[1] < 0]
        _line(axes, [point for point in points if point[1] >= 0], "C0")
        if negative:
            right = axes.twinx()
            right.set_ylabel("PSNR loss: minus a tenth of the dB", color="C1")
            _line(right, negative, "C1")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    replace(picture, drawn.getvalue())


def _line(axes: Axes, points: list[tuple[int, float]], colour: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, marker="o" if len(points) < 30 else "", linewidth=1.5)
