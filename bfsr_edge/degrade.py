"""The blind degradation: how a clean face becomes a bad photograph of itself.

The order and ranges are those of the NTU "blind face super-resolution" challenge, on an image in [0, 1]: Gaussian blur,
resize by a random factor, Gaussian colour noise, JPEG, resize back, rounding to 8 bits, reduction by area to a quarter.

What is random is drawn first (`draw`), as plain numbers; `apply` is then a pure function of image, numbers and noise.
The batched version of the trainer takes the same numbers, so the two can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfsr_edge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

KERNEL_SIZE = 41
SCALE = 4
MODES = ("bilinear", "area", "bicubic")

Float = NDArray[np.float32]
Byte = NDArray[np.uint8]
Pixel = TypeVar("Pixel", np.float32, np.uint8)


@dataclass(frozen=True)
class Range:
    """The ranges that `draw` draws from; the defaults are the challenge's."""

    sigma: tuple[float, float] = (0.2, 5.0)
    """Standard deviation of the blur along each axis, in pixels."""
    isotropic: float = 0.5
    """Probability that both axes share one standard deviation."""
    resize: tuple[float, float] = (1 / 16, 1.0)
    """Factor of the first resize."""
    noise: tuple[float, float] = (0.0, 25.0)
    """Standard deviation of the noise, in 1/255."""
    quality: tuple[int, int] = (50, 95)
    """JPEG quality, both ends included."""


SEVERITIES = {
    "mild": replace(Range(), sigma=(0.2, 1.5), resize=(0.5, 1.0), noise=(0.0, 6.0), quality=(80, 95)),
    "medium": replace(Range(), sigma=(1.5, 3.0), resize=(0.25, 0.5), noise=(6.0, 15.0), quality=(65, 80)),
    "severe": replace(Range(), sigma=(3.0, 5.0), resize=(1 / 8, 0.25), noise=(15.0, 25.0), quality=(50, 65)),
    "challenge": Range(),
}


