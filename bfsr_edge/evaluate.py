"""A model, or plain bicubic interpolation, against pairs of degraded and true pictures.

Pairs lie in two folders under the same file name. Every picture is run at its own size: the network's tile is set to
it, rounded up to the stride by reflection, and the margin is cut off the result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bfsr_edge import images
from bfsr_edge.errors import ImageError
from bfsr_edge.metrics import psnr, ssim, to_8bit
from bfsr_edge.pairs import Pair, Pairs, Pixels, read_rgb
from bfsr_edge.runtime import EngineInfo, load
from bfsr_edge.sheet import Row, draw
from bfsr_edge.weights import DEFAULT

BICUBIC = "bicubic"
"""As ``--model``: the baseline alone, no network."""


@dataclass(frozen=True)
class Score:
    """One picture's figures: PSNR in dB, ``inf`` where a result equals the truth; SSIM over RGB."""

    name: str
    psnr: float
    ssim: float
    bicubic_psnr: float


@dataclass(frozen=True)
class Report:
    """What came out of an evaluation."""

    model: str
    """The model's name, or "bicubic"."""
    info: EngineInfo | None
    """The engine; ``None`` for bicubic. ``tile`` is that of the last size that was run."""
    scores: tuple[Score, ...]
    """Sorted by name; at least one."""
    failures: dict[str, str]
    """Name to reason, for pairs that could not be scored."""
    pairs: Pairs
    """What was found."""

    @property
    def complete(self) -> bool:
        """Whether every picture in both folders was scored."""
        return not (self.failures or self.pairs.only_lq or self.pairs.only_gt)

    @property
    def ranked(self) -> list[Score]:
        """From the lowest PSNR to the highest."""
        return sorted(self.scores, key=lambda score: (score.psnr, score.name))

    def mean(self, figure: str) -> float:
        """Mean over pictures of ``psnr``, ``ssim`` or ``bicubic_psnr``."""
        return math.fsum(getattr(score, figure) for score in self.scores) / len(self.scores)

    def line(self) -> str:
        """The figures in one line."""
        worst = self.ranked[0]
        ran = f"{self.info.backend} {self.info.precision} on {self.info.device}" if self.info else "OpenCV"
        return (
            f"{self.model}: PSNR {self.mean('psnr'):.3f} dB, SSIM {self.mean('ssim'):.4f}, "
            f"bicubic {self.mean('bicubic_psnr'):.3f} dB, n {len(self.scores)}, "
            f"worst {worst.name} {worst.psnr:.2f} dB, {ran}"
        )

    def as_json(self) -> dict[str, Any]:
        """All of it for ``json.dumps``; an infinite PSNR becomes ``None``, as JSON has no infinity."""
        figures = ("psnr", "ssim", "bicubic_psnr")
        summary: dict[str, Any] = {figure: _finite(self.mean(figure)) for figure in figures}
        summary |= {"n": len(self.scores), "worst": self.ranked[0].name, "model": self.model}
        if self.info:
            engine = asdict(self.info)
            del engine["tile"]  # it follows the pictures' sizes
            summary |= {"engine": engine}
        rows = [{key: _finite(value) for key, value in asdict(score).items()} for score in self.scores]
        return {
            "summary": summary,
            "images": rows,
            "failures": self.failures,
            "only_lq": list(self.pairs.only_lq),
            "only_gt": list(self.pairs.only_gt),
        }


