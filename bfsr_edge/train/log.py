"""log.csv: one row every few iterations, whole after an interruption."""

from __future__ import annotations

import csv
from pathlib import Path

COLUMNS = ("iteration", "seconds", "rate", "loss", "faces_per_second", "val_psnr")


class CsvLog:
    """Appends rows; on a resumed run first drops the rows behind the resume state, which will come again."""

    def __init__(self, path: Path, iteration: int) -> None:
        self.path = path
        rows: list[dict[str, str]] = []
        if path.is_file() and iteration:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["iteration"]) <= iteration]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, iteration: int, seconds: float, row: dict[str, float]) -> None:
        """Append one row; missing columns stay empty."""
        values = {key: f"{value:.6g}" for key, value in row.items()}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({"iteration": iteration, "seconds": f"{seconds:.1f}", **values})
