"""How sharp pictures are, and how far from photographs: figures that need no truth.

    python benchmarks/naturalness.py --faces ffhq-train-0.tar results/ peers/

One row for each folder, and one for the photographs themselves:

sharpness   variance of the Laplacian of the grey picture, a known figure of focus (Pertuz et al. 2013, Pattern
            Recognition 46), as a multiple of the photographs' median. Grain and ringing count as sharp, so it says
            nothing without the next two.
NIQE        distance of the statistics of patches from those of photographs (Mittal et al. 2013, IEEE Signal Processing
            Letters 20(3)): lower is more natural. Fitted to the sharp patches of the faces given, not to the authors'
            pictures, so it compares with no published value; patches of all pictures of a folder make one distance.
peaks       energy of the spectrum at the multiples of an eighth of the sampling rate, over that beside them: grids of
            2, 4 and 8 pixels, which enlargement leaves (Zhang et al. 2019, arXiv 1907.06515), and JPEG's blocks. 1 is
            no grid.

All pictures should have one size, 512×512: restore them with --format png. Needs the core dependencies only.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import images
from bfsr_edge.errors import BfsrError, UsageError
from bfsr_edge.faceset import decode_face, find_faces

Array = npt.NDArray[np.float64]
SIDE = 512
PATCH = 96
SHARP = 0.75
"""Photographs' patches that are at least so sharp, of the sharpest in the picture, are fitted to (Mittal et al.)."""
SHAPES = np.arange(0.2, 10.0, 0.001)
GAMMAS = np.array([[math.lgamma(k / a) for k in (1, 2, 3)] for a in SHAPES])
RATIOS = np.exp(2 * GAMMAS[:, 1] - GAMMAS[:, 0] - GAMMAS[:, 2])
"""E²|x| / E x² of a generalised Gaussian of each shape: grows with it."""


def grey(pixels: npt.NDArray[np.uint8]) -> Array:
    """RGB, H×W×3 of 8 bits, to luma in 0 … 255."""
    return cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_RGB2GRAY).astype(np.float64)


def sharpness(picture: Array) -> float:
    """Variance of the Laplacian."""
    return float(cv2.Laplacian(picture, cv2.CV_64F).var())


