"""Variations of a training pair beyond flip and shift: what is drawn, and applying it with OpenCV on 8-bit pictures.

`draw` gives plain numbers, from a generator of its own for every sample: whatever a recipe turns on here, its faces,
moves and degradations stay the same ones. `before` changes the truth in front of the degradation; `behind` changes
both pictures after it. Every step rounds to 8 bits, half to even, and clips. `device.augment` holds the same functions
for a batch.

Hue and saturation go through HSV in floating point: OpenCV's 8-bit HSV holds the hue in steps of 2 degrees, which
alone moves a channel by up to 4/255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bfsr_edge import degrade
from bfsr_edge.train.recipe import Augment, Recipe

Byte = NDArray[np.uint8]
Triple = tuple[int, int, int]

NONE = Augment()
TAG = 0xA06  # sets this generator apart from the others of the same seed and number
LEVELS = np.arange(256, dtype=np.float32)
ORDERS: tuple[Triple, ...] = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
CUTBLUR_SPREAD = 0.01  # standard deviation of the side, as a part of the picture's, in the paper's code


@dataclass(frozen=True)
class Jitter:
    """Photometric distortion as SSD does it (Liu et al. 2016, arXiv 1512.02325); the defaults change nothing."""

    brightness: float = 0.0
    """Added to all channels, in 1/255."""
    contrast: float = 1.0
    """Factor of all channels."""
    contrast_first: bool = True
    """Contrast comes in front of saturation and hue, or behind them."""
    saturation: float = 1.0
    """Factor of the saturation in HSV."""
    hue: float = 0.0
    """Turn of the hue, as a part of the full circle."""


@dataclass(frozen=True)
class Square:
    """A part of the input."""

    top: int
    """First row, in pixels of the input."""
    left: int
    """First column."""
    side: int
    """Rows and columns."""


@dataclass(frozen=True)
class Variation:
    """What happens to one pair; the defaults change nothing. The order of the fields is the order of the steps."""

    rotation: float = 0.0
    """Counter-clockwise about the centre, in degrees."""
    brightness: float = 1.0
    """Factor of all channels."""
    hue: float = 0.0
    """Turn of the hue, as a part of the full circle."""
    jitter: Jitter = Jitter()
    crop: Square | None = None
    """What is kept of the input; of the truth, the same at four times the size."""
    blend: float = 1.0
    """Weight of the pictures in a mix with ``colour``."""
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB in 0 … 255."""
    permutation: Triple = (0, 1, 2)
    """For each channel, the one that it was."""
    cutblur: Square | None = None
    """The rectangle of CutBlur, behind the crop."""
    truth_inside: bool = True
    """Inside of ``cutblur`` lies the reduced truth and around it the input, or the other way round."""


def draw(recipe: Recipe, number: int) -> Variation:
    """The variation of sample ``number``.

    The same number of values is taken whatever the recipe asks for, so turning one step on leaves the others alone. A
    permutation is one of the five that change something; Yoo et al. (2020) draw among all six.
    """
    plan = recipe.augment
    if plan == NONE and not recipe.data.crop:
        return Variation()  # what follows would give the same, for the time of a few degradations' draws
    rng = np.random.default_rng((recipe.seed, number, TAG))
    chances = (plan.rotation, plan.brightness, plan.hue, plan.blend, plan.permutation, plan.cutblur)
    rotated, brightened, turned, blended, permuted, cut = (bool(hit) for hit in rng.uniform(size=6) < chances)
    rotation, brightness, hue = (float(part) for part in rng.uniform(-1, 1, size=3))
    jitter = _draw_jitter(plan, rng)
    room = recipe.data.size // degrade.SCALE
    side = recipe.data.crop // degrade.SCALE
    crop = _draw_square(rng, room, side)
    weight = float(rng.uniform(plan.blend_alpha, 1))
    red, green, blue = (float(level) for level in rng.uniform(0, 255, size=3))
    order = ORDERS[int(rng.uniform() * len(ORDERS))]
    truth_inside = bool(rng.uniform() < 0.5)
    # last, as a normal draw takes a varying number of values
    edge = side or room
    square = _draw_square(rng, edge, min(max(1, int(edge * rng.normal(plan.cutblur_alpha, CUTBLUR_SPREAD))), edge))
    return Variation(
        rotation=rotation * plan.rotation_degrees if rotated else 0.0,
        brightness=1 + brightness * plan.brightness_range if brightened else 1.0,
        hue=hue * plan.hue_range if turned else 0.0,
        jitter=jitter,
        crop=crop if recipe.data.crop else None,
        blend=weight if blended else 1.0,
        colour=(red, green, blue) if blended else (0.0, 0.0, 0.0),
        permutation=order if permuted else (0, 1, 2),
        cutblur=square if cut else None,
        truth_inside=truth_inside or not cut,
    )


