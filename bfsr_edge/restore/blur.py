"""How far a picture can be reduced before it loses detail: how blurred it is, whatever its noise.

A network that enlarges four times and was trained on blurred inputs sharpens what lies at the scale of a few of its
pixels. A picture that is blurred over more of them is restored far better when it is reduced first, and one that is
not loses what the reduction takes. So the measure asks just that: reduce by area, enlarge again, and see what went
missing where the picture has edges, as a share of how steep the edges are. Noise and grain lie between the edges as
well as on them; what goes missing there is subtracted. What JPEG leaves beside edges is not detail either, and is told
by the steps between its blocks.

The limits were fitted to known pictures, blurred, noisy and compressed, so that restoring each at its own size comes
closest to the truth; ``benchmarks/decisions.py`` measures what the choice is worth (docs/restore.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge.images import Pixels
from bfsr_edge.restore.options import SCALES, Options

Float = npt.NDArray[np.float32]

BLOCK = 256
"""Side of the parts that are looked at, in pixels."""
BLOCKS = 36
"""Of a larger picture no more than about so many parts, evenly spread."""
EDGE_SHARE, FLAT_SHARE = 0.9, 0.3
"""Shares of the pixels whose gradient is below that of an edge, and of those that count as flat."""
LIMITS = {2: (0.095, 0.24, 0.07), 4: (0.13, 0.0, 0.05)}
"""What a reduction may take, in shares of the edges' steepness; how much more with noise, and with JPEG's blocks."""
BLOCKY = 0.25
"""Steps between blocks of 8 pixels, in mean steps between pixels: so large, the picture counts as compressed."""
UNEVEN = 1.1
"""Power of the noise at edges over that in flat parts, which are often so dark or bright that it is cut, at most."""
LEFT_ALONE = 0
"""In place of a reduction: the picture is best left as it is."""
SHARP, CLEAN = 0.38, 3.0
"""A picture is best left alone where halving takes more than this, and its noise is below this of 255."""


@dataclass(frozen=True)
class Detail:
    """What a picture would lose."""

    lost: dict[int, float]
    """By reducing 2 and 4 times: amplitude of what goes missing at the edges over their gradient, in pixels."""
    noise: float
    """Standard deviation of the finest detail in flat parts, of 255."""
    steepness: float
    """Gradient of the edges, of 255 a pixel."""
    blocks: float
    """Steps between JPEG's blocks beyond those between other pixels, in mean steps."""

    def bears(self, times: int) -> bool:
        """Whether reducing so many times takes no detail worth keeping."""
        if times == 1:
            return True
        limit, noisy, blocky = LIMITS[times]
        limit += noisy * min(1.0, self.noise / self.steepness) + blocky * min(1.0, self.blocks / BLOCKY)
        return self.lost[times] < limit

    @property
    def fine(self) -> bool:
        """Whether the picture is so sharp and clean that a network can only take from it at its own size."""
        return self.lost[2] > SHARP and self.noise < CLEAN


def reduction_for(image: Pixels, options: Options, factor: int) -> int:
    """How many times that picture is reduced before a network that enlarges ``factor`` times sees it: as asked, else
    by ``reduction``."""
    return options.reduce or reduction(image, options.scale, factor)


def reduction(image: Pixels, scale: int, most: int = max(SCALES)) -> int:
    """How many times a picture should be reduced before it is restored at ``scale`` times its size.

    Parameters
    ----------
    image
        uint8 or uint16, H×W×C. Alpha that varies is looked at too: it must not lose its edges either.
    scale
        Size of the result.
    most
        What the network enlarges: the reduction times ``scale`` is at most that.

    Returns
    -------
    int
        1, 2 or 4; ``LEFT_ALONE`` at scale 1 only.
    """
    if scale >= most:
        return 1
    planes = [image[:, :, :3] if image.shape[2] > 2 else image[:, :, :1]]
    if image.shape[2] in (2, 4) and np.ptp(image[:, :, -1]):
        planes.append(image[:, :, -1:])
    details = [found for plane in planes if (found := measure(plane)) is not None]
    if scale == 1 and details and details[0].fine:
        return LEFT_ALONE
    steps = [times for times in (1, *LIMITS) if times * scale <= most]
    return max(times for times in steps if all(detail.bears(times) for detail in details)) if details else 1