def peaks(picture: Array, period: int = 8, inner: int = 3, outer: int = 12) -> float:
    """Mean energy within ``inner`` bins of the multiples of 1 / ``period``, over that within ``outer`` but outside."""
    height, width = (length // period * period for length in picture.shape)
    window = np.outer(np.hanning(height), np.hanning(width))
    detail = picture[:height, :width] - cv2.GaussianBlur(picture[:height, :width], (0, 0), period)
    power = np.abs(np.fft.fft2(detail * window)) ** 2
    found = []
    for down in range(period):
        for across in range(period):
            if max(min(down, period - down), min(across, period - across)) == 0:
                continue  # the mean of the picture
            rows = (down * height // period + np.arange(-outer, outer + 1)) % height
            columns = (across * width // period + np.arange(-outer, outer + 1)) % width
            here = power[np.ix_(rows, columns)]
            near = np.zeros_like(here, bool)
            near[outer - inner : outer + inner + 1, outer - inner : outer + inner + 1] = True
            found.append(here[near].mean() / here[~near].mean())
    return float(np.exp(np.mean(np.log(found))))


def normalised(picture: Array) -> tuple[Array, Array]:
    """Mean-subtracted, contrast-normalised coefficients, and the local deviation (Mittal et al., equations 1 to 3)."""
    mean = cv2.GaussianBlur(picture, (7, 7), 7 / 6)
    deviation = np.sqrt(np.maximum(cv2.GaussianBlur(picture * picture, (7, 7), 7 / 6) - mean * mean, 0))
    return (picture - mean) / (deviation + 1), deviation


def asymmetric(values: Array) -> tuple[float, float, float, float]:
    """Shape, mean, left and right scale of an asymmetric generalised Gaussian, by moments (equations 4 to 8)."""
    left = math.sqrt(np.mean(np.square(values[values < 0])) if (values < 0).any() else 1e-12)
    right = math.sqrt(np.mean(np.square(values[values > 0])) if (values > 0).any() else 1e-12)
    balance = left / right
    ratio = np.abs(values).mean() ** 2 / max(np.square(values).mean(), 1e-12)
    ratio *= (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    at = int(np.searchsorted(RATIOS, ratio).clip(0, len(SHAPES) - 1))
    one, two, three = GAMMAS[at]
    stretch = math.exp((one - three) / 2)
    left, right = left * stretch, right * stretch
    return float(SHAPES[at]), (right - left) * math.exp(two - one), left, right


def features(patch: Array) -> list[float]:
    """18 numbers of a patch of coefficients: its distribution, and those of the products of neighbours."""
    shape, _, left, right = asymmetric(patch)
    found = [shape, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        found += asymmetric(patch * np.roll(patch, (down, across), (0, 1)))
    return found


def patches(picture: Array) -> tuple[Array, Array]:
    """Features of all patches at two scales, N×36, and how sharp each patch is."""
    scales = []
    focus = np.empty(0)
    for side in (PATCH, PATCH // 2):
        coefficients, deviation = normalised(picture)
        rows, columns = (length // side for length in picture.shape)
        corners = [(y * side, x * side) for y in range(rows) for x in range(columns)]
        boxes = [np.s_[y : y + side, x : x + side] for y, x in corners]
        scales.append(np.array([features(coefficients[box]) for box in boxes]))
        focus = focus if len(focus) else np.array([deviation[box].mean() for box in boxes])
        half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
        picture = np.asarray(half, np.float64)
    return np.hstack(scales), focus


def distance(one: Array, other: Array) -> float:
    """Between the Gaussians of two sets of features, N×36 (equation 10)."""
    spread = (np.cov(one, rowvar=False) + np.cov(other, rowvar=False)) / 2
    apart = one.mean(0) - other.mean(0)
    return float(np.sqrt(apart @ np.linalg.pinv(spread) @ apart))


class Set:
    """What was measured of some pictures."""

    def __init__(self, pictures: Iterable[Array]) -> None:
        self.sharpness: list[float] = []
        self.peaks: list[float] = []
        every: list[Array] = []
        sharp: list[Array] = []
        for picture in pictures:
            if min(picture.shape) < 2 * PATCH:
                raise UsageError(f"pictures of at least {2 * PATCH} pixels a side are compared")
            self.sharpness.append(sharpness(picture))
            self.peaks.append(peaks(picture))
            found, focus = patches(picture)
            every.append(found)
            sharp.append(found[focus >= SHARP * focus.max()])
        self.patches, self.sharp = np.vstack(every), np.vstack(sharp)


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folders", nargs="+", type=Path, help="PNGs, 512×512")
    options.add_argument("--faces", required=True, help="folder or tar of photographs of faces, 512×512")
    options.add_argument("--count", type=int, default=200, help="of them taken (default: %(default)s)")
    given = options.parse_args(arguments)
    try:
        faces = find_faces((given.faces,))[: 2 * given.count]
        fitted = Set(grey(decode_face(face, SIDE)) for face in faces[::2])
        others = Set(grey(decode_face(face, SIDE)) for face in faces[1::2])
        usual = float(np.median(fitted.sharpness))
        sets = {"photographs": others}
        for folder in given.folders:
            paths = sorted(folder.glob("*.png"))
            if not paths:
                raise UsageError(f"there is no PNG in {folder}")
            sets[str(folder)] = Set(grey(np.asarray(images.read(path).pixels)) for path in paths)
    except BfsrError as error:
        print(f"naturalness: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{'pictures':<40} {'n':>4} {'sharpness':>9} {'NIQE':>6} {'peaks':>6}")
    for name, found in sets.items():
        figures = np.median(found.sharpness) / usual, distance(fitted.sharp, found.patches), np.median(found.peaks)
        print(f"{name[-40:]:<40} {len(found.peaks):>4} {figures[0]:>9.2f} {figures[1]:>6.2f} {figures[2]:>6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
