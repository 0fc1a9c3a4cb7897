"""`bfsr_edge.train.augment` for a whole batch on the training device: the same functions, one value for each picture.

Pictures are N×3×H×W, RGB, whole numbers 0 … 255 as float32. A step is computed for the pictures that it changes only,
all of them at once. Given the same draws both pipelines agree within 1/255 a step; tests compare them step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from bfsr_edge.degrade import SCALE
from bfsr_edge.train.augment import Jitter, Square, Triple, Variation
from bfsr_edge.train.device.degrade import to_device


def _some(images: Tensor, chosen: Sequence[bool], change: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """The batch with ``change`` applied to the chosen pictures; it is given them and their places."""
    places = [place for place, yes in enumerate(chosen) if yes]
    if not places:
        return images
    index = to_device(places, images.device, torch.int64)
    return images.index_copy(0, index, change(images[index], places))


def _column(values: Sequence[float], places: list[int], device: torch.device) -> Tensor:
    """The values at ``places`` as n×1×1×1."""
    return to_device([values[place] for place in places], device).view(-1, 1, 1, 1)


@lru_cache(maxsize=16)
def _hue_offsets(device: torch.device) -> Tensor:
    """How far red, green and blue lie from the hue's origin, in sixths of the circle; 1×3×1×1, made once."""
    return torch.tensor([5.0, 3.0, 1.0], device=device).view(1, 3, 1, 1)


def _levels(images: Tensor) -> Tensor:
    """Rounded, half to even, and clipped; in place."""
    return images.round_().clamp_(0, 255)


def rotate(images: Tensor, degrees: Sequence[float]) -> Tensor:
    """`augment.rotate`, square pictures."""

    def change(some: Tensor, places: list[int]) -> Tensor:
        side = some.shape[-1]
        angle = _column([math.radians(d) for d in degrees], places, some.device)[..., 0]
        axis = (torch.arange(side, device=some.device).float() + 0.5) * (2 / side) - 1
        x, y = axis[None, None, :], axis[None, :, None]
        cosine, sine = torch.cos(angle), torch.sin(angle)
        # no matrix product, which a GPU may do in TF32: that has half a pixel's error here
        grid = torch.stack((cosine * x - sine * y, sine * x + cosine * y), dim=-1)
        return _levels(F.grid_sample(some, grid, padding_mode="reflection", align_corners=False))

    return _some(images, [bool(d) for d in degrees], change)


def add(images: Tensor, amounts: Sequence[float]) -> Tensor:
    """`augment.add`."""
    return _some(
        images,
        [bool(amount) for amount in amounts],
        lambda some, places: _levels(some + _column(amounts, places, some.device)),
    )


def multiply(images: Tensor, factors: Sequence[float]) -> Tensor:
    """`augment.multiply`."""
    return _some(
        images,
        [factor != 1 for factor in factors],
        lambda some, places: _levels(some * _column(factors, places, some.device)),
    )


def recolour(images: Tensor, turns: Sequence[float], saturations: Sequence[float]) -> Tensor:
    """`augment.recolour`."""

    def change(some: Tensor, places: list[int]) -> Tensor:
        red, green, blue = some.unbind(1)
        value = some.amax(1)
        chroma = value - some.amin(1)
        divisor = chroma.clamp_min(1)  # levels are whole numbers, so this spares grey alone, which has no hue
        sextant = torch.where(
            value == red,
            (green - blue) / divisor,
            torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
        )
        sextant = sextant + 6 * _column(turns, places, some.device)[..., 0]
        # chroma is value times saturation, and saturation ends at 1
        chroma = torch.minimum(chroma * _column(saturations, places, some.device)[..., 0], value)
        # each channel falls from the value by the chroma, as far as its own hue is away
        distance = (sextant[:, None] + _hue_offsets(some.device)) % 6
        fall = torch.minimum(distance, 4 - distance).clamp_(0, 1)
        return _levels(value[:, None] - chroma[:, None] * fall)

    pairs = zip(turns, saturations, strict=True)
    return _some(images, [bool(turn) or saturation != 1 for turn, saturation in pairs], change)


