"""Draw train/edge-curves.png: validation PSNR against the faces seen, a line for each part of train/edge-curves.csv.

python tools/draw_curves.py                                   # after a new part was appended to the CSV
python tools/draw_curves.py --append "4: Muon" runs/edge-finetune/log.csv --after 99000
"""

from __future__ import annotations

import argparse
import csv
from itertools import groupby
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).resolve().parent.parent / "train"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--append", nargs=2, metavar=("PART", "LOG"), help="first add a run's log.csv under that name")
    parser.add_argument("--after", type=int, default=0, help="faces seen before that run; default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="faces a step of that run; default: %(default)s")
    options = parser.parse_args()
    path = FOLDER / "edge-curves.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if options.append:
        part, log = options.append
        with open(log, newline="", encoding="utf-8") as file:
            scored = [row for row in csv.DictReader(file) if row["val_psnr"]]
        for row in scored:
            faces = options.after + int(row["iteration"]) * options.batch
            rows.append({"part": part, "faces": str(faces), "val_psnr": f"{float(row['val_psnr']):.3f}"})
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["part", "faces", "val_psnr"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for part, points in groupby(rows, key=lambda row: row["part"]):
        line = [(int(point["faces"]) / 1000, float(point["val_psnr"])) for point in points]
        axes.plot(*zip(*line, strict=True), marker="o", markersize=3, label=part)
    axes.set(xlabel="faces seen, in thousands", ylabel="mean RGB PSNR of 100 faces, dB")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(FOLDER / "edge-curves.png", dpi=90)


if __name__ == "__main__":
    main()
