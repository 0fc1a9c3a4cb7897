"""Losses without weights of their own: prediction and truth N×3×H×W in [0, 1] to one number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

CHARBONNIER_EPSILON = 1e-12  # mmediting's default, which the reference system used


def charbonnier(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean of ``sqrt(d² + ε)`` (Lai et al. 2017, arXiv 1704.03915)."""
    return torch.sqrt((prediction - truth) ** 2 + CHARBONNIER_EPSILON).mean()


def psnr_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """Minus a tenth of the mean over images of PSNR in dB: the score itself, apart from rounding to 8 bits."""
    # by the norm: half the passes over memory of a square and a mean, forth and back
    norm = torch.linalg.vector_norm(prediction - truth, dim=(1, 2, 3))
    return torch.log10(norm**2 / prediction[0].numel() + 1e-8).mean()


def focal_frequency(prediction: Tensor, truth: Tensor) -> Tensor:
    """Focal frequency loss (Jiang et al. 2021, arXiv 2012.12821), α = 1, each picture as one patch.

    Mean over all frequencies of ``w · |D|²``, where D is the orthonormal Fourier transform of the difference and
    ``w = |D| / max |D|`` of the same picture and channel: what is furthest off counts most. No gradient goes into w.
    """
    spectrum = torch.fft.fft2(prediction.float() - truth.float(), norm="ortho")
    power = spectrum.real**2 + spectrum.imag**2  # not abs(): its gradient at 0 would be NaN when multiplied out
    size = power.detach().sqrt()
    weight = size / size.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    mean: Tensor = (weight * power).mean()
    return mean


def lattice(prediction: Tensor, truth: Tensor, period: int = 8, cells: int = 8) -> Tensor:
    """How far the difference repeats itself from cell to cell: the grid that PixelShuffle draws, and nothing else.

    A network that makes all pixels of a cell at once hides from a discriminator behind one pattern in every cell (Odena
    et al. 2016, https://distill.pub/2016/deconv-checkerboard). The difference is averaged over ``cells`` × ``cells``
    neighbouring cells, position by position, in which texture that differs between cells vanishes; what then differs
    between the positions of a cell is squared, and the mean of it returned.

    Parameters
    ----------
    prediction, truth
        Sides are multiples of ``period`` and hold at least ``cells`` cells; a rest of cells at the right and the lower
        edge is left out.
    period
        Side of a cell in pixels. 8 is that of a PixelShuffle by 4 behind one by 2, and finds those of 2 and 4 too.
    """
    positions = F.pixel_unshuffle(prediction - truth, period)
    repeated = F.avg_pool2d(positions.reshape(-1, period * period, *positions.shape[2:]), cells)
    deviation = repeated - repeated.mean(dim=1, keepdim=True)
    return deviation.square().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "charbonnier": charbonnier,
    "psnr": psnr_loss,
}
"""The pixel losses of a recipe's ``loss.first`` and ``loss.then``."""
