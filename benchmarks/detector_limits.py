"""How turned, small, hidden or dark a face may be so that ``bfsr_edge.detect`` still finds it.

    python benchmarks/detector_limits.py --faces GT            # 100 aligned faces, some minutes
    python benchmarks/detector_limits.py --faces GT --count 20
    python benchmarks/detector_limits.py --faces samples/gt --only turned --only small

Each aligned face (FFHQ's frame) is put into a made-up photograph, its own blurred colours around it, and changed in one
way. A face counts as found when a box lies where the same face lies in the unchanged frame; every other box is false.
``landmarks`` is how far the five points are from those of the unchanged frame, in parts of the distance of the eyes:
above some 0.15 a face is aligned badly. docs/faces.md holds what came out.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import images
from bfsr_edge.detect import Detector, Face
from bfsr_edge.runtime import machine

Pixels = npt.NDArray[np.uint8]
FRAME = 512
"""Side of an aligned face in pixels."""
CANVAS = 512
"""Side of the made-up photograph."""
FACE = 100.0
"""Size of the face's box in it, in pixels, unless the size is what is changed."""
NEAR = 0.5
FEATHER = 0.12
"""Part of the frame's radius over which it fades into what is around it."""


@dataclass(frozen=True)
class Scene:
    """One face in one made-up photograph."""

    pixels: Pixels
    box: npt.NDArray[np.float64]
    """Centre x, y and size of the face in it."""
    landmarks: npt.NDArray[np.float64]
    """5×2."""


@dataclass
class Tally:
    """What became of the faces under one condition."""

    faces: int = 0
    found: int = 0
    false: int = 0
    landmarks: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        distance = f"{statistics.median(self.landmarks):.3f}" if self.landmarks else ""
        return f"| {name} | {100 * self.found / self.faces:.0f} % | {self.false} | {distance} |"


Condition = Callable[[Pixels, Face], Scene]
"""The aligned face and where it is in its frame, to a scene."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--faces", type=Path, required=True, help="folder of aligned faces")
    parser.add_argument("--count", type=int, default=100, help="so many of them; default: %(default)s")
    parser.add_argument("--only", action="append", help="only conditions whose name begins so; may be repeated")
    options = parser.parse_args()
    detector = Detector()
    faces = list(aligned(options.faces, options.count, detector))
    if not faces:
        parser.error(f"no aligned face was found in {options.faces}")
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    print(
        f"{today}, {len(faces)} faces of {options.faces}, {machine.cores()} cores, Python {platform.python_version()}\n"
    )
    print("| condition | found | false | landmarks |\n|---|---|---|---|")
    begin = time.perf_counter()
    for name, condition in conditions():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        tally = Tally()
        for pixels, face in faces:
            judge(detector, condition(pixels, face), tally)
        print(tally.row(name), flush=True)
    print(f"\n{time.perf_counter() - begin:.0f} s")


def aligned(folder: Path, count: int, detector: Detector) -> Iterator[tuple[Pixels, Face]]:
    """The faces of a folder, 512×512, and where they are; a picture that is no square is left out."""
    for path in sorted(folder.iterdir())[:count]:
        pixels = images.read(path).pixels
        if pixels.shape[0] != pixels.shape[1] or pixels.shape[2] != 3:
            continue
        square = np.asarray(cv2.resize(pixels, (FRAME, FRAME), interpolation=cv2.INTER_AREA), np.uint8)
        found = detector.detect(square)
        if found:
            yield square, found[0]


def judge(detector: Detector, scene: Scene, tally: Tally) -> None:
    tally.faces += 1
    x, y, size = scene.box
    hit: Face | None = None
    for face in detector.detect(scene.pixels):
        left, top, right, bottom = face.box
        if hit is None and np.hypot((left + right) / 2 - x, (top + bottom) / 2 - y) < NEAR * size:
            hit = face
        else:
            tally.false += 1
    if hit is not None:
        tally.found += 1
        eyes = float(np.hypot(*(scene.landmarks[1] - scene.landmarks[0])))
        errors = np.hypot(*(hit.landmarks - scene.landmarks).T)
        tally.landmarks.append(float(errors.mean()) / eyes)


# ---- conditions


def conditions() -> Iterator[tuple[str, Condition]]:
    """Each by its name, in the order of the table."""
    yield "upright", scene
    for degrees in (15, -15, 30, -30, 45, -45, 60, 90, -90, 135, 180):
        yield f"turned by {degrees}°", turned(degrees)
    for size in (8, 10, 12, 14, 16, 20, 24, 32, 200, 350):
        yield f"small or large: box of {size} px", sized(size)
    for part in ("lower half", "upper half", "left half", "eyes", "nose and mouth"):
        yield f"hidden: {part}", after(hide(part))
    for side in ("left", "top", "bottom"):
        for share in (0.25, 0.4, 0.5):
            yield f"cut off by the {side} edge: {share:.0%}", cut(side, share)
    for gain in (0.25, 0.1, 0.05, 0.02):
        yield f"dark: {gain:.0%} of the light", after(lambda pixels, _, g=gain: round8(pixels * g))
    yield "grey", after(lambda pixels, _: grey(pixels))
    yield "negative", after(lambda pixels, _: 255 - pixels)
    for sigma in (2, 4, 6, 8, 12):
        yield f"blurred: σ {sigma} px", after(lambda pixels, _, s=sigma: as8(cv2.GaussianBlur(pixels, (0, 0), s)))
    for sigma in (25, 50, 80):
        yield f"noise: σ {sigma}", after(lambda pixels, _, s=sigma: noisy(pixels, s))


def turned(degrees: float) -> Condition:
    return lambda pixels, face: scene(pixels, face, degrees=degrees)


def sized(size: float) -> Condition:
    return lambda pixels, face: scene(pixels, face, size=size)


def after(change: Callable[..., Any]) -> Condition:
    """The usual scene with its pixels changed by a function of pixels and scene."""

    def condition(pixels: Pixels, face: Face) -> Scene:
        usual = scene(pixels, face)
        return Scene(np.ascontiguousarray(change(usual.pixels, usual), np.uint8), usual.box, usual.landmarks)

    return condition


def cut(side: str, share: float) -> Condition:
    """So much of the face's box lies beyond the edge of the photograph. The box to be found is what is left."""

    def condition(pixels: Pixels, face: Face) -> Scene:
        usual = scene(pixels, face)
        x, y, size = usual.box
        shift = np.zeros(2)
        centre = np.array([x, y])
        if side == "left":
            edge = round(x - size / 2 + share * size)
            picture, shift[0], centre[0] = usual.pixels[:, edge:], -edge, (edge + x + size / 2) / 2
        elif side == "top":
            edge = round(y - size / 2 + share * size)
            picture, shift[1], centre[1] = usual.pixels[edge:], -edge, (edge + y + size / 2) / 2
        else:
            edge = round(y + size / 2 - share * size)
            picture, centre[1] = usual.pixels[:edge], (y - size / 2 + edge) / 2
        return Scene(np.ascontiguousarray(picture), np.array([*(centre + shift), size]), usual.landmarks + shift)

    return condition


