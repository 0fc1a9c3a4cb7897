"""How far a restored face is from the person: five landmarks, and the colour of the face.

    python benchmarks/identity.py --pairs PAIRS            # LQ/ and GT/ of the same names
    python benchmarks/identity.py --photos PHOTOS        # whole photographs, input against result

Landmarks are those of ``bfsr_edge.detect``; a distance is the mean over the five points in parts of the distance of
the eyes. Two rows say what such a number means: the truth moved by a few pixels (how well the detector repeats itself),
and the truth of another person. ``itself`` counts the faces whose landmarks lie closer to their own truth than to any
other. Colours are means over an ellipse inside the face's box: ΔE is the distance of two means in CIE L*a*b* (1976; 2.3
is just noticeable, Mahy and others 1994), the shift is signed, in levels of 255.

An embedding of a face network would say more. docs/faces.md says why none is used.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import images, load, restore
from bfsr_edge.detect import Detector, Face
from bfsr_edge.runtime import machine

Pixels = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
SCALE = 4
MOVED = 5
"""Pixels by which the truth is moved to see how well the detector repeats itself."""
ELLIPSE = 0.4
"""Half axes of the region whose colour is taken, in parts of the sides of the face's box."""


@dataclass(frozen=True)
class Seen:
    """A picture of a face and what the detector says of it."""

    pixels: Pixels
    face: Face

    @property
    def landmarks(self) -> Points:
        return np.asarray(self.face.landmarks, np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=Path, help="folder with LQ/ and GT/, aligned faces")
    parser.add_argument("--photos", type=Path, help="folder of whole photographs")
    parser.add_argument("--model", default="edge", help="shipped name or file; default: %(default)s")
    parser.add_argument("--count", type=int, default=1000, help="so many of the pairs; default: all")
    options = parser.parse_args()
    if not options.pairs and not options.photos:
        parser.error("name --pairs or --photos")
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    print(f"{today}, model {options.model}, {machine.cores()} cores, Python {platform.python_version()}\n")
    detector = Detector()
    if options.pairs:
        for line in pairs(options.pairs, options.model, options.count, detector):
            print(line)
    if options.photos:
        for line in photographs(options.photos, options.model, detector):
            print(line)


# ---- aligned pairs


def pairs(folder: Path, model: str, count: int, detector: Detector) -> list[str]:
    """Markdown: what each way of enlarging does to the faces."""
    engine = load(model, tile=128)
    names = sorted(path.name for path in (folder / "GT").iterdir())[:count]
    truths = [read(folder / "GT" / name) for name in names]
    inputs = [read(folder / "LQ" / name) for name in names]
    small = [np.asarray(cv2.resize(truth, (128, 128), interpolation=cv2.INTER_AREA), np.uint8) for truth in truths]
    seen = [largest(detector, truth) for truth in truths]
    known = [place for place, one in enumerate(seen) if one is not None]
    gallery = [one for one in seen if one is not None]

    enlarged = [bicubic(picture) for picture in inputs]
    restored = [np.asarray(restore(picture, engine, scale=SCALE, reduce=1), np.uint8) for picture in inputs]
    columns: list[tuple[str, Sequence[Pixels], Callable[[int], int], float]] = [
        ("the truth itself, moved", [np.roll(truth, (MOVED, MOVED), (0, 1)) for truth in truths], same, MOVED),
        ("the truth reduced 4×, bicubic ×4", [bicubic(picture) for picture in small], same, 0),
        ("the input, bicubic ×4", enlarged, same, 0),
        ("restored", restored, same, 0),
        ("another person's truth", truths, lambda place: (place + 1) % len(truths), 0),
    ]
    lines = [
        f"{len(known)} faces of {folder}; against the truth:\n",
        "| | found | distance: median | 95 % below | worst | itself | ΔE: mean | worst | shift R, G, B |",
        "|---" * 9 + "|",
    ]
    for name, pictures, other, moved in columns:
        lines.append(row(name, pictures, other, moved, seen, gallery, detector))
    lines.append("")
    drift, colour = [], []
    for before, after in zip(enlarged, restored, strict=True):
        first, second = largest(detector, before), largest(detector, after)
        if first is not None and second is not None:
            drift.append(distance(second.landmarks, first.landmarks))
            colour.append(delta(mean_colour(after, first.face), mean_colour(before, first.face)))
    lines.append(
        f"Restored against the input: distance {np.median(drift):.3f} median, {max(drift):.3f} worst; "
        f"ΔE {np.mean(colour):.2f} mean, {max(colour):.2f} worst; {len(drift)} faces found in both.\n"
    )
    return lines


