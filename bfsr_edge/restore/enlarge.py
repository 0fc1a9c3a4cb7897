"""A picture merely enlarged, for what no network is to touch, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from bfsr_edge.images import Pixels
from bfsr_edge.restore.array import Paste
from bfsr_edge.restore.transparency import spread
from bfsr_edge.tiling import BAND

CONTEXT = 4
"""Input rows around a band that bicubic interpolation looks at, and to spare."""


def enlarge(image: Pixels, scale: int, paste: Paste) -> Iterator[Pixels]:
    """The picture, bicubically enlarged, with faces in it: bands of rows from top to bottom.

    Parameters
    ----------
    image
        uint8 or uint16, H×W×C.
    scale
        Size of the result relative to the input. At 1 every pixel that no face touches is the input's.
    paste
        Puts faces into R, G and B, in [0, 1]; all three of a grey picture, which becomes their mean.
    """
    height, width, channels = image.shape
    image = spread(image) if scale > 1 else image
    peak = float(np.iinfo(image.dtype).max)
    for top in range(0, height * scale, BAND):
        bottom = min(top + BAND, height * scale)
        first, last = max(0, top // scale - CONTEXT), min(height, -(-bottom // scale) + CONTEXT)
        part = np.ascontiguousarray(image[first:last])
        if scale > 1:
            size = (width * scale, len(part) * scale)
            part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_CUBIC), image.dtype)
        band = part.reshape(-1, width * scale, channels)[top - first * scale :][: bottom - top].copy()
        places = (0, 1, 2) if channels > 2 else (0, 0, 0)
        planes = [np.multiply(band[:, :, place], np.float32(1 / peak), dtype=np.float32) for place in places]
        paste(planes, top)
        colours = (
            np.stack(planes, axis=2) if channels > 2 else np.mean(planes, axis=0, keepdims=True).transpose(1, 2, 0)
        )
        band[:, :, : colours.shape[2]] = np.clip(np.rint(colours * np.float32(peak)), 0, peak)
        yield band
