"""What a set of faces looks like before anything is trained on it, beside the pictures a network is judged on.

Two comparisons are like with like: the faces with the true validation pictures, and the faces behind our own blind
degradation with the validation inputs. A Kolmogorov-Smirnov test flags what differs between two samples.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bfsr_edge import degrade, files
from bfsr_edge.errors import TrainingError, UsageError
from bfsr_edge.faceset import Face, decode_face, find_faces
from bfsr_edge.train.headers import NAMED, Bad, find_bad
from bfsr_edge.train.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Byte = NDArray[np.uint8]
Values = NDArray[np.float64]

SAMPLE = 500
"""Pictures of a set that are decoded."""
WHITE = 250
"""A pixel is over-exposed where all three channels reach this value of 255."""
NONE = 1e-6
"""Where the picture shows that nothing is over-exposed; a pixel of 512×512 is four times as much."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue (ITU-R BT.601)."""
CERTAINTY = math.sqrt(-math.log(0.01 / 2) / 2)
"""The limit of the Kolmogorov-Smirnov distance times √(nm / (n + m)): samples of one kind exceed it 1 time in 100."""

MEASURES = {
    "brightness": "mean of luma, 0 … 1",
    "contrast": "standard deviation of luma",
    "saturation": "mean of (max - min) / max over the channels, 0 … 1",
    "over-exposed": f"part of the pixels with all channels ≥ {WHITE}/255",
    "detail": "mean absolute Laplacian of luma, in 1/255",
    "side": "the shorter one, in pixels",
}
COLUMNS = ("set", "name", "width", "height", *list(MEASURES)[:-1], "red", "green", "blue")
SOFTWARE = "bfsr-edge train --describe-data"
FILES = ("data.csv", "data.png")


def measure(image: Byte) -> dict[str, float]:
    """The ``MEASURES`` of one picture, RGB uint8 H×W×3."""
    import cv2

    pixels = image.astype(np.float32) / np.float32(255)
    luma = np.asarray(pixels @ LUMA, np.float32)
    largest, smallest = pixels.max(axis=2), pixels.min(axis=2)
    saturation = np.divide(largest - smallest, largest, out=np.zeros_like(largest), where=largest > 0)
    return {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "saturation": float(saturation.mean()),
        "over-exposed": float((image >= WHITE).all(axis=2).mean()),
        "detail": float(np.abs(cv2.Laplacian(luma, cv2.CV_32F)).mean()) * 255,
        "side": float(min(image.shape[:2])),
    }


@dataclass(frozen=True)
class Sample:
    """The pictures of one set that were looked at."""

    title: str
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    """Width and height of each."""
    values: dict[str, Values]
    """Of each measure, one value a picture."""
    means: Values
    """Per-channel means N×3, RGB in [0, 1]."""
    squares: Values
    """Per-channel means of squares N×3; with ``means`` they give the standard deviation over all pixels."""

    def channels(self) -> tuple[Values, Values]:
        """Mean and standard deviation of red, green and blue over all pixels, every picture counting the same."""
        mean = self.means.mean(axis=0)
        return mean, np.sqrt(np.maximum(0, self.squares.mean(axis=0) - mean**2))


