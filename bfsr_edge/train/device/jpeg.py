"""JPEG, there and back, for a batch of pictures on the device, without entropy coding (which loses nothing).

ITU-T T.81 with the tables of its annex K as libjpeg scales them, 4:2:0 chroma, and libjpeg's own habits: how it
averages chroma, pads the last blocks, and interpolates chroma back (a triangle filter).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# annex K of ITU-T T.81, tables K.1 and K.2, row by row
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def quantization_table(base: Tensor, quality: Tensor) -> Tensor:
    """Tables N×…×8×8 from ``base`` …×8×8 for qualities N in 1…100, scaled as libjpeg does (jpeg_quality_scaling,
    baseline)."""
    quality = quality.view(-1, *(1 for _ in base.shape)).float()
    percent = torch.where(quality < 50, torch.floor(5000 / quality), 200 - 2 * quality)
    return torch.floor((base * percent + 50) / 100).clamp_(1, 255)


def jpeg(image: Tensor, height: Tensor, width: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress.

    Parameters
    ----------
    image
        N×3×H×W, whole numbers 0…255 as float32, channels in the order B, G, R of the file (so RGB has red and blue
        exchanged inside, as in the reference code). Sample n is the top left ``height[n]`` × ``width[n]`` part.
    height, width
        int64, N; at least 5 pixels.
    quality
        Whole numbers of any type, N; 1…100.

    Returns
    -------
    N×3×H×W; what lies beyond each sample's size has no meaning.
    """
    count, _, canvas_h, canvas_w = image.shape
    padded_h, padded_w = math.ceil(canvas_h / 16) * 16, math.ceil(canvas_w / 16) * 16
    blue, green, red = _replicate(image, height, width, padded_h, padded_w).unbind(1)
    luma = torch.floor(0.299 * red + 0.587 * green + 0.114 * blue + 0.5)
    cb = torch.floor(-0.168735892 * red - 0.331264108 * green + 0.5 * blue + 128.5 - 1e-5)
    cr = torch.floor(0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128.5 - 1e-5)
    chroma = torch.stack((cb, cr), 1).clamp_(0, 255)
    half_h, half_w = (height + 1) // 2, (width + 1) // 2
    chroma = _replicate(_halve(chroma), half_h, torch.full_like(half_w, padded_w // 2), padded_h // 2, padded_w // 2)

    tables = quantization_table(_base_tables(image.device), quality)
    luma = _quantize(luma[:, None], tables[:, 0])
    chroma = _quantize(chroma, tables[:, 1])

    y = luma[:, 0]
    cb, cr = (_double(chroma, half_h, half_w) - 128).unbind(1)
    red = torch.floor(y + 1.402 * cr + 0.5)
    green = torch.floor(y - 0.344136286 * cb - 0.714136286 * cr + 0.5)
    blue = torch.floor(y + 1.772 * cb + 0.5)
    out = torch.stack((blue, green, red), 1).clamp_(0, 255)
    return out[:, :, :canvas_h, :canvas_w].reshape(count, 3, canvas_h, canvas_w)


def _replicate(x: Tensor, height: Tensor, width: Tensor, rows: int, columns: int) -> Tensor:
    """``x`` on a canvas of rows × columns, each sample's last row and column repeated to the end."""
    row = torch.minimum(torch.arange(rows, device=x.device)[None], height[:, None] - 1)
    column = torch.minimum(torch.arange(columns, device=x.device)[None], width[:, None] - 1)
    x = x.gather(2, row[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    return x.gather(3, column[:, None, None, :].expand(-1, x.shape[1], rows, -1))


def _halve(x: Tensor) -> Tensor:
    """Mean of 2×2, rounded with libjpeg's alternating bias (1, 2, 1, 2 … along a row)."""
    total = F.avg_pool2d(x, 2, divisor_override=1)
    bias = 1 + torch.arange(total.shape[3], device=x.device) % 2
    return torch.floor((total + bias) / 4)


def _double(x: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """libjpeg's "fancy" upsampling: 9/16, 3/16, 3/16, 1/16 of the four nearest, with its rounding."""
    count, channels, rows, columns = x.shape

    def neighbours(limit: Tensor, length: int) -> Tensor:
        index = torch.arange(2 * length, device=x.device)
        far = index // 2 + (index % 2) * 2 - 1
        return torch.minimum(far[None].clamp_min(0), limit[:, None] - 1)

    far_row = neighbours(height, rows)[:, None, :, None].expand(count, channels, -1, columns)
    tall = 3 * x.repeat_interleave(2, dim=2) + x.gather(2, far_row)
    far_column = neighbours(width, columns)[:, None, None, :].expand(count, channels, 2 * rows, -1)
    total = 3 * tall.repeat_interleave(2, dim=3) + tall.gather(3, far_column)
    bias = 8 - torch.arange(2 * columns, device=x.device) % 2
    return torch.floor((total + bias) / 16)


@lru_cache(maxsize=4)
def _base_tables(device: torch.device) -> Tensor:
    """2×8×8, luma and chroma. Kept on the device, as a copy from Python's numbers waits for all work given to a GPU."""
    return torch.tensor((LUMA, CHROMA), dtype=torch.float32, device=device)


@lru_cache(maxsize=4)
def _dct_matrix(device: torch.device) -> Tensor:
    """The orthonormal 8-point DCT-II."""
    k, n = torch.arange(8)[:, None], torch.arange(8)[None]
    matrix = torch.cos(math.pi * (2 * n + 1) * k / 16) * torch.where(k == 0, math.sqrt(1 / 8), 0.5)
    return matrix.float().to(device)


def _quantize(plane: Tensor, table: Tensor) -> Tensor:
    """DCT of 8×8 blocks, rounding to the table's steps, and back; N×C×H×W, H and W multiples of 8."""
    count, channels, rows, columns = plane.shape
    dct = _dct_matrix(plane.device)
    blocks = (plane - 128).reshape(count, channels, rows // 8, 8, columns // 8, 8).transpose(3, 4)
    coefficients = dct @ blocks @ dct.T
    steps = table.view(count, 1, 1, 1, 8, 8)
    coefficients = coefficients / steps
    # libjpeg rounds halves away from zero; flat areas hit exact halves often, which floats miss by a hair
    coefficients = torch.sign(coefficients) * torch.floor(coefficients.abs() + (0.5 + 1e-4)) * steps
    pixels = (dct.T @ coefficients @ dct).transpose(3, 4).reshape(plane.shape)
    return torch.floor(pixels + 128.5).clamp_(0, 255)