def measure(image: Pixels) -> Detail | None:
    """Look at 1 or 3 channels, uint8 or uint16, H×W×C; ``None`` where there are no edges to measure."""
    parts = [_Part(grey) for grey in _greys(image)]
    if not parts:
        return None
    gradients = np.concatenate([part.coarse.ravel() for part in parts])
    edge, flat = np.quantile(gradients, [EDGE_SHARE, FLAT_SHARE])
    for part in parts:
        part.divide(edge, flat)
    steep = _mean([part.fine[part.edges] for part in parts])
    if steep <= 0:
        return None
    lost = {}
    for times in LIMITS:
        missing = [part.missing(times) for part in parts]
        on = _mean([values[part.edges] for values, part in zip(missing, parts, strict=True)])
        beside = _mean([values[part.flat] for values, part in zip(missing, parts, strict=True)])
        lost[times] = float(np.sqrt(max(0.0, on - UNEVEN * beside) / steep))
    noise = float(np.sqrt(_mean([part.diagonal()[part.flat[:-1, :-1]] for part in parts])))
    return Detail(lost, noise, float(np.sqrt(steep)), _blocks(parts))


def _greys(image: Pixels) -> list[Float]:
    """Luma of the picture's parts, 0 to 255; sides and places are multiples of 8, as JPEG's blocks are."""
    height, width = (side // 8 * 8 for side in image.shape[:2])
    if min(height, width) < 16:
        return []
    rows, columns = _spread(height, width)
    return [_grey(image[y : min(y + BLOCK, height), x : min(x + BLOCK, width)]) for y in rows for x in columns]


def _spread(height: int, width: int) -> tuple[list[int], list[int]]:
    """Tops and lefts of about ``BLOCKS`` parts, multiples of 8; all of a picture that has no more."""
    down, across = -(-height // BLOCK), -(-width // BLOCK)
    thin = max(1.0, np.sqrt(down * across / BLOCKS))
    down, across = max(1, round(down / thin)), max(1, round(across / thin))
    down, across = min(down, BLOCKS), min(across, BLOCKS)
    if thin == 1.0:
        return list(range(0, height, BLOCK)), list(range(0, width, BLOCK))
    places = [
        [int(place) // 8 * 8 for place in np.linspace(0, max(0, length - BLOCK), number)]
        for length, number in ((height, down), (width, across))
    ]
    return places[0], places[1]


def _grey(part: Pixels) -> Float:
    weights = np.array([0.299, 0.587, 0.114] if part.shape[2] == 3 else [1.0], np.float32)
    return np.asarray(part.astype(np.float32) @ (weights * np.float32(255 / np.iinfo(part.dtype).max)), np.float32)


class _Part:
    """One part of the picture, and which of its pixels lie at edges."""

    def __init__(self, grey: Float) -> None:
        self.grey = grey
        self.fine, self.coarse = _gradient(grey, 1.5), _gradient(grey, 3.0)
        self.edges: npt.NDArray[np.bool_]
        self.flat: npt.NDArray[np.bool_]

    def divide(self, edge: float, flat: float) -> None:
        """Find crests of the squared gradient above ``edge``, and what is at most ``flat``."""
        near = np.ones((3, 3), np.uint8)
        crests = (self.coarse >= 0.96 * cv2.dilate(self.coarse, near)) & (self.coarse > edge)
        self.edges = cv2.dilate(crests.astype(np.uint8), near) > 0
        self.flat = self.coarse <= flat

    def missing(self, times: int) -> Float:
        """The square of what reducing so many times takes."""
        height, width = self.grey.shape
        small = cv2.resize(self.grey, (width // times, height // times), interpolation=cv2.INTER_AREA)
        return np.asarray((self.grey - cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)) ** 2)

    def diagonal(self) -> Float:
        """The square of the finest detail, which white noise fills with its own variance."""
        grey = self.grey
        return np.asarray(((grey[:-1, :-1] - grey[1:, :-1] - grey[:-1, 1:] + grey[1:, 1:]) / 2) ** 2)


def _blocks(parts: list[_Part]) -> float:
    """How much larger than those beside them the steps between columns and rows 8, 16, 24… are, in mean steps."""
    jumps = []
    for turned in (False, True):
        greys = [part.grey.T if turned else part.grey for part in parts]
        steps = [np.abs(grey[:, 1:] - grey[:, :-1]) for grey in greys]
        beside = [step[:, 1:-1] - (step[:, :-2] + step[:, 2:]) * np.float32(0.5) for step in steps]
        jumps.append(_mean([part[:, 6::8] for part in beside]) / max(_mean(steps), 1e-6))
    return max(0.0, sum(jumps) / 2)


def _gradient(grey: Float, sigma: float) -> Float:
    """The square of the gradient, of 255 a pixel, after a Gaussian blur."""
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1)
    return np.asarray((across**2 + down**2) / 4, np.float32)


def _mean(parts: list[Float]) -> float:
    values = np.concatenate([part.ravel() for part in parts])
    return float(values.mean(dtype=np.float64)) if values.size else 0.0
