"""What INT8 costs: PSNR of compiled engines on pairs of degraded and true pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bfsr_edge import images
from bfsr_edge.calibration import Drop
from bfsr_edge.errors import ImageError, UsageError
from bfsr_edge.metrics import psnr
from bfsr_edge.runtime import Engine, load

if TYPE_CHECKING:
    import onnx

Byte = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float64]

BACKEND = "openvino"


@dataclass(frozen=True)
class Pair:
    """A degraded picture and the truth, RGB uint8."""

    name: str
    """The file name that both have."""
    low: Byte
    """h×w×3."""
    truth: Byte
    """A whole number of times as large."""


def read_pairs(lq: Path, gt: Path) -> tuple[list[Pair], list[Path]]:
    """Every pair of the same file name in two folders, and the files that they were read from.

    Raises
    ------
    UsageError
        A folder is not there, a picture has no partner, or there is no pair.
    ImageError
        A picture cannot be read, is no 8-bit RGB, or its partner has another size.
    """
    names: list[set[str]] = []
    for option, folder in (("--lq", lq), ("--gt", gt)):
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}", fix=f"check the path given to {option}")
        names.append({entry.name for entry in folder.iterdir() if entry.suffix.lower() in images.EXTENSIONS})
    alone = sorted(names[0] ^ names[1])
    if alone or not names[0]:
        raise UsageError(
            f"{lq} and {gt} do not hold the same pictures" if alone else f"{lq} and {gt} hold no picture",
            why=(f"{alone[0]} is in one of them only" if alone else "both folders are empty",),
            fix="pairs have the same file name in both folders, the extension included",
        )
    pairs = []
    for name in sorted(names[0]):
        low, truth = _rgb(lq / name), _rgb(gt / name)
        factor = truth.shape[0] // low.shape[0]
        if factor < 1 or truth.shape[:2] != (factor * low.shape[0], factor * low.shape[1]):
            raise ImageError(f"{name}: the truth is not a whole number of times as large as the degraded picture")
        pairs.append(Pair(name, low, truth))
    return pairs, [folder / pair.name for folder in (lq, gt) for pair in pairs]


def evenly(pairs: Sequence[Pair], count: int) -> list[int]:
    """Places of at most ``count`` pairs, spread over all of them; all for 0."""
    if not 0 < count < len(pairs):
        return list(range(len(pairs)))
    return [place * len(pairs) // count for place in range(count)]


def score(graph: onnx.ModelProto | Path, pairs: Sequence[Pair]) -> Scores:
    """PSNR of every pair in dB, through the engine that OpenVINO compiles from an ONNX graph or file.

    Raises
    ------
    ModelError, BackendError
        The graph cannot be compiled, or fails while running.
    UsageError
        The network enlarges by another factor than the pairs.
    """
    if isinstance(graph, Path):
        return _score(graph, pairs)
    with tempfile.TemporaryDirectory(prefix="bfsr-edge-") as folder:
        path = Path(folder) / "candidate.onnx"
        path.write_bytes(graph.SerializeToString())
        return _score(path, pairs)


def compare(before: Scores, after: Scores, pairs: Sequence[Pair]) -> Drop:
    """The loss from one list of scores to the other; the pairs name the worst."""
    lost = before - after
    worst = int(np.argmax(lost))
    return Drop(
        mean=float(lost.mean()),
        worst=float(lost[worst]),
        worst_name=pairs[worst].name,
        count=len(pairs),
        fp32=float(before.mean()),
        int8=float(after.mean()),
        backend=f"{BACKEND} {_version()}",
    )


def _score(path: Path, pairs: Sequence[Pair]) -> Scores:
    first = load(path, backend=BACKEND, device="cpu", precision="fp32")
    engines: dict[tuple[int, ...], Engine] = {first.info.tile: first}
    stride = first.info.stride
    scores = []
    for pair in pairs:
        height, width = pair.low.shape[:2]
        padded = np.pad(pair.low, ((0, -height % stride), (0, -width % stride), (0, 0)), mode="reflect")
        size = padded.shape[:2]
        if size not in engines:
            tile = (size[0], size[1])
            engines[size] = load(path, backend=BACKEND, device="cpu", precision="fp32", tile=tile)
        batch = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        scale = engines[size].info.scale
        result = engines[size].run(batch)[0, :, : height * scale, : width * scale].transpose(1, 2, 0)
        if result.shape != pair.truth.shape:
            raise UsageError(
                f"{pair.name}: the network enlarges by {scale}, the pairs by {pair.truth.shape[0] // height}"
            )
        scores.append(psnr(result, pair.truth))
    return np.asarray(scores, np.float64)


def _rgb(path: Path) -> Byte:
    pixels = images.read(path).pixels
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
        raise ImageError(f"{path} is no 8-bit RGB picture, and pairs are", fix="convert it, or leave the pair out")
    return np.asarray(pixels, np.uint8)


def _version() -> str:
    import openvino

    return str(openvino.__version__).split("-")[0]