@dataclass(frozen=True)
class Degradation:
    """One draw: everything that happens to one image, except the noise itself.

    Raises
    ------
    UsageError
        A value is outside what the pipeline can do.
    """

    sigma_x: float
    """Blur along the first axis, in pixels; > 0."""
    sigma_y: float
    """Blur along the second axis; equal to ``sigma_x`` for an isotropic kernel."""
    angle: float
    """Rotation of the axes, in radians."""
    resize: float
    """Factor of the first resize, in (0, 1]."""
    down: int
    """Index in ``MODES`` of the first resize."""
    noise: float
    """Standard deviation of the noise, in [0, 1]."""
    quality: int
    """JPEG quality, 1 to 100."""
    up: int
    """Index in ``MODES`` of the resize back."""
    seed: int
    """Seed of the noise field."""

    def __post_init__(self) -> None:
        if not (self.sigma_x > 0 and self.sigma_y > 0 and 0 < self.resize <= 1 and 1 <= self.quality <= 100):
            raise UsageError(f"a degradation out of range: {self}", fix="see the docstring of bfsr_edge.degrade")

    def small_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the first resize, in pixels, at least 1."""
        return max(1, int(height * self.resize)), max(1, int(width * self.resize))


def draw(rng: np.random.Generator, ranges: Range = SEVERITIES["challenge"]) -> Degradation:
    """Draw one degradation. The number of values taken from ``rng`` is always the same."""
    isotropic = rng.uniform() < ranges.isotropic
    sigma_x, sigma_y = rng.uniform(*ranges.sigma, size=2)
    angle = rng.uniform(-math.pi, math.pi)
    if isotropic:  # the reference code ignores the second sigma of an isotropic kernel
        sigma_y, angle = sigma_x, 0.0
    resize = rng.uniform(*ranges.resize)
    noise = rng.uniform(*ranges.noise) / 255
    quality = int(rng.integers(ranges.quality[0], ranges.quality[1], endpoint=True))
    down, up = (int(mode) for mode in rng.integers(0, len(MODES), size=2))
    seed = int(rng.integers(0, 2**63))
    blurred = (float(sigma_x), float(sigma_y), float(angle))
    return Degradation(*blurred, float(resize), down, float(noise), quality, up, seed)


def noise_field(degradation: Degradation, height: int, width: int) -> Float:
    """Standard normal noise h×w×3 (float32) of the size after the first resize of a ``height`` × ``width`` image."""
    small = degradation.small_size(height, width)
    return np.random.Generator(np.random.SFC64(degradation.seed)).standard_normal((*small, 3), dtype=np.float32)


def blur_kernel(sigma_x: float, sigma_y: float, angle: float, size: int = KERNEL_SIZE) -> NDArray[np.float64]:
    """Bivariate Gaussian, ``size`` × ``size``, sum 1; axis x is rotated by ``angle`` radians."""
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = rotation @ np.diag([sigma_x**2, sigma_y**2]) @ rotation.T
    inverse = np.linalg.inv(covariance)
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, axis)
    kernel = np.exp(-0.5 * (inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y))
    out: NDArray[np.float64] = kernel / kernel.sum()
    return out


def blur(image: Float, degradation: Degradation) -> Float:
    """Gaussian blur of H×W×3, border mirrored without its last pixel (OpenCV's default).

    Taps beyond 5.5 σ are below 1e-6 of the centre and are left out; a kernel whose axes are equal is separable.
    """
    import cv2

    reach = max(degradation.sigma_x, degradation.sigma_y) * 5.5
    size = min(KERNEL_SIZE, 2 * math.ceil(reach) + 1)
    if degradation.sigma_x == degradation.sigma_y:
        line = cv2.getGaussianKernel(size, degradation.sigma_x, cv2.CV_32F)
        return np.asarray(cv2.sepFilter2D(image, -1, line, line), np.float32)
    kernel = blur_kernel(degradation.sigma_x, degradation.sigma_y, degradation.angle, size)
    return np.asarray(cv2.filter2D(image, -1, kernel.astype(np.float32)), np.float32)


def resize(image: NDArray[Pixel], height: int, width: int, mode: int) -> NDArray[Pixel]:
    """Resize H×W×3 as OpenCV does, ``mode`` an index in ``MODES``; no anti-aliasing except in area."""
    import cv2

    flag = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)[mode]
    return np.asarray(cv2.resize(image, (width, height), interpolation=flag), image.dtype)


def to_bytes(image: Float) -> Byte:
    """[0, 1] to uint8: scaled, rounded to even as OpenCV does, clipped."""
    import cv2

    # one pass that scales, rounds and saturates; five times faster than NumPy's four
    return np.asarray(cv2.addWeighted(image, 255, image, 0, 0, dtype=cv2.CV_8U), np.uint8)


def jpeg(image: Byte, quality: int) -> Byte:
    """Through JPEG and back, H×W×3 RGB uint8, chroma halved in both directions (OpenCV's default).

    The reference code hands RGB to an encoder that expects BGR, so red and blue change places inside JPEG; so here.
    """
    import cv2

    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok, "OpenCV cannot encode JPEG"
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def apply(image: Byte, degradation: Degradation, noise: Float | None = None, *, eight_bit_resize: bool = False) -> Byte:
    """Degrade one picture.

    Parameters
    ----------
    image
        RGB uint8, H×W×3; H and W multiples of 4.
    degradation
        What happens, from `draw`.
    noise
        Standard normal, of the size after the first resize (h×w×3, float32); default: `noise_field`.
    eight_bit_resize
        Resize back on 8-bit integers, as the second reference system does; OpenCV's integer resize rounds inside too.

    Returns
    -------
    RGB uint8, H/4 × W/4 × 3.

    Raises
    ------
    UsageError
        H or W is no multiple of 4.
    """
    import cv2

    height, width = image.shape[:2]
    if height % SCALE or width % SCALE:
        raise UsageError(
            f"a picture of {width}×{height} pixels cannot be degraded by {SCALE}",
            why=("both sides must be multiples of 4",),
            fix="crop it first",
        )
    if noise is None:
        noise = noise_field(degradation, height, width)
    small = degradation.small_size(height, width)
    x = blur(image.astype(np.float32) / np.float32(255), degradation)
    x = resize(x, *small, degradation.down)
    x = x + noise * np.float32(degradation.noise)
    compressed = jpeg(to_bytes(x), degradation.quality)
    if eight_bit_resize:
        full = np.asarray(resize(compressed, height, width, degradation.up), np.uint8)
    else:
        full = to_bytes(resize(compressed.astype(np.float32) / np.float32(255), height, width, degradation.up))
    return np.asarray(cv2.resize(full, (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA), np.uint8)


def degrade(
    image: Byte, seed: int | Sequence[int], ranges: Range = SEVERITIES["challenge"]
) -> tuple[Byte, Degradation]:
    """`draw` and `apply` in one call: the low-quality picture and what was done to it, the same for the same seed."""
    drawn = draw(np.random.default_rng(seed), ranges)
    return apply(image, drawn), drawn
