"""What `make demo` runs: restores the samples with each shipped network, prints what that gained, and draws a picture.

Needs the core dependencies only. Run with another Python, it shows that an installed wheel works.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bfsr_edge.metrics import psnr

Picture = NDArray[Any]
SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SIDE = 256  # of one picture in the sheet: four fill the width of a web page
LABEL = 36  # height of the line above a column
GAP = 8
WHITE = 255
SHARP = "edge-sharp"


def read(path: Path) -> Picture:
    """A picture as OpenCV has it, in BGR: nothing here depends on the order of colours."""
    picture = cv2.imread(str(path))
    if picture is None:
        sys.exit(f"demo: cannot read {path}")
    return picture


def bicubic(low: Picture, like: Picture) -> Picture:
    """What any viewer would show: the low-quality picture enlarged to the size of the truth."""
    height, width = like.shape[:2]
    return cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC)


def cell(picture: Picture) -> Picture:
    """A picture of any shape, centred on a white square."""
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    small = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    square = np.full((SIDE, SIDE, 3), WHITE, np.uint8)
    top, left = (SIDE - small.shape[0]) // 2, (SIDE - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def sheet(rows: list[tuple[Picture, ...]]) -> Picture:
    """Before, after by both networks, and truth side by side, a sample a row."""
    titles = ("before (bicubic)", "edge", SHARP, "truth")
    size = LABEL + len(rows) * (SIDE + GAP) - GAP, len(titles) * (SIDE + GAP) - GAP
    canvas = np.full((*size, 3), WHITE, np.uint8)
    for column, title in enumerate(titles):
        left = column * (SIDE + GAP)
        cv2.putText(canvas, title, (left + 4, LABEL - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (60, 60, 60), 1, cv2.LINE_AA)
        for row, pictures in enumerate(rows):
            top = LABEL + row * (SIDE + GAP)
            canvas[top : top + SIDE, left : left + SIDE] = cell(pictures[column])
    return canvas


def restore(samples: Path, out: Path, *more: str) -> float:
    """Runs the command as a user would; returns the seconds it took, start-up included."""
    # faces are not looked for: the samples are scored as a whole, and what finds faces is an extra
    command = [sys.executable, "-m", "bfsr_edge.cli", "restore", str(samples / "lq"), "--out", str(out)]
    command += ["--faces", "off", "--overwrite", *more]
    start = time.perf_counter()
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="folder with lq/ and gt/")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the restored pictures")
    arguments = parser.parse_args()

    seconds = restore(arguments.samples, arguments.out)
    restore(arguments.samples, arguments.out / SHARP, "--model", SHARP)
    rows: list[tuple[Picture, ...]] = []
    worse = []
    print(f"\n{'sample':<18}{'pixels':>14}{'bicubic':>12}{'restored':>12}{'gain':>11}")
    for path in sorted(arguments.samples.glob("lq/*.png")):
        truth, low, after = (
            read(folder / path.name) for folder in (arguments.samples / "gt", path.parent, arguments.out)
        )
        before = bicubic(low, truth)
        score_before, score_after = psnr(before, truth), psnr(after, truth)
        rows.append((before, after, read(arguments.out / SHARP / path.name), truth))
        if score_after <= score_before:
            worse.append(path.stem)
        size = f"{low.shape[1]}×{low.shape[0]} ×4"
        gain = score_after - score_before
        print(f"{path.stem:<18}{size:>14}{score_before:>9.2f} dB{score_after:>9.2f} dB{gain:>+8.2f} dB")

    picture = arguments.out / "before-after.png"
    cv2.imwrite(str(picture), sheet(rows))
    print(f"\nrestored {len(rows)} photographs in {seconds:.1f} s, start-up included")
    print(f"before, after, sharper ({SHARP}, not scored: it is for the eye) and truth side by side: {picture}")
    if worse:
        sys.exit(f"demo: no better than bicubic: {', '.join(worse)}")


if __name__ == "__main__":
    main()
