"""Tiles: where they lie, that weights sum to one, that tiled equals whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bfsr_edge import tiling
from bfsr_edge.errors import UsageError


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    stride = draw(st.sampled_from([1, 2, 4, 8]))
    tile = stride * draw(st.integers(1, 8))
    overlap = draw(st.integers(0, tile // 2))
    assume(tile - 2 * overlap >= stride)
    return {
        "height": draw(st.integers(1, 100)),
        "width": draw(st.integers(1, 100)),
        "tile": (tile, tile),
        "overlap": overlap,
        "stride": stride,
        "receptive_field": draw(st.integers(0, 40)),
        "offset": stride * draw(st.integers(0, 5)),
    }


@given(layouts())
@settings(max_examples=150, deadline=None)
def test_tiles_cover_the_picture_and_share_the_overlap(layout: dict[str, Any]) -> None:
    plan = tiling.plan(**layout)
    for axis in (plan.rows, plan.columns):
        assert axis.starts[0] == 0
        assert axis.starts[-1] + axis.tile >= axis.length
        assert axis.starts[-1] == 0 or axis.starts[-1] + axis.tile < axis.length + layout["stride"]
        assert all(start % layout["stride"] == 0 for start in axis.starts)
        gaps = np.diff(axis.starts)
        assert (gaps > 0).all()
        assert (gaps <= axis.tile - 2 * layout["overlap"]).all()


@given(layouts(), st.sampled_from([1, 2, 4]))
@settings(max_examples=100, deadline=None)
def test_weights_sum_to_one_and_are_never_negative(layout: dict[str, Any], scale: int) -> None:
    axis = tiling.plan(**layout).columns
    total = np.zeros((axis.starts[-1] + axis.tile) * scale)
    for start, weight in zip(axis.starts, axis.weights(scale), strict=True):
        assert weight.min() >= 0
        total[start * scale : (start + axis.tile) * scale] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def run(image: np.ndarray, plan: tiling.Plan, network: Any, scale: int) -> np.ndarray:
    tiles = (network(tiling.cut(image, plan, *position)) for position in plan.positions())
    return np.concatenate([band.copy() for band in tiling.blend(plan, tiles, scale)], axis=1)


@given(layouts(), st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_a_network_without_context_is_unchanged_by_tiling(layout: dict[str, Any], seed: int) -> None:
    image = np.random.default_rng(seed).random((layout["height"], layout["width"], 2)).astype(np.float32)

    def enlarge(tile: np.ndarray) -> np.ndarray:
        larger: np.ndarray = tile.repeat(2, axis=0).repeat(2, axis=1).transpose(2, 0, 1).copy()
        return larger

    np.testing.assert_allclose(run(image, tiling.plan(**layout), enlarge, 2), enlarge(image), atol=1e-6)


@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 11), st.sampled_from([0, 8, 16, 24]))
@settings(max_examples=50, deadline=None)
def test_a_receptive_field_below_the_overlap_gives_the_whole_result(
    height: int, width: int, radius: int, offset: int
) -> None:
    """Zeros are what a network pads with: at the picture's edge both see them, at inner edges none may be seen."""
    import cv2

    image = np.random.default_rng(height * width).random((height, width, 1)).astype(np.float32)

    def blur(tile: np.ndarray) -> np.ndarray:
        kernel = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.blur(tile[:, :, 0], kernel, borderType=cv2.BORDER_CONSTANT), np.float32)[None]

    plan = tiling.plan(height, width, tile=(48, 48), overlap=12, stride=8, receptive_field=radius, offset=offset)
    tiled = run(image, plan, blur, 1)
    whole = blur(np.pad(image, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="reflect"))[:, :height, :width]
    assert tiled.shape == whole.shape
    if min(height, width) >= 48:
        np.testing.assert_allclose(tiled, whole, atol=1e-5)
    else:  # short sides are reflected up to a tile: another border than the zeros of the whole picture
        inner = np.s_[:, radius : height - radius, radius : width - radius]
        np.testing.assert_allclose(tiled[inner], whole[inner], atol=1e-5)


def test_rows_come_as_soon_as_they_are_final() -> None:
    plan = tiling.plan(400, 64, tile=(64, 64), overlap=8)
    asked = 0

    def tiles() -> Any:
        nonlocal asked
        for _ in plan.positions():
            asked += 1
            yield np.ones((3, 64, 64), np.float32)

    rows = 0
    for band in tiling.blend(plan, tiles(), 1):
        assert band.shape[1] <= tiling.BAND
        rows += band.shape[1]
        assert plan.rows.starts[asked - 1] < rows <= plan.rows.starts[asked - 1] + 64
    assert rows == 400


def test_an_offset_moves_the_inner_edges_only() -> None:
    one = tiling.plan(500, 500, tile=(64, 64), overlap=8, stride=8)
    other = tiling.plan(500, 500, tile=(64, 64), overlap=8, stride=8, offset=24)
    assert one.rows.starts[0] == other.rows.starts[0]
    assert one.rows.starts[-1] == other.rows.starts[-1]
    assert not set(one.rows.starts[1:-1]) & set(other.rows.starts[1:-1])


def test_a_single_pixel_is_one_reflected_tile() -> None:
    plan = tiling.plan(1, 1, tile=(32, 32), overlap=4, stride=8)
    tile = tiling.cut(np.full((1, 1, 3), 7, np.uint8), plan, 0, 0)
    assert plan.tiles == 1
    assert tile.shape == (32, 32, 3)
    assert (tile == 7).all()


@pytest.mark.parametrize(
    "wrong",
    [{"overlap": 16}, {"overlap": -1}, {"offset": 3}, {"tile": (30, 30)}, {"height": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_laid_is_refused(wrong: dict[str, Any]) -> None:
    layout: dict[str, Any] = {"height": 50, "width": 50, "tile": (32, 32), "overlap": 4, "stride": 4}
    with pytest.raises(UsageError):
        tiling.plan(**{**layout, **wrong})