class _Gatherer:
    """Collects the pictures of a `Sample`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[str, tuple[int, int], dict[str, float], Values, Values]] = []

    def add(self, name: str, image: Byte) -> None:
        """Measure one picture, RGB uint8."""
        pixels = image.reshape(-1, 3).astype(np.float64) / 255
        size = (image.shape[1], image.shape[0])
        self._rows.append((name, size, measure(image), pixels.mean(axis=0), (pixels**2).mean(axis=0)))

    def sample(self) -> Sample | None:
        """What was collected; None where it is nothing."""
        if not self._rows:
            return None
        names, sizes, measured, means, squares = zip(*self._rows, strict=True)
        values = {key: np.array([each[key] for each in measured]) for key in MEASURES}
        return Sample(self._title, names, sizes, values, np.array(means), np.array(squares))


@dataclass(frozen=True)
class Comparison:
    """One measure of two samples."""

    measure: str
    shift: float
    """Difference of the means in standard deviations (of both samples, the root of the mean variance)."""
    distance: float
    """Kolmogorov-Smirnov statistic: the largest gap between the two cumulative distributions, 0 … 1."""
    limit: float
    """What two samples of one distribution exceed 1 time in 100 (Smirnov's asymptotic law; with ties, less often)."""

    @property
    def differs(self) -> bool:
        """Whether chance is no likely explanation."""
        return self.distance > self.limit


def kolmogorov_smirnov(a: Values, b: Values) -> float:
    """The largest gap between the cumulative distributions of two samples."""
    at = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(each), at, side="right") / len(each) for each in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def compare(a: Sample, b: Sample) -> list[Comparison]:
    """``a`` against ``b`` in every measure."""
    size = len(a.names) * len(b.names) / (len(a.names) + len(b.names))
    found = []
    for key in MEASURES:
        one, two = a.values[key], b.values[key]
        spread, gap = math.sqrt((one.var() + two.var()) / 2), float(one.mean() - two.mean())
        shift = gap / spread if spread else math.copysign(math.inf, gap) if gap else 0.0
        found.append(Comparison(key, shift, kolmogorov_smirnov(one, two), CERTAINTY / math.sqrt(size)))
    return found


@dataclass(frozen=True)
class Description:
    """What was found."""

    count: int
    """All faces there are."""
    bad: tuple[Bad, ...]
    """Of all faces those whose shape or header training cannot take, then those of the sample that are damaged."""
    faces: Sample | None
    degraded: Sample | None
    """``faces`` behind the blind degradation, at a quarter of the training size."""
    inputs: Sample | None
    """Validation inputs."""
    truths: Sample | None
    """True validation pictures."""

    def pairs(self) -> list[tuple[Sample, Sample]]:
        """The samples that are compared: like with like."""
        couples = ((self.faces, self.truths), (self.degraded, self.inputs))
        return [(a, b) for a, b in couples if a and b]

    def samples(self) -> list[Sample]:
        """All there are."""
        return [each for each in (self.faces, self.truths, self.degraded, self.inputs) if each]


def describe(
    sources: Sequence[str], recipe: Recipe, progress: Callable[[int, int], None] = lambda done, total: None
) -> Description:
    """Look at the faces in ``sources`` (folders and tars) and at the validation pairs of ``recipe``, if it names some.

    Of each set ``SAMPLE`` pictures drawn at random, the same ones every time, are decoded; headers are read of all.
    ``progress`` is called with the pictures done and their number.

    Raises
    ------
    UsageError
        A folder is missing or holds no picture.
    """
    every = find_faces(sources)
    size = recipe.data.size
    faces = _drawn(every)
    low, true = (_drawn(find_faces([folder])) if folder else [] for folder in (recipe.data.val_lq, recipe.data.val_gt))
    total, done = len(faces) + len(low) + len(true), 0
    bad = find_bad(every, size)
    misshapen = {(each.face.file, each.face.offset) for each in bad}
    whole, degraded = _Gatherer("faces"), _Gatherer("degraded faces")
    for index, face in enumerate(faces):
        image = _decoded(face)
        if image is not None:
            whole.add(face.name, image)
        if (face.file, face.offset) not in misshapen:
            if image is None:
                bad.append(Bad(face, "damaged"))
            else:
                made, _ = degrade.degrade(decode_face(face, size), (recipe.seed, 0xDA7A, index))
                degraded.add(face.name, made)
        done += 1
        progress(done, total)
    others = []
    for title, pictures in (("validation inputs", low), ("validation truths", true)):
        gatherer = _Gatherer(title)
        for picture in pictures:
            image = _decoded(picture)
            if image is None:
                raise UsageError(f"{picture.file} cannot be decoded", why=("it is damaged or no picture",))
            gatherer.add(picture.name, image)
            done += 1
            progress(done, total)
        others.append(gatherer.sample())
    return Description(len(every), tuple(bad), whole.sample(), degraded.sample(), *others)