class Upscaler:
    """A network for pictures of any size, one engine at a time; or bicubic interpolation to four times the side.

    Parameters
    ----------
    model
        What ``bfsr_edge.runtime.load`` takes, or "bicubic".
    options
        Passed on to ``bfsr_edge.runtime.load``.
    """

    def __init__(self, model: str | os.PathLike[str] = DEFAULT, **options: Any) -> None:
        self._model = model
        self._options = options
        self._engine = None if os.fspath(model) == BICUBIC else load(model, **options)
        self.name = self._engine.info.model if self._engine else BICUBIC
        self.scale = self._engine.info.scale if self._engine else 4

    @property
    def info(self) -> EngineInfo | None:
        """The engine that ran last; ``None`` for bicubic."""
        return self._engine.info if self._engine else None

    def __call__(self, pictures: Sequence[Pixels]) -> list[Pixels]:
        """Enlarge a batch: uint8 H×W×3 RGB, all of one size, to sH×sW."""
        if self._engine is None:
            return [bicubic(picture, self.scale) for picture in pictures]
        height, width = pictures[0].shape[:2]
        stride = self._engine.info.stride
        below, right = -height % stride, -width % stride
        tile = (height + below, width + right)
        if self._engine.info.tile != tile:
            self._engine = load(self._model, **self._options, tile=tile)
        stacked = np.pad(np.stack(pictures), ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")
        batch = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
        enlarged = self._engine.run(batch)[:, :, : height * self.scale, : width * self.scale]
        return [to_8bit(picture.transpose(1, 2, 0)) for picture in enlarged]


def evaluate(
    pairs: Pairs,
    upscaler: Upscaler,
    *,
    batch: int = 4,
    progress: Callable[[], None] = lambda: None,
    results: Callable[[str], Pixels] | None = None,
) -> Report:
    """Score every pair: the mean over pictures of each one's PSNR is the challenge's score.

    A pair that cannot be read or does not fit is reported and the rest go on.

    Parameters
    ----------
    pairs
        From ``find_pairs``.
    upscaler
        The network, or bicubic.
    batch
        Pictures of the same size that run together, at most.
    progress
        Called once for each pair that is dealt with.
    results
        Where the network ran before: a pair's name to its result, uint8 RGB. It is not run again then.

    Raises
    ------
    ImageError
        Not a single pair could be scored, or a result is not there.
    BackendError
        The network failed, or gave NaN.
    """
    scores: list[Score] = []
    failures: dict[str, str] = {}
    for group in _batches(pairs.pairs, upscaler.scale, batch, failures, progress):
        read: list[tuple[Pair, Pixels, Pixels]] = []
        for pair in group:
            try:
                read.append((pair, read_rgb(pair.lq), read_rgb(pair.gt)))
            except ImageError as error:
                failures[pair.name] = error.what
                progress()
        if results is not None:
            made = [results(pair.name) for pair, _, _ in read]
        else:
            made = upscaler([low for _, low, _ in read]) if read else []
        for (pair, low, truth), result in zip(read, made, strict=True):
            baseline = psnr(bicubic(low, upscaler.scale), truth)
            scores.append(Score(pair.name, psnr(result, truth), ssim(result, truth), baseline))
            progress()
    if not scores:
        name, reason = next(iter(failures.items()))
        raise ImageError(f"none of {len(failures)} pairs could be scored", why=(f"{name}: {reason}",))
    scores.sort(key=lambda score: score.name)
    return Report(upscaler.name, upscaler.info, tuple(scores), failures, pairs)


def _batches(
    pairs: Sequence[Pair], scale: int, batch: int, failures: dict[str, str], progress: Callable[[], None]
) -> Iterator[list[Pair]]:
    """Pairs that fit, those of one size together, as one engine serves one size."""
    sized = []
    for pair in pairs:
        try:
            sized.append((_fitting(pair, scale), pair))
        except ImageError as error:
            failures[pair.name] = error.what
            progress()
    sized.sort(key=lambda entry: (entry[0], entry[1].name))
    for _, same in groupby(sized, key=lambda entry: entry[0]):
        group = [pair for _, pair in same]
        yield from (group[start : start + batch] for start in range(0, len(group), batch))


def _fitting(pair: Pair, scale: int) -> tuple[int, int]:
    """Height and width of the degraded picture; ImageError where the truth is not ``scale`` times as large."""
    low, true = images.probe(pair.lq), images.probe(pair.gt)
    if (true.width, true.height) != (scale * low.width, scale * low.height):
        raise ImageError(
            f"{pair.name}: the truth has {true.width}×{true.height} pixels, "
            f"not {scale} times the {low.width}×{low.height} of the degraded picture"
        )
    return low.height, low.width


def bicubic(picture: Pixels, scale: int) -> Pixels:
    """The baseline: ``cv2.INTER_CUBIC`` on 8-bit values."""
    import cv2

    height, width = picture.shape[:2]
    larger = cv2.resize(picture, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
    return np.asarray(larger, np.uint8)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_sheet(path: Path, report: Report, upscaler: Upscaler) -> None:
    """A picture of the worst, lower quartile, median and best results beside their inputs and truths.

    Raises
    ------
    UsageError, ImageError
        The path's extension names no picture format, or it cannot be written.
    """
    ranked = report.ranked
    pairs = {pair.name: pair for pair in report.pairs.pairs}
    last = len(ranked) - 1
    chosen = {"best": last, "median": last // 2, "lower quartile": last // 4, "worst": 0}
    rows = []
    # of fewer than four pictures, each is shown once
    for place, label in sorted({place: label for label, place in chosen.items()}.items()):
        score = ranked[place]
        low, truth = read_rgb(pairs[score.name].lq), read_rgb(pairs[score.name].gt)
        caption = (
            f"{label}: {score.name}  {score.psnr:.2f} dB (bicubic {score.bicubic_psnr:.2f})  SSIM {score.ssim:.3f}"
        )
        rows.append(Row(caption, (low, upscaler([low])[0], truth)))
    images.write(path, draw(("input", report.model, "truth"), rows))