def row(
    name: str,
    pictures: Sequence[Pixels],
    other: Callable[[int], int],
    moved: float,
    seen: Sequence[Seen | None],
    gallery: Sequence[Seen],
    detector: Detector,
) -> str:
    distances, deltas, shifts = [], [], []
    found = own = tried = 0
    for place, truth in enumerate(seen):
        if truth is None:
            continue
        tried += 1
        pixels = pictures[other(place)]
        shift = mean_colour(pixels, truth.face) - mean_colour(truth.pixels, truth.face)
        shifts.append(shift)
        deltas.append(delta(mean_colour(pixels, truth.face), mean_colour(truth.pixels, truth.face)))
        one = largest(detector, pixels)
        if one is None:
            continue
        found += 1
        points = one.landmarks - moved
        distances.append(distance(points, truth.landmarks))
        own += min(gallery, key=lambda entry: distance(points, entry.landmarks)) is truth
    shifted = ", ".join(f"{value:+.1f}" for value in np.mean(shifts, axis=0))
    return (
        f"| {name} | {found} of {tried} | {np.median(distances):.3f} | {np.quantile(distances, 0.95):.3f} "
        f"| {max(distances):.3f} | {own} | {np.mean(deltas):.2f} | {max(deltas):.2f} | {shifted} |"
    )


def same(place: int) -> int:
    return place


# ---- whole photographs


def photographs(folder: Path, model: str, detector: Detector) -> list[str]:
    """Markdown: each photograph as ``bfsr-edge restore`` makes it, reduced to its own size again, against itself."""
    lines = ["| photograph | faces before, after | distance: median | worst | ΔE: mean | worst |", "|---" * 6 + "|"]
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "bfsr_edge.cli", "restore", str(folder), "--out", place, "--model", model]
        subprocess.run([*command, "--faces", "auto", "--format", "png", "--quiet"], check=True)
        for source in sorted(path for path in folder.iterdir() if path.suffix.lower() in images.EXTENSIONS):
            before, large = read(source), read(next(Path(place).glob(f"{source.stem}.*")))
            size = (before.shape[1], before.shape[0])
            after = np.asarray(cv2.resize(large, size, interpolation=cv2.INTER_AREA), np.uint8)
            old, new = detector.detect(before), detector.detect(after)
            drift, colour = [], []
            for face in old:
                match = min(new, key=lambda entry: centre_distance(entry, face), default=None)
                if match is not None and centre_distance(match, face) < face.size / 2:
                    drift.append(distance(match.landmarks, face.landmarks))
                    colour.append(delta(mean_colour(after, face), mean_colour(before, face)))
            cells = [f"{len(old)}, {len(new)}", f"{np.median(drift):.3f}", f"{max(drift):.3f}"] if drift else ["0"] * 3
            tones = [f"{np.mean(colour):.2f}", f"{max(colour):.2f}"] if colour else [""] * 2
            lines.append(f"| {source.name} | {' | '.join([*cells, *tones])} |")
    return lines


def centre_distance(a: Face, b: Face) -> float:
    return float(np.hypot(*(centre(a) - centre(b))))


def centre(face: Face) -> Points:
    left, top, right, bottom = face.box
    return np.array([(left + right) / 2, (top + bottom) / 2])


# ---- what is measured


def read(path: Path) -> Pixels:
    """RGB uint8; grey becomes RGB, transparency is left out."""
    pixels = images.read(path).pixels
    colours = pixels[:, :, :3] if pixels.shape[2] > 2 else np.repeat(pixels[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(colours, np.uint8)


def bicubic(picture: Pixels) -> Pixels:
    size = (picture.shape[1] * SCALE, picture.shape[0] * SCALE)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def largest(detector: Detector, pixels: Pixels) -> Seen | None:
    faces = detector.detect(pixels)
    return Seen(pixels, max(faces, key=lambda face: face.size)) if faces else None


def distance(points: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Mean over the five landmarks, in parts of the true distance of the eyes."""
    return float(np.hypot(*(np.asarray(points) - truth).T).mean() / np.hypot(*(truth[1] - truth[0])))


def mean_colour(pixels: Pixels, face: Face) -> Points:
    """Mean R, G, B over the ellipse inside the face's box."""
    left, top, right, bottom = face.box
    mask = np.zeros(pixels.shape[:2], np.uint8)
    axes = (max(1, round((right - left) * ELLIPSE)), max(1, round((bottom - top) * ELLIPSE)))
    cv2.ellipse(mask, (round((left + right) / 2), round((top + bottom) / 2)), axes, 0, 0, 360, 1, -1)
    return np.asarray(pixels[mask > 0].mean(axis=0), np.float64)


def delta(a: Points, b: Points) -> float:
    """ΔE*ab of two colours in RGB, 0 … 255, taken as sRGB."""
    pair = np.stack([a, b])[None].astype(np.float32) / np.float32(255)
    lab = np.asarray(cv2.cvtColor(pair, cv2.COLOR_RGB2Lab), np.float64)[0]
    return float(np.linalg.norm(lab[0] - lab[1]))


if __name__ == "__main__":
    main()