def _drawn(faces: Sequence[Face]) -> list[Face]:
    """``SAMPLE`` of the faces in their order, all where there are no more."""
    if len(faces) <= SAMPLE:
        return list(faces)
    chosen = np.random.default_rng(0).choice(len(faces), SAMPLE, replace=False)
    return [faces[index] for index in sorted(chosen)]


def _decoded(face: Face) -> Byte | None:
    """RGB uint8 H×W×3; None where the file is damaged, also where only its end is missing."""
    import warnings

    import cv2
    from PIL import Image

    encoded = face.encoded()
    try:
        with warnings.catch_warnings():  # about EXIF data and the like
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                image.load()  # Pillow refuses a cut file, of which OpenCV makes a half grey picture
        decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)  # what training sees
    except Exception:  # decoders raise what they please on damaged files
        return None
    return None if decoded is None else np.ascontiguousarray(decoded[:, :, ::-1], dtype=np.uint8)


# ---- what is said


def report(found: Description) -> str:
    """The tables for a terminal."""
    samples = found.samples()
    lines = [f"{found.count:,} faces, of which {_of(found)} were decoded", *_complaints(found)]
    for sample in samples:
        sizes = ", ".join(f"{w}×{h}: {n:,}" for (w, h), n in Counter(sample.sizes).most_common(3))
        more = len(set(sample.sizes)) - 3
        lines.append(f"{sample.title + ' px':20} {sizes}{f', and {more:,} more sizes' if more > 0 else ''}")
    width = 20
    lines += ["", f"{'mean ± deviation':14}" + "".join(f"{sample.title:>{width}}" for sample in samples)]
    for key in MEASURES:
        cells = (f"{sample.values[key].mean():.4g} ± {sample.values[key].std():.3g}" for sample in samples)
        lines.append(f"{key:16}" + "".join(f"{cell:>{width}}" for cell in cells))
    for place, channel in enumerate(("red", "green", "blue")):
        figures = (sample.channels() for sample in samples)
        cells = (f"{mean[place]:.4f} ± {deviation[place]:.4f}" for mean, deviation in figures)
        lines.append(f"{channel:16}" + "".join(f"{cell:>{width}}" for cell in cells))
    for a, b in found.pairs():
        lines += ["", f"{a.title} against {b.title}", f"{'':16}{'shift of the mean':>20}{'distance':>12}{'limit':>9}"]
        for one in compare(a, b):
            mark = "  differs" if one.differs else ""
            lines.append(f"{one.measure:16}{one.shift:>+17.2f} sd{one.distance:>12.3f}{one.limit:>9.3f}{mark}")
    if not found.pairs():
        lines += ["", "nothing to compare with: give validation pairs with --val-lq and --val-gt"]
    lines += ["", *(f"{key}: {meaning}" for key, meaning in MEASURES.items())]
    lines += ["red, green, blue: mean and standard deviation over all pixels, 0 … 1"]
    lines += ["distance: Kolmogorov-Smirnov, 0 … 1; above the limit, chance explains it in 1 case of 100 or fewer"]
    return "\n".join(lines) + "\n"


def _of(found: Description) -> str:
    looked = min(found.count, SAMPLE)
    return f"{looked:,}, drawn at random," if looked < found.count else "all"


def _complaints(found: Description) -> list[str]:
    if not found.bad:
        return ["none is too small, not square or damaged"]
    named = [f"  {each}" for each in found.bad[:NAMED]]
    more = [f"  … and {len(found.bad) - NAMED:,} more"] if len(found.bad) > NAMED else []
    kinds = Counter(each.reason.rpartition(", ")[2].partition(" than")[0] for each in found.bad)
    return [", ".join(f"{kind}: {number:,}" for kind, number in kinds.most_common()), *named, *more]


