"""The pairs that engines are scored on: the user's, the samples of a checkout, or made-up ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bfsr_edge import images
from bfsr_edge.errors import UsageError
from bfsr_edge.pairs import Pair, find_pairs

SAMPLES = Path(__file__).resolve().parent.parent.parent / "samples"
MADE = 4


@dataclass(frozen=True)
class Pictures:
    """Pairs of the suite's size."""

    pairs: tuple[Pair, ...]
    """Sorted by name."""
    source: str
    """Where they are from, for the report."""


def choose(lq: Path | None, gt: Path | None, work: Path, tile: int, most: int, say: Callable[[str], None]) -> Pictures:
    """Pairs whose degraded picture is tile×tile and whose truth four times that; ``most`` of them, spread over all.

    Without folders: the samples of a checkout, else faces-like pictures made here and degraded by the built-in
    degradation, in ``work``.

    Raises
    ------
    UsageError
        Only one folder is given, or there is no such pair.
    ImageError
        A picture cannot be read.
    """
    if (lq is None) != (gt is None):
        raise UsageError("--lq and --gt belong together", fix="give both, or neither for the samples")
    if lq is not None and gt is not None:
        # names of folders: a path would tell where a user keeps photographs
        source = f"{lq.name} and {gt.name}, given by --lq and --gt"
    elif (SAMPLES / "lq").is_dir() and tile == 128:
        lq, gt, source = SAMPLES / "lq", SAMPLES / "gt", "the repository's samples"
    else:
        lq, gt = make_pairs(work, tile)
        source = "made-up pictures, degraded by the built-in degradation: PSNR says nothing about faces"
    found = find_pairs(lq, gt).pairs
    fitting = []
    for pair in found:
        low, true = images.probe(pair.lq), images.probe(pair.gt)
        if (low.width, low.height, true.width, true.height) == (tile, tile, 4 * tile, 4 * tile):
            fitting.append(pair)
    left_out = len(found) - len(fitting)
    if not fitting:
        raise UsageError(
            f"none of {left_out} pairs is {tile}×{tile} and {4 * tile}×{4 * tile} pixels large",
            why=("every engine is measured at one size",),
            fix="give --tile N for pairs of another size",
        )
    if 0 < most < len(fitting):
        fitting = [fitting[place * len(fitting) // most] for place in range(most)]
    told = f"{len(fitting)} pairs: {source}"
    if left_out:
        told += f"; {left_out} of another size left out"
    say(f"pictures: {told}")
    return Pictures(tuple(fitting), told)


def make_pairs(work: Path, tile: int) -> tuple[Path, Path]:
    """Pictures with edges, gradients and texture, and what the blind degradation makes of them: two folders."""
    from bfsr_edge.degrade import degrade
    from bfsr_edge.selftest import pictures

    lq, gt = work / "lq", work / "gt"
    for number, picture in enumerate(pictures(MADE, 4 * tile, 4 * tile)):
        truth = np.rint(picture.transpose(1, 2, 0) * 255).astype(np.uint8)
        low, _ = degrade(truth, seed=number)
        images.write(gt / f"{number:02}.png", truth)
        images.write(lq / f"{number:02}.png", low)
    return lq, gt
