"""What a run writes down as it goes: log.csv, TensorBoard scalars, and curves.png drawn from log.csv."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("iteration", "seconds", "rate", "loss", "faces_per_second", "val_psnr")


class Log:
    """Appends rows; on a resumed run first drops the rows behind the resume state, which will come again.

    Parameters
    ----------
    folder
        Of the run; gets ``log.csv``, ``curves.png`` and TensorBoard's event files.
    iteration
        Where the run goes on; 0 for a new one.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        self.path = folder / "log.csv"
        rows = [row for row in read_log(self.path) if int(row["iteration"]) <= iteration] if iteration else []
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self._board = _tensorboard(folder, iteration)

    def write(self, iteration: int, seconds: float, row: dict[str, float]) -> None:
        """Append one row; missing columns stay empty. A row with a validation score draws the curves anew."""
        values = {key: f"{value:.6g}" for key, value in row.items()}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({"iteration": iteration, "seconds": f"{seconds:.1f}", **values})
        for key, value in row.items():
            self._board.add_scalar(key, value, iteration)
        if "val_psnr" in row:
            self._board.flush()
            draw_curves(self.path, self.path.with_name("curves.png"))

    def close(self) -> None:
        """End TensorBoard's file."""
        self._board.close()


def _tensorboard(folder: Path, iteration: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=iteration + 1 if iteration else None)


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv, none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_curves(log: Path, picture: Path) -> None:
    """Loss, learning rate and validation PSNR over iterations, from ``log`` to a PNG, replaced in one step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(log)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
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
    temporary = picture.with_name(f".{picture.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=110)
        os.replace(temporary, picture)
    finally:
        temporary.unlink(missing_ok=True)


def _line(axes: Axes, points: list[tuple[int, float]], colour: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, marker="o" if len(points) < 30 else "", linewidth=1.5)