def _draw_jitter(plan: Augment, rng: np.random.Generator) -> Jitter:
    added, stretched, coloured, turned = (bool(hit) for hit in rng.uniform(size=4) < plan.jitter)
    brightness = float(rng.uniform(-1, 1)) * plan.jitter_brightness
    contrast = float(rng.uniform(*plan.jitter_contrast))
    saturation = float(rng.uniform(*plan.jitter_saturation))
    hue = float(rng.uniform(-1, 1)) * plan.jitter_hue / 180  # its unit is 2 degrees
    contrast_first = bool(rng.uniform() < 0.5)
    return Jitter(
        brightness=brightness if added else 0.0,
        contrast=contrast if stretched else 1.0,
        contrast_first=contrast_first or not stretched,
        saturation=saturation if coloured else 1.0,
        hue=hue if turned else 0.0,
    )


def _draw_square(rng: np.random.Generator, room: int, side: int) -> Square:
    top, left = (int(part * (room - side + 1)) for part in rng.uniform(size=2))
    return Square(top, left, side)


def rotate(image: Byte, degrees: float) -> Byte:
    """H×W×3 turned about its centre, bilinear, the border mirrored with its last pixel, as in moves."""
    import cv2

    if not degrees:
        return image
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    turned = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8)


def add(image: Byte, amount: float) -> Byte:
    """All channels plus ``amount``, in 1/255."""
    return _mapped(image, LEVELS + np.float32(amount)) if amount else image


def multiply(image: Byte, factor: float) -> Byte:
    """All channels times ``factor``."""
    return _mapped(image, LEVELS * np.float32(factor)) if factor != 1 else image


def _mapped(image: Byte, values: NDArray[np.float32]) -> Byte:
    """Each level replaced by its value in a table, 256 or 256×3, rounded and clipped."""
    import cv2

    table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table.reshape(1, 256, -1)), np.uint8)


def recolour(image: Byte, turn: float, saturation: float) -> Byte:
    """The hue turned by a part of the full circle and the saturation times a factor, in HSV."""
    import cv2

    if not turn and saturation == 1:
        return image
    hsv = np.asarray(cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2HSV), np.float32)
    hue = hsv[..., 0]
    hue += np.float32(360 * (turn % 1))
    np.subtract(hue, np.float32(360), out=hue, where=hue >= 360)
    if saturation != 1:
        np.minimum(hsv[..., 1] * np.float32(saturation), 1, out=hsv[..., 1])
    return degrade.to_bytes(np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32))


def jitter(image: Byte, drawn: Jitter) -> Byte:
    """Brightness, contrast, saturation and hue; contrast last unless it is first."""
    image = add(image, drawn.brightness)
    if drawn.contrast_first:
        image = multiply(image, drawn.contrast)
    image = recolour(image, drawn.hue, drawn.saturation)
    return image if drawn.contrast_first else multiply(image, drawn.contrast)


def before(truth: Byte, variation: Variation) -> Byte:
    """All that happens in front of the degradation, H×W×3."""
    truth = rotate(truth, variation.rotation)
    truth = multiply(truth, variation.brightness)
    truth = recolour(truth, variation.hue, 1.0)
    return jitter(truth, variation.jitter)


def crop(low: Byte, truth: Byte, square: Square | None) -> tuple[Byte, Byte]:
    """The same part of both: ``side`` pixels of the input, four times as many of the truth."""
    return (_part(low, square, 1), _part(truth, square, degrade.SCALE)) if square else (low, truth)


def _part(image: Byte, square: Square, scale: int) -> Byte:
    top, left, side = square.top * scale, square.left * scale, square.side * scale
    return image[top : top + side, left : left + side]


def blend(image: Byte, weight: float, colour: tuple[float, float, float]) -> Byte:
    """``weight`` of the picture and the rest of one colour."""
    if weight == 1:
        return image
    part = np.float32(weight)
    return _mapped(image, part * LEVELS[:, None] + (1 - part) * np.asarray(colour, np.float32))


def permute(image: Byte, order: Triple) -> Byte:
    """The channels in another order."""
    import cv2

    if order == (0, 1, 2):
        return image
    planes = cv2.split(image)
    return np.asarray(cv2.merge([planes[channel] for channel in order]), np.uint8)


def cutblur(low: Byte, truth: Byte, square: Square | None, truth_inside: bool) -> Byte:
    """The input with a part of it replaced by the truth, reduced by area (CutBlur, Yoo et al. 2020, arXiv 2004.00448).

    The paper enlarges the input to the size of the truth instead; this network's input has a quarter of that size.
    """
    import cv2

    if square is None:
        return low
    reduced = np.asarray(cv2.resize(truth, (low.shape[1], low.shape[0]), interpolation=cv2.INTER_AREA), np.uint8)
    inner, outer = (reduced, low) if truth_inside else (low, reduced)
    out: Byte = outer.copy()
    _part(out, square, 1)[:] = _part(inner, square, 1)
    return out


def behind(low: Byte, truth: Byte, variation: Variation) -> tuple[Byte, Byte]:
    """All that happens after the degradation: input h×w×3 and truth 4h×4w×3."""
    low, truth = crop(low, truth, variation.crop)
    low, truth = (blend(image, variation.blend, variation.colour) for image in (low, truth))
    low, truth = (permute(image, variation.permutation) for image in (low, truth))
    return cutblur(low, truth, variation.cutblur, variation.truth_inside), truth
