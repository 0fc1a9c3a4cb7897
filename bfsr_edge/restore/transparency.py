"""Cut-outs: what colour the invisible has.

Programs store black, or anything, where alpha is 0. A network or an interpolation that looks at the neighbours of a
visible pixel would draw that into its edge, so the invisible first takes the colour of the nearest visible pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge.images import Pixels

REACH = 64
"""Rows that are looked at beyond the ones at hand: further in, the invisible keeps its colour, and nobody sees it."""
ROWS = 256
"""At a time, so that a large picture does not need its memory several times over."""


def spread(image: Pixels) -> Pixels:
    """A picture whose invisible pixels have the colour of the nearest visible one; alpha stays as it is.

    Parameters
    ----------
    image
        uint8 or uint16, H×W×C, colours not multiplied by alpha.

    Returns
    -------
    numpy.ndarray
        The same shape and type; ``image`` itself where it has no alpha, or nothing or everything of it is invisible.
    """
    if image.shape[2] not in (2, 4):
        return image
    hidden = image[:, :, -1] == 0
    if hidden.all() or not hidden.any():
        return image
    result: Pixels = image.copy()
    for top in range(0, len(image), ROWS):
        first, bottom = max(0, top - REACH), min(len(image), top + ROWS)
        part = hidden[first : bottom + REACH]
        if part.all() or not part.any():
            continue
        nearest = _nearest(part)[top - first : bottom - first]
        colours = image[first : bottom + REACH, :, :-1].reshape(-1, image.shape[2] - 1)
        result[top:bottom, :, :-1] = colours[nearest]
    return result


def _nearest(hidden: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """For each pixel the place of the nearest visible one, which a visible one is itself, counted row by row."""
    _, labels = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    visible = np.flatnonzero(~hidden)
    place = np.zeros(int(labels.max()) + 1, np.intp)
    place[labels.ravel()[visible]] = visible
    return np.asarray(place[labels])