def hide(part: str) -> Callable[[Pixels, Scene], Pixels]:
    """Cover a part of the face with one colour, as a mask, a scarf, hair or dark glasses would."""

    def change(pixels: Pixels, usual: Scene) -> Pixels:
        changed: Pixels = np.array(pixels)
        x, y, size = usual.box
        left, right, top, bottom = (round(v) for v in (x - size / 2, x + size / 2, y - 0.6 * size, y + 0.6 * size))
        eye, other, nose = usual.landmarks[:3]
        eyes = float(np.hypot(*(other - eye)))
        between = round(float((eye[1] + other[1] + nose[1]) / 3))
        if part == "lower half":
            changed[round(y) : bottom, left:right] = (60, 80, 110)
        elif part == "upper half":
            changed[top : round(y), left:right] = (40, 30, 25)
        elif part == "left half":
            changed[top:bottom, left : round(x)] = (40, 30, 25)
        elif part == "eyes":
            row = round(float(eye[1] + other[1]) / 2)
            changed[row - round(0.3 * eyes) : row + round(0.3 * eyes), left:right] = (15, 15, 15)
        else:
            changed[between:bottom, left:right] = (200, 215, 225)
        return changed

    return change


def scene(pixels: Pixels, face: Face, *, size: float = FACE, degrees: float = 0.0) -> Scene:
    """The frame, so large that the face's box has that size, turned about the middle of the canvas and faded out."""
    factor = size / face.size
    left, top, right, bottom = face.box
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    angle = np.deg2rad(degrees)
    turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([CANVAS / 2, CANVAS / 2])
    matrix = np.column_stack([turn, centre - turn @ middle])

    few = cv2.GaussianBlur(cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA), (0, 0), 6)
    around = cv2.resize(few, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    radius = FRAME / 2
    down, across = np.mgrid[:FRAME, :FRAME] + 0.5 - radius
    mask = np.clip((1 - np.hypot(down, across) / radius) / FEATHER, 0, 1).astype(np.float32)
    small, step = pixels, 1.0
    if factor < 1:
        side = max(1, round(FRAME * factor))
        step = FRAME / side
        small = as8(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA))
        mask = np.asarray(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA), np.float32)
    place = matrix.copy()
    place[:, :2] *= step
    place[:, 2] += place[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from the first pixel's centre
    extent = (CANVAS, CANVAS)
    warped = cv2.warpAffine(small, place, extent, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    weight = np.asarray(cv2.warpAffine(mask, place, extent, flags=cv2.INTER_LINEAR))[:, :, None]
    mixed = round8(np.asarray(around) * (1 - weight) + np.asarray(warped) * weight)
    points = np.asarray(face.landmarks @ matrix[:, :2].T + matrix[:, 2], np.float64)
    return Scene(np.ascontiguousarray(mixed), np.array([*centre, size]), points)


def grey(pixels: Pixels) -> Pixels:
    return as8(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def noisy(pixels: Pixels, sigma: float) -> Pixels:
    return round8(pixels + np.random.default_rng(0).normal(0, sigma, pixels.shape))


def round8(values: npt.NDArray[Any]) -> Pixels:
    return as8(np.clip(np.rint(values), 0, 255))


def as8(values: Any) -> Pixels:
    return np.asarray(values, np.uint8)


if __name__ == "__main__":
    main()
