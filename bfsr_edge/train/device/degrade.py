"""The blind degradation of `bfsr_edge.degrade` for a whole batch at once, on the training device.

Same draws and same noise give the same pictures as the OpenCV pipeline, up to rounding; tests compare stage by stage.
Samples have different sizes after the first resize, so they lie in the top left corner of a common canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bfsr_edge.degrade import KERNEL_SIZE, SCALE, Degradation
from bfsr_edge.train.device.jpeg import jpeg
from bfsr_edge.train.device.resize import resize_matrix


def to_device(values: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers, however nested, in one copy that the host does not wait for."""
    table = torch.tensor(values, dtype=dtype)
    if device.type == "cuda":
        table = table.pin_memory()  # from other memory a copy may wait for the work that the GPU was given before
    return table.to(device, non_blocking=True)


def gaussians(sigma_x: Tensor, sigma_y: Tensor, angle: Tensor) -> Tensor:
    """Bivariate Gaussians N×41×41, each of sum 1, from three vectors (see `bfsr_edge.degrade.blur_kernel`)."""
    device = sigma_x.device
    sigma_x, sigma_y, angle = (values.view(-1, 1, 1) for values in (sigma_x, sigma_y, angle))
    axis = torch.arange(KERNEL_SIZE, device=device).float() - KERNEL_SIZE // 2
    x, y = axis[None, None, :], axis[None, :, None]
    along = (torch.cos(angle) * x + torch.sin(angle) * y) / sigma_x
    across = (-torch.sin(angle) * x + torch.cos(angle) * y) / sigma_y
    kernels = torch.exp(-0.5 * (along * along + across * across))
    out: Tensor = kernels / kernels.sum((1, 2), keepdim=True)
    return out


def blur(image: Tensor, kernels: Tensor) -> Tensor:
    """N×3×H×W with a kernel each, by FFT; borders mirrored without the last pixel."""
    reach = KERNEL_SIZE // 2
    height, width = image.shape[-2:]
    padded = F.pad(image, (reach, reach, reach, reach), mode="reflect")
    size = tuple(fast_length(side) for side in padded.shape[-2:])  # what is added is zero, and cut off again
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernels, s=size)[:, None]
    full: Tensor = torch.fft.irfft2(spectrum, s=size)
    return full[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


@lru_cache(maxsize=16)
def fast_length(least: int) -> int:
    """The next even number whose prime factors are 2, 3, 5 and 7: FFTs of other lengths take far longer."""
    length = least + least % 2
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def resize(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows[n] · image[n] · columns[n]ᵀ`` for matrices of `resize_matrix`."""
    count, channels, height, width = image.shape
    # the channels of one picture share its matrix: below each other for one side, which is one product without a copy
    narrow = image.reshape(count, channels * height, width) @ columns.transpose(1, 2)
    return rows[:, None] @ narrow.view(count, channels, height, -1)


def to_levels(image: Tensor) -> Tensor:
    """[0, 1] to whole numbers 0…255, still float32."""
    return torch.round(image * 255).clamp_(0, 255)


def apply(image: Tensor, degradations: Sequence[Degradation], noise: Tensor) -> Tensor:
    """Degrade a batch.

    Parameters
    ----------
    image
        N×3×S×S, RGB, whole numbers 0…255 as float32.
    degradations
        What happens to each, as drawn by `bfsr_edge.degrade.draw`.
    noise
        Standard normal, N×3×S×S or smaller as long as every sample's size after the first resize fits.

    Returns
    -------
    N×3×S/4×S/4, RGB, whole numbers 0…255 as float32.
    """
    count, side = len(degradations), image.shape[-1]
    sizes = [d.small_size(side, side)[0] for d in degradations]
    canvas = max(sizes)
    table = to_device(
        [
            (d.sigma_x, d.sigma_y, d.angle, d.noise, d.quality, d.down, d.up, size)
            for d, size in zip(degradations, sizes, strict=True)
        ],
        image.device,
    )
    sigma_x, sigma_y, angle, strength, quality, down, up, small = table.t()
    small = small.long()
    full = torch.full_like(small, side)
    # both resizes at once: on a GPU it is the number of kernels that costs
    there_and_back = torch.cat((full, small)), torch.cat((small, full)), torch.cat((down, up))
    matrices = resize_matrix(*there_and_back, side, side)

    x = blur(image / 255, gaussians(sigma_x, sigma_y, angle))
    matrix = matrices[:count, :canvas]
    x = resize(x, matrix, matrix)
    x = to_levels(x + noise[..., :canvas, :canvas] * strength.view(-1, 1, 1, 1))
    x = jpeg(x, small, small, quality)
    matrix = matrices[count:, :, :canvas]
    x = resize(x, matrix, matrix)
    x = torch.round(x).clamp_(0, 255)
    return torch.floor(F.avg_pool2d(x, SCALE) + 0.5)