def csv_rows(found: Description) -> bytes:
    """One row a picture, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sample in found.samples():
        for index, (name, size) in enumerate(zip(sample.names, sample.sizes, strict=True)):
            measured = [sample.values[key][index] for key in list(MEASURES)[:-1]]
            figures = (f"{value:.6g}" for value in (*measured, *sample.means[index]))
            writer.writerow([sample.title, name, *size, *figures])
    return file.getvalue().encode()


def drawn(found: Description) -> bytes:
    """A PNG: a column a measure; above, the whole faces and the true pictures, below, what a network is given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(MEASURES), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(MEASURES), squeeze=False)
    for row, couple in zip(grid, ((found.faces, found.truths), (found.degraded, found.inputs)), strict=True):
        samples = [each for each in couple if each]
        flags = {c.measure: c for c in compare(samples[0], samples[1])} if len(samples) == 2 else {}
        for axes, key in zip(row, MEASURES, strict=True):
            _histogram(axes, key, samples)
            axes.set_title(key)
            if key in flags and flags[key].differs:
                axes.set_title(f"{key}: distance {flags[key].distance:.2f}", color="C3")
            axes.grid(alpha=0.3)
        row[0].set_ylabel("% of the pictures")
        if samples:
            row[0].set_ylim(top=1.35 * row[0].get_ylim()[1])  # room for the legend
            row[0].legend(fontsize=8, loc="upper right")
    figure.suptitle("red: the two differ by more than chance explains (Kolmogorov-Smirnov, 1 in 100)", fontsize=10)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90, metadata={"Software": SOFTWARE})
    return file.getvalue()


def _histogram(axes: Axes, key: str, samples: Sequence[Sample]) -> None:
    values = [sample.values[key] for sample in samples]
    everything = np.concatenate(values or [np.zeros(1)])
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high, 21)
    if key == "over-exposed":  # a few pixels or half the picture: only logarithms show both
        values = [np.maximum(each, NONE) for each in values]
        edges = np.geomspace(NONE, 1, 21)
        axes.set_xscale("log")
        axes.set_xlabel(f"{NONE:.0e}: no pixel at all")
    elif low == high:
        edges = np.linspace(low - 0.5, low + 0.5, 4)
        axes.set_xticks([low])
    for sample, shown, colour in zip(samples, values, ("C0", "C1"), strict=False):
        weights = np.full(len(shown), 100 / len(shown))
        axes.hist(shown, list(edges), weights=weights, histtype="stepfilled", alpha=0.35, color=colour)
        axes.hist(shown, list(edges), weights=weights, histtype="step", color=colour, label=sample.title)


# ---- files


def check_ours(out: Path) -> None:
    """UsageError where ``out`` holds a file of one of our names that this module did not write."""
    from PIL import Image

    table, picture = (out / name for name in FILES)
    for path in (table, picture):
        if not path.exists():
            continue
        try:
            if path == table:
                ours = path.read_text("utf-8").splitlines()[:1] == [",".join(COLUMNS)]
            else:
                with Image.open(path) as image:
                    ours = image.info.get("Software") == SOFTWARE
        except (OSError, UnicodeDecodeError):
            ours = False
        if not ours:
            raise UsageError(f"{path} is there and was not written by {SOFTWARE}", fix="give another --out")


def save(found: Description, out: Path) -> None:
    """Write ``data.csv`` and ``data.png`` into ``out``, each whole or not at all; call `check_ours` before."""
    try:
        for name, content in zip(FILES, (csv_rows(found), drawn(found)), strict=True):
            files.replace(out / name, content)
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be written to", why=(error.strerror or str(error),), fix="give another --out"
        ) from error
