"""One picture through a network, array to array, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import tiling
from bfsr_edge.errors import UsageError
from bfsr_edge.images import Pixels
from bfsr_edge.restore.options import BATCH, OVERLAP

Float = npt.NDArray[np.float32]

CONTEXT = 4
"""Input rows around a band that bicubic interpolation looks at, and to spare."""


class Info(Protocol):
    """The part of ``runtime.EngineInfo`` that restoring needs."""

    @property
    def scale(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def receptive_field(self) -> int: ...
    @property
    def tile(self) -> tuple[int, int]: ...


class Network(Protocol):
    """The part of ``runtime.Engine`` that restoring needs."""

    @property
    def info(self) -> Info: ...
    def run(self, batch: Float, /) -> Float: ...


def restore_array(
    image: Pixels, engine: Network, *, scale: int = 4, overlap: int = OVERLAP, batch: int = BATCH, offset: int = 0
) -> Pixels:
    """Restore a picture in memory.

    Parameters
    ----------
    image
        uint8 or uint16, RGB H×W×3, RGB and alpha H×W×4, grey H×W or H×W×1, grey and alpha H×W×2.
    engine
        From ``bfsr_edge.load``. Pictures larger than its tile are cut into overlapping tiles and blended.
    scale
        Size of the result relative to the input: the network's own (4), or less by area reduction (2, 1).
    overlap
        Context that a tile carries at each inner edge, in input pixels.
    batch
        Tiles given to the network at a time.
    offset
        Moves inner tile edges by that many input pixels.

    Returns
    -------
    numpy.ndarray
        The type and channels of the input, scale·H × scale·W. Alpha is enlarged bicubically.

    Raises
    ------
    UsageError
        The array is not such a picture, or an option does not fit the engine.
    BackendError
        The network failed.
    """
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or 0 in image.shape:
        raise UsageError(f"a picture is uint8 or uint16, H×W×C; this is {image.dtype} of shape {image.shape}")
    whole = image[:, :, None] if image.ndim == 2 else image
    if whole.shape[2] > 4:
        raise UsageError(f"a picture has 1 to 4 channels, this one {whole.shape[2]}", fix="put channels last: H×W×C")
    layout = plan_for(engine.info, *whole.shape[:2], scale=scale, overlap=overlap, offset=offset)
    bands = finish(infer(whole, engine, layout, batch), whole, layout, engine.info.scale, scale)
    result = np.empty((whole.shape[0] * scale, whole.shape[1] * scale, whole.shape[2]), image.dtype)
    top = 0
    for band in bands:
        result[top : top + len(band)] = band
        top += len(band)
    return result if image.ndim == 3 else result[:, :, 0]


def plan_for(info: Info, height: int, width: int, *, scale: int, overlap: int, offset: int = 0) -> tiling.Plan:
    """The tiles of a picture for that engine; UsageError where the options do not fit it."""
    if scale < 1 or info.scale % scale:
        raise UsageError(f"scale {scale} cannot be made by a network that enlarges {info.scale} times")
    return tiling.plan(
        height,
        width,
        tile=info.tile,
        overlap=overlap,
        stride=info.stride,
        receptive_field=info.receptive_field,
        offset=offset,
    )


def infer(image: Pixels, engine: Network, plan: tiling.Plan, batch: int) -> Iterator[Float]:
    """The network's result for each tile of H×W×C, in the order of the plan: 3×(s·h)×(s·w), not clipped."""
    peak = np.float32(1 / np.iinfo(image.dtype).max)
    colours = image[:, :, :3] if image.shape[2] > 2 else image[:, :, :1]
    waiting: list[Float] = []
    for number, (top, left) in enumerate(plan.positions(), 1):
        tile = tiling.cut(colours, plan, top, left).transpose(2, 0, 1)
        # a grey picture runs as RGB
        waiting.append(np.multiply(np.broadcast_to(tile, (3, *tile.shape[1:])), peak, dtype=np.float32))
        if len(waiting) == batch or number == plan.tiles:
            yield from engine.run(np.stack(waiting))
            waiting = []


def finish(results: Iterable[Float], image: Pixels, plan: tiling.Plan, factor: int, scale: int) -> Iterator[Pixels]:
    """Blend results and bring them to the type, size and channels of the picture: bands of rows from top to bottom.

    ``factor`` is the network's scale, ``scale`` the one wanted.
    """
    shrink = factor // scale
    channels = image.shape[2]
    top = 0
    for band in tiling.blend(plan, results, factor):
        size = (band.shape[2] // shrink, band.shape[1] // shrink)
        # blocks of shrink×shrink never cross bands, so this equals reducing the whole
        planes = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in band] if shrink > 1 else list(band)
        if channels < 3:
            planes = [np.add.reduce(planes) / np.float32(len(planes))]
        quantized = [_quantize(plane, image.dtype) for plane in planes]
        if channels in (2, 4):
            quantized.append(_alpha(image[:, :, -1], top, size[1], scale))
        merged: Pixels = np.asarray(cv2.merge(quantized), image.dtype)
        yield merged.reshape(size[1], size[0], channels)
        top += size[1]


def _quantize(plane: Float, dtype: np.dtype[np.unsignedinteger[Any]]) -> Pixels:
    peak = float(np.iinfo(dtype).max)
    values = plane * np.float32(peak)
    np.rint(values, out=values)
    np.clip(values, 0, peak, out=values)
    quantized: Pixels = values.astype(dtype)
    return quantized


def _alpha(alpha: Pixels, top: int, rows: int, scale: int) -> Pixels:
    """Rows of the enlarged alpha, equal to those of the whole enlarged at once."""
    if scale == 1:
        return alpha[top : top + rows]
    first = max(0, top // scale - CONTEXT)
    last = min(len(alpha), -(-(top + rows) // scale) + CONTEXT)
    part: Pixels = np.ascontiguousarray(alpha[first:last])
    size = (part.shape[1] * scale, part.shape[0] * scale)
    large: Pixels = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_CUBIC), alpha.dtype)
    return large[top - first * scale :][:rows]