def jitter(images: Tensor, drawn: Sequence[Jitter]) -> Tensor:
    """`augment.jitter`."""
    images = add(images, [j.brightness for j in drawn])
    images = multiply(images, [j.contrast if j.contrast_first else 1.0 for j in drawn])
    images = recolour(images, [j.hue for j in drawn], [j.saturation for j in drawn])
    return multiply(images, [1.0 if j.contrast_first else j.contrast for j in drawn])


def before(truth: Tensor, variations: Sequence[Variation]) -> Tensor:
    """`augment.before`."""
    truth = rotate(truth, [v.rotation for v in variations])
    truth = multiply(truth, [v.brightness for v in variations])
    truth = recolour(truth, [v.hue for v in variations], [1.0] * len(variations))
    return jitter(truth, [v.jitter for v in variations])


def crop(low: Tensor, truth: Tensor, squares: Sequence[Square | None]) -> tuple[Tensor, Tensor]:
    """`augment.crop`; all squares have the same side, or there is none."""
    kept = [square for square in squares if square is not None]
    return (_parts(low, kept, 1), _parts(truth, kept, SCALE)) if kept else (low, truth)


def _parts(images: Tensor, squares: Sequence[Square], scale: int) -> Tensor:
    device = images.device
    side = torch.arange(squares[0].side * scale, device=device)
    rows = to_device([s.top * scale for s in squares], device, torch.int64)[:, None] + side
    columns = to_device([s.left * scale for s in squares], device, torch.int64)[:, None] + side
    pictures = torch.arange(len(squares), device=device).view(-1, 1, 1, 1)
    channels = torch.arange(3, device=device).view(1, -1, 1, 1)
    return images[pictures, channels, rows[:, None, :, None], columns[:, None, None, :]]


def blend(images: Tensor, weights: Sequence[float], colours: Sequence[tuple[float, float, float]]) -> Tensor:
    """`augment.blend`."""

    def change(some: Tensor, places: list[int]) -> Tensor:
        part = _column(weights, places, some.device)
        colour = to_device([colours[place] for place in places], some.device)
        return _levels(part * some + (1 - part) * colour[:, :, None, None])

    return _some(images, [weight != 1 for weight in weights], change)


def permute(images: Tensor, orders: Sequence[Triple]) -> Tensor:
    """`augment.permute`."""

    def change(some: Tensor, places: list[int]) -> Tensor:
        channels = to_device([orders[place] for place in places], some.device, torch.int64)
        return some[torch.arange(len(places), device=some.device)[:, None], channels]

    return _some(images, [order != (0, 1, 2) for order in orders], change)


def cutblur(low: Tensor, truth: Tensor, squares: Sequence[Square | None], truth_inside: Sequence[bool]) -> Tensor:
    """`augment.cutblur`."""

    def change(some: Tensor, places: list[int]) -> Tensor:
        index = to_device(places, some.device, torch.int64)
        reduced = torch.round(F.avg_pool2d(truth[index], SCALE))
        kept = [square for square in squares if square is not None]
        bounds = to_device([[s.top, s.left, s.side] for s in kept], some.device, torch.int64)
        top, left, side = (bound.view(-1, 1, 1, 1) for bound in bounds.unbind(1))
        row = torch.arange(some.shape[2], device=some.device).view(1, 1, -1, 1)
        column = torch.arange(some.shape[3], device=some.device).view(1, 1, 1, -1)
        inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        wanted = to_device([truth_inside[place] for place in places], some.device, torch.bool)
        return torch.where(inside == wanted.view(-1, 1, 1, 1), reduced, some)

    return _some(low, [square is not None for square in squares], change)


def behind(low: Tensor, truth: Tensor, variations: Sequence[Variation]) -> tuple[Tensor, Tensor]:
    """`augment.behind`: input N×3×h×w and truth N×3×4h×4w."""
    low, truth = crop(low, truth, [v.crop for v in variations])
    weights, colours = [v.blend for v in variations], [v.colour for v in variations]
    low, truth = (blend(images, weights, colours) for images in (low, truth))
    orders = [v.permutation for v in variations]
    low, truth = (permute(images, orders) for images in (low, truth))
    return cutblur(low, truth, [v.cutblur for v in variations], [v.truth_inside for v in variations]), truth
