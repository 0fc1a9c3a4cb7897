"""One picture through a network, array to array, a band of rows at a time: the steps that files and arrays share."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import tiling
from bfsr_edge.errors import UsageError
from bfsr_edge.images import Pixels
from bfsr_edge.restore.transparency import spread

Float = npt.NDArray[np.float32]
Paste = Callable[[list[Float], int], None]
"""Changes rows of the result in place: R, G and B planes in [0, 1], not clipped, and the number of their first row."""

ALPHA_REACH = 2
"""Pixels that the network sees on each side of one, whose alpha bounds that of the result: as far as bicubic looks."""


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


@runtime_checkable
class Ahead(Protocol):
    """A network that is given tiles before it has finished the last ones."""

    streams: int

    def start(self, batch: Float, /) -> Callable[[], Float]: ...


def checked(image: Pixels) -> Pixels:
    """A picture as H×W×C; UsageError where the array is none."""
    if not isinstance(image, np.ndarray):
        raise UsageError(f"a picture is a NumPy array, H×W×C; this is {type(image).__name__}", fix="np.asarray(image)")
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or 0 in image.shape:
        raise UsageError(f"a picture is uint8 or uint16, H×W×C; this is {image.dtype} of shape {image.shape}")
    whole = image[:, :, None] if image.ndim == 2 else image
    if whole.shape[2] > 4:
        raise UsageError(f"a picture has 1 to 4 channels, this one {whole.shape[2]}", fix="put channels last: H×W×C")
    return whole


def gathered(bands: Iterable[Pixels], image: Pixels, scale: int) -> Pixels:
    """Bands of rows as one array, with the type and the dimensions of the input."""
    result = np.empty((image.shape[0] * scale, image.shape[1] * scale, *image.shape[2:]), image.dtype)
    top = 0
    for band in bands:
        result[top : top + len(band)] = band.reshape(len(band), *result.shape[1:])
        top += len(band)
    return result


def plan_for(
    info: Info, height: int, width: int, *, scale: int, overlap: int, offset: int = 0, reduce: int = 1
) -> tiling.Plan:
    """The tiles of a picture, reduced so many times, for that engine; UsageError where the options do not fit it."""
    if scale < 1 or info.scale % scale:
        raise UsageError(f"scale {scale} cannot be made by a network that enlarges {info.scale} times")
    if reduce < 1 or info.scale % (scale * reduce):
        raise UsageError(
            f"reduce {reduce} does not go with scale {scale}",
            why=(f"the network enlarges {info.scale} times, and reduce times scale must divide that",),
        )
    return tiling.plan(
        -(-height // reduce),
        -(-width // reduce),
        tile=info.tile,
        overlap=overlap,
        stride=info.stride,
        receptive_field=info.receptive_field,
        offset=offset,
    )


def infer(
    image: Pixels, engine: Network, plan: tiling.Plan, batch: int, *, scale: int = 4, reduce: int = 1
) -> Iterator[Float]:
    """The network's result for each tile of H×W×C, in the order of the plan: C×(s·h)×(s·w), not clipped.

    C is 3, the colours (of grey three that hardly differ), or 4 where alpha has to be restored too: a second run for
    each tile in which it varies, and none for the others.
    """
    shown = spread(image)
    colours = shown[:, :, :3] if image.shape[2] > 2 else shown[:, :, :1]
    alpha = image[:, :, -1:] if _alpha_changes(image, scale, reduce) else None

    def inputs() -> Iterator[Float]:
        for top, left in plan.positions():
            yield _tile(colours, plan, top, left, reduce)
            if alpha is not None:
                part = _tile(alpha, plan, top, left, reduce)
                if np.ptp(part):
                    yield part

    results = _run(inputs(), engine, batch)
    if alpha is None:
        yield from results
        return
    for top, left in plan.positions():
        tile = next(results)
        part = _tile(alpha, plan, top, left, reduce)
        restored = _grey(list(next(results))) if np.ptp(part) else np.full(tile.shape[1:], part[0, 0, 0], np.float32)
        yield np.concatenate((tile, restored[None]))


def _run(inputs: Iterator[Float], engine: Network, batch: int) -> Iterator[Float]:
    """The network's results one by one, ``batch`` tiles at a time (fewer only at the end)."""
    started: deque[Callable[[], Float]] = deque()
    while waiting := list(itertools.islice(inputs, batch)):
        if not isinstance(engine, Ahead):
            yield from engine.run(np.stack(waiting))
            continue
        started.append(engine.start(np.stack(waiting)))
        # one more than it computes at a time, so that it never waits for us
        if len(started) > engine.streams:
            yield from started.popleft()()
    while started:
        yield from started.popleft()()


