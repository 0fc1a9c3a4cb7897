"""The blind degradation of `bfsr_edge.degrade` for a whole batch at once, on the training device.

Same draws and same noise give the same pictures as the OpenCV pipeline, up to rounding; tests compare stage by stage.
Samples have different sizes after the first resize, so they lie in the top left corner of a common canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bfsr_edge.degrade import KERNEL_SIZE, SCALE, Degradation
from bfsr_edge.train.device_jpeg import jpeg
from bfsr_edge.train.device_resize import resize_matrix


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)


def blur_kernels(degradations: Sequence[Degradation], device: torch.device) -> Tensor:
    """Bivariate Gaussians N×41×41, each of sum 1 (see `bfsr_edge.degrade.blur_kernel`)."""
    sigma_x = _column([d.sigma_x for d in degradations], device).view(-1, 1, 1)
    sigma_y = _column([d.sigma_y for d in degradations], device).view(-1, 1, 1)
    angle = _column([d.angle for d in degradations], device).view(-1, 1, 1)
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
    padded = F.pad(image, (reach, reach, reach, reach), mode="reflect")
    size = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels, s=size)[:, None]
    full: Tensor = torch.fft.irfft2(spectrum, s=size)
    return full[..., 2 * reach :, 2 * reach :]


def resize(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows[n] · image[n] · columns[n]ᵀ`` for matrices of `resize_matrix`."""
    return rows[:, None] @ image @ columns[:, None].transpose(2, 3)


def to_levels(image: Tensor) -> Tensor:
    """[0, 1] to whole numbers 0…255, still float32."""
    return torch.round(image * 255).clamp_(0, 255)


def apply(
    image: Tensor, degradations: Sequence[Degradation], noise: Tensor, *, eight_bit_resize: bool = False
) -> Tensor:
    """Degrade a batch.

    Parameters
    ----------
    image
        N×3×S×S, RGB, whole numbers 0…255 as float32.
    degradations
        What happens to each, as drawn by `bfsr_edge.degrade.draw`.
    noise
        Standard normal, N×3×S×S or smaller as long as every sample's size after the first resize fits.
    eight_bit_resize
        Round the picture after the resize behind JPEG, as `bfsr_edge.degrade.apply` does.

    Returns
    -------
    N×3×S/4×S/4, RGB, whole numbers 0…255 as float32.
    """
    device, side = image.device, image.shape[-1]
    small_list = [d.small_size(side, side)[0] for d in degradations]
    canvas = max(small_list)
    small = torch.tensor(small_list).to(device, non_blocking=True)
    full = torch.full_like(small, side)
    down = torch.tensor([d.down for d in degradations]).to(device, non_blocking=True)
    up = torch.tensor([d.up for d in degradations]).to(device, non_blocking=True)
    quality = torch.tensor([d.quality for d in degradations]).to(device, non_blocking=True)
    strength = _column([d.noise for d in degradations], device).view(-1, 1, 1, 1)

    x = blur(image / 255, blur_kernels(degradations, device))
    matrix = resize_matrix(full, small, down, canvas, side)
    x = resize(x, matrix, matrix)
    x = to_levels(x + noise[..., :canvas, :canvas] * strength)
    x = jpeg(x, small, small, quality)
    matrix = resize_matrix(small, full, up, side, canvas)
    x = resize(x, matrix, matrix)
    x = torch.round(x).clamp_(0, 255)
    return torch.floor(F.avg_pool2d(x, SCALE) + 0.5)
