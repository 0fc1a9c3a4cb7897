"""OpenCV's resizes as matrices, so that pictures of different sizes are resized in one batched product on the device.

A resize is separable and linear: ``out = A · x · Bᵀ``. Each function gives, for a batch of sizes, the matrix A on a
canvas large enough for all of them; rows and columns beyond a sample's own size are zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUBIC_A = -0.75


def resize_matrix(source: Tensor, target: Tensor, mode: Tensor, rows: int, columns: int) -> Tensor:
    """Matrices N×rows×columns that resize ``source`` samples to ``target`` samples as OpenCV does on floats.

    Parameters
    ----------
    source, target
        Sizes in pixels, int64, N; at most ``columns`` and ``rows``.
    mode
        Index in ``bfsr_edge.degrade.MODES``, of any number type, N.
    """
    size_in, size_out = source.float()[:, None], target.float()[:, None]
    out = torch.arange(rows, device=source.device)[None].float()
    valid = (out < size_out)[:, :, None]
    bilinear, area, bicubic = (make(size_in, size_out, out, columns) for make in (_bilinear, _area, _bicubic))
    mode = mode.view(-1, 1, 1)
    return torch.where(mode == 0, bilinear, torch.where(mode == 1, area, bicubic)) * valid


def _hat(position: Tensor, columns: int) -> Tensor:
    """Weights of linear interpolation at fractional positions N×rows."""
    column = torch.arange(columns, device=position.device).float()
    return (1 - (position[:, :, None] - column).abs()).clamp_min_(0)


def _bilinear(size_in: Tensor, size_out: Tensor, out: Tensor, columns: int) -> Tensor:
    position = (out + 0.5) * (size_in / size_out) - 0.5
    return _hat(torch.minimum(position.clamp_min(0), size_in - 1), columns)


def _area(size_in: Tensor, size_out: Tensor, out: Tensor, columns: int) -> Tensor:
    scale = size_in / size_out
    begin = out * scale
    end = torch.minimum(begin + scale, size_in)
    column = torch.arange(columns, device=out.device).float()
    overlap = torch.minimum(end[:, :, None], column + 1) - torch.maximum(begin[:, :, None], column)
    reduced = overlap.clamp_min_(0) / (end - begin).clamp_min(1e-6)[:, :, None]
    # enlarging "by area" is a linear interpolation that keeps cells flat for as long as it can
    cell = torch.floor(begin)
    inside = (out + 1) - (cell + 1) / scale
    fraction = torch.where(inside <= 0, torch.zeros_like(inside), inside - torch.floor(inside))
    enlarged = _hat(torch.minimum(cell + fraction, size_in - 1), columns)
    return torch.where((scale >= 1)[:, :, None], reduced, enlarged)


def _bicubic(size_in: Tensor, size_out: Tensor, out: Tensor, columns: int) -> Tensor:
    position = (out + 0.5) * (size_in / size_out) - 0.5
    base = torch.floor(position)
    fraction = position - base
    matrix = torch.zeros(*position.shape, columns, device=out.device)
    taps = torch.arange(-1, 3, device=out.device)
    index = torch.minimum((base.long()[:, :, None] + taps).clamp_min(0), (size_in.long() - 1)[:, :, None])
    weights = _keys((fraction[:, :, None] - taps).abs())
    # one after the other: two taps that meet in a border pixel would be added in any order, and not always the same
    for tap in range(4):
        matrix.scatter_add_(2, index[:, :, tap, None], weights[:, :, tap, None])
    return matrix


def _keys(distance: Tensor) -> Tensor:
    a = CUBIC_A
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
