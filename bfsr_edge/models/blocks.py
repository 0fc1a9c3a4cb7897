"""Pieces that more than one network uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """``x + conv2(relu(conv1(x)))``, without normalisation (EDSR, Lim et al. 2017, arXiv 1707.02921).

    Shapes: N×C×H×W to N×C×H×W. A ``slope`` above 0 makes the ReLU a LeakyReLU, of which no channel can die.
    """

    def __init__(self, channels: int, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(rectify(self.conv1(x), self.slope))
        return out


class PixelShuffleConv(nn.Module):
    """A 3×3 convolution and PixelShuffle: N×C×H×W to N×C×sH×sW (Shi et al. 2016, arXiv 1609.05158).

    The convolution's attribute is called ``upsample_conv`` as in mmediting's checkpoints, and begins as it does there.
    """

    def __init__(self, channels: int, scale: int = 2) -> None:
        super().__init__()
        self.upsample_conv = nn.Conv2d(channels, channels * scale * scale, 3, padding=1)
        self.scale = scale
        scale_init(self, 1.0)

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """``slope`` applies a LeakyReLU before the shuffle: the same as after it, and it fuses with the convolution."""
        out: Tensor = self.upsample_conv(x)
        if slope is not None:
            out = F.leaky_relu(out, slope)
        return F.pixel_shuffle(out, self.scale)


def residual_blocks(network: nn.Module) -> dict[str, ResidualBlock]:
    """All of them below ``network``, by their names in it."""
    return {name: part for name, part in network.named_modules() if isinstance(part, ResidualBlock)}


def rectify(x: Tensor, slope: float) -> Tensor:
    """LeakyReLU, or ReLU where the slope is 0: exported as the node of its own that every backend fuses."""
    return F.leaky_relu(x, slope) if slope else F.relu(x)


def checked_dropout(probability: float) -> float:
    """``probability`` itself, or ValueError where it is none of [0, 1)."""
    if not 0 <= probability < 1:
        raise ValueError(f"dropout must lie in [0, 1), not {probability}")
    return float(probability)


def drop_channels(x: Tensor, probability: float, training: bool) -> Tensor:
    """Whole channels of N×C×H×W set to zero at random and the others scaled up; nothing outside training.

    In front of the last convolution it keeps a super-resolution network from leaning on a few channels (Kong et al.
    2022, arXiv 2112.12089). It draws from torch's global generator, which the resume state holds.
    """
    return F.dropout2d(x, probability) if training and probability else x


def scale_init(module: nn.Module, gain: float) -> None:
    """Kaiming-normal (fan-in) weights times ``gain`` and zero biases for every convolution below ``module``."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            with torch.no_grad():
                layer.weight.mul_(gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
