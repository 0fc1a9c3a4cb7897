"""EDSR, the baseline size (Lim et al. 2017, arXiv 1707.02921), with mmediting's attribute names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bfsr_edge.models.base import Network
from bfsr_edge.models.blocks import PixelShuffleConv, ResidualBlock, checked_dropout, drop_channels, scale_init

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as published


class EDSR(Network):
    """N×3×H×W in [0, 1] to N×3×4H×4W, not clipped; any H and W.

    Parameters
    ----------
    blocks
        Residual blocks: 20 has 1,812,995 parameters at 64 channels.
    channels
        Width of every layer.
    dropout
        Probability of a channel in front of the last convolution to be left out of a training step.
    """

    architecture = "edsr"
    ends = ("conv_first", "conv_last")

    def __init__(self, blocks: int = 16, channels: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = checked_dropout(dropout)
        self.settings: dict[str, Any] = {"blocks": blocks, "channels": channels}
        if dropout:  # settings name what is not the default, so that older checkpoints stay equal
            self.settings["dropout"] = self.dropout
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.Sequential(PixelShuffleConv(channels), PixelShuffleConv(channels))
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)
        self.mean: Tensor
        # not persistent: published checkpoints do not hold it
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        scale_init(self.body, 0.1)

    @property
    def receptive_field(self) -> int:
        return 1 + 2 * int(self.settings["blocks"]) + 1 + 1 + 1 + 1

    def forward(self, x: Tensor) -> Tensor:
        feature = self.conv_first(x - self.mean)
        feature = feature + self.conv_after_body(self.body(feature))
        feature = drop_channels(self.upsample(feature), self.dropout, self.training)
        out: Tensor = self.conv_last(feature)
        return out + self.mean
