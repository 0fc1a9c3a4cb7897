"""The shipped networks on whole photographs: tiles must not show.

Two tilings of one photograph, the second moved by half a step, must agree, and across the lines where tiles begin, meet
and end the picture must be no rougher than at the same place in the other tiling, where no tile ends. (Comparing with
other places of the same picture would measure what is in the picture.)
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bfsr_edge import images, load
from bfsr_edge.metrics import psnr
from bfsr_edge.restore.array import plan_for
from bfsr_edge.restore.options import OVERLAP, TILE, Options
from bfsr_edge.restore.picture import restore_picture
from bfsr_edge.tiling import Axis

Array = npt.NDArray[Any]


AGREEMENT = {"edge": 40, "edge-sharp": 40}
"""dB that two tilings agree by at least; texture that is drawn sharper moves more with what a tile sees."""


@lru_cache(maxsize=2)
def engine(name: str, tile: int) -> Any:
    return load(name, tile=tile)


def lines(axis: Axis, scale: int) -> list[int]:
    """Output positions where a tile begins, where two meet half and half, and where one ends."""
    found: set[int] = set()
    for start, following in zip(axis.starts, axis.starts[1:], strict=False):
        end = start + axis.tile
        found |= {following * scale, (following + end) * scale // 2, end * scale}
    return sorted(line for line in found if line < axis.length * scale)


def steps_across(picture: Array, rows: Axis, columns: Axis, scale: int) -> float:
    """Sum of absolute differences over the lines, both ways."""
    grey = picture.astype(np.float64).mean(2)
    down = sum(np.abs(grey[line] - grey[line - 1]).sum() for line in lines(rows, scale))
    across = sum(np.abs(grey[:, line] - grey[:, line - 1]).sum() for line in lines(columns, scale))
    return float(down + across)


def compare(name: str, pixels: Array, tile: int, overlap: int) -> tuple[float, float, float]:
    """Agreement of two tilings in dB, and the roughness across the lines of the first, in it and in the second."""
    network = engine(name, tile)
    stride, scale = network.info.stride, network.info.scale
    moved = (tile - 2 * overlap) // 2 // stride * stride
    layout = plan_for(network.info, *pixels.shape[:2], scale=scale, overlap=overlap)
    assert layout != plan_for(network.info, *pixels.shape[:2], scale=scale, overlap=overlap, offset=moved)
    first = restore_picture(pixels, network, Options(overlap=overlap))
    second = restore_picture(pixels, network, Options(overlap=overlap, offset=moved))
    rough = [steps_across(picture, layout.rows, layout.columns, scale) for picture in (first, second)]
    return psnr(np.asarray(first, np.uint8), np.asarray(second, np.uint8)), rough[0], rough[1]


def check(name: str, photographs: list[Array], tile: int, overlap: int) -> None:
    measured = [compare(name, pixels, tile, overlap) for pixels in photographs]
    assert min(agreement for agreement, _, _ in measured) >= AGREEMENT[name]
    assert sum(here for _, here, _ in measured) <= 1.05 * sum(there for _, _, there in measured)


@pytest.mark.parametrize("name", AGREEMENT)
def test_tiles_do_not_show_on_the_public_sample(name: str, samples: Path) -> None:
    check(name, [images.read(samples / "lq" / "hopper.png").pixels], tile=96, overlap=OVERLAP)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGREEMENT)
def test_tiles_do_not_show_on_photographs(name: str, shared_data: Path) -> None:
    paths = sorted((shared_data / "photos").iterdir())
    assert len(paths) == 9
    photographs = [images.read(path).pixels for path in paths]
    # two tilings of a photograph that is hardly larger than a tile are the same one: smaller tiles for those
    large = [pixels for pixels in photographs if max(pixels.shape[:2]) > 2 * TILE]
    small = [pixels for pixels in photographs if max(pixels.shape[:2]) <= 2 * TILE]
    check(name, large, TILE, OVERLAP)
    check(name, small, 128, OVERLAP)