def _tile(image: Pixels, plan: tiling.Plan, top: int, left: int, reduce: int) -> Float:
    """What the network sees of 1 or 3 channels at that place of the plan: 3×h×w in [0, 1]; grey runs as RGB."""
    peak = np.float32(1 / np.iinfo(image.dtype).max)
    if reduce == 1:
        tile = tiling.cut(image, plan, top, left).transpose(2, 0, 1)
        return np.asarray(np.multiply(np.broadcast_to(tile, (3, *tile.shape[1:])), peak, dtype=np.float32))
    height, width = plan.rows.tile, plan.columns.tile
    part = image[top * reduce : (top + height) * reduce, left * reduce : (left + width) * reduce]
    missing = (height * reduce - part.shape[0], width * reduce - part.shape[1])
    part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
    blocks = part.reshape(height, reduce, width, reduce, -1).sum(axis=(1, 3), dtype=np.float32)
    return np.asarray(np.broadcast_to(blocks.transpose(2, 0, 1), (3, height, width)) * (peak / reduce**2), np.float32)


def finish(
    results: Iterable[Float],
    image: Pixels,
    plan: tiling.Plan,
    factor: int,
    scale: int,
    paste: Paste | None = None,
    *,
    reduce: int = 1,
) -> Iterator[Pixels]:
    """Blend results and bring them to the type, size and channels of the picture: bands of rows from top to bottom.

    ``factor`` is the network's scale, ``scale`` the one wanted, ``reduce`` what the picture was reduced by before the
    network saw it; ``paste`` puts faces in before anything is rounded.
    """
    shrink = factor // (scale * reduce)
    channels = image.shape[2]
    height, width = image.shape[0] * scale, image.shape[1] * scale
    top = 0
    for band in tiling.blend(plan, results, factor):
        size = (band.shape[2] // shrink, band.shape[1] // shrink)
        # blocks of shrink×shrink never cross bands, so this equals reducing the whole
        planes = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in band] if shrink > 1 else list(band)
        # a side that is no multiple of ``reduce`` was continued up to one
        planes = [plane[: height - top, :width] for plane in planes]
        rows, colours = len(planes[0]), planes[:3]
        if not rows:
            return
        if paste is not None:
            paste(colours, top)
        quantized = [_quantize(plane, image.dtype) for plane in (colours if channels > 2 else [_grey(colours)])]
        if channels in (2, 4):
            alpha = _quantize(planes[3], image.dtype) if len(planes) > 3 else None
            quantized.append(_alpha(image[:, :, -1], alpha, top, rows, scale, reduce))
        merged: Pixels = np.asarray(cv2.merge(quantized), image.dtype)
        yield merged.reshape(rows, width, channels)
        top += rows


def _grey(planes: list[Float]) -> Float:
    """What a grey picture, run as RGB, became."""
    return np.asarray(np.add.reduce(planes) / np.float32(len(planes)))


def _quantize(plane: Float, dtype: np.dtype[np.unsignedinteger[Any]]) -> Pixels:
    peak = float(np.iinfo(dtype).max)
    values = plane * np.float32(peak)
    np.rint(values, out=values)
    np.clip(values, 0, peak, out=values)
    quantized: Pixels = values.astype(dtype)
    return quantized


def _alpha_changes(image: Pixels, scale: int, reduce: int) -> bool:
    """Whether alpha has to be restored: at the picture's own size, not reduced, it is right as it is."""
    return image.shape[2] in (2, 4) and scale * reduce > 1 and bool(np.ptp(image[:, :, -1]))


def _alpha(alpha: Pixels, restored: Pixels | None, top: int, rows: int, scale: int, reduce: int) -> Pixels:
    """Rows of the result's alpha: the restored one, but nowhere outside what the input holds around that place.

    So no edge gets a halo, and where the input is constant, such as wholly transparent or opaque, the result is too.
    """
    reach = ALPHA_REACH * reduce
    first, last = top // scale, -(-(top + rows) // scale)
    if restored is None:
        return np.ascontiguousarray(alpha[first:last].repeat(scale, 0).repeat(scale, 1)[top - first * scale :][:rows])
    begin, end = max(0, first - reach), min(len(alpha), last + reach)
    part = np.ascontiguousarray(alpha[begin:end])
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    least, most = (
        np.asarray(of(part, kernel), alpha.dtype)[first - begin : last - begin].repeat(scale, 0).repeat(scale, 1)
        for of in (cv2.erode, cv2.dilate)
    )
    skip = top - first * scale
    bounded: Pixels = np.clip(restored, least[skip:][:rows], most[skip:][:rows])
    return bounded
