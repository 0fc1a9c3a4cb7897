"""Pixel losses: prediction and truth N×3×H×W in [0, 1] to one number."""

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
    error = ((prediction - truth) ** 2).mean(dim=(1, 2, 3)) + 1e-8
    return torch.log10(error).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "charbonnier": charbonnier,
    "psnr": psnr_loss,
}
