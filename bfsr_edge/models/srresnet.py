"""MSRResNet: the SRResNet without normalisation that both reference systems trained.

Ledig et al. 2017 (arXiv 1609.04802) as modified by BasicSR and mmediting: LeakyReLU 0.1, bilinear global skip. The
SRGAN generators are the same network. Attribute names are mmediting's, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfsr_edge.models.base import Network
from bfsr_edge.models.blocks import PixelShuffleConv, ResidualBlock, checked_dropout, drop_channels, scale_init

SLOPE = 0.1


class MSRResNet(Network):
    """N×3×H×W in [0, 1] to N×3×4H×4W, not clipped; any H and W.

    Parameters
    ----------
    blocks
        Residual blocks; at 64 channels 16 make 1,517,571 parameters, 20 make 1,812,995, 24 make 2,108,419 and 26
        make 2,256,131.
    channels
        Width of every layer.
    dropout
        Probability of a channel in front of the last convolution to be left out of a training step.
    mean, std
        Of the training pictures' channels in [0, 1], 3 numbers each: the input is normalised by them inside the network
        and the output turned back. Both or neither; as published, neither.
    """

    architecture = "msrresnet"
    ends = ("conv_first", "conv_last")

    def __init__(
        self,
        blocks: int = 16,
        channels: int = 64,
        dropout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.dropout = checked_dropout(dropout)
        self.settings: dict[str, Any] = {"blocks": blocks, "channels": channels}
        if dropout:  # settings name what is not the default, so that older checkpoints stay equal
            self.settings["dropout"] = self.dropout
        self.mean: Tensor | None
        self.std: Tensor | None
        # not persistent: the settings hold them
        self.register_buffer("mean", _channels("mean", mean), persistent=False)
        self.register_buffer("std", _channels("std", std), persistent=False)
        if mean is not None or std is not None:
            if mean is None or std is None:
                raise ValueError("mean and std are given together")
            if min(std) <= 0:
                raise ValueError(f"std must be above 0, not {list(std)}")
            self.settings |= {"mean": [float(value) for value in mean], "std": [float(value) for value in std]}
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.trunk_net = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.upsample1 = PixelShuffleConv(channels)
        self.upsample2 = PixelShuffleConv(channels)
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)
        # as mmediting does: the whole network begins near its bilinear skip
        for small in (self.conv_first, self.trunk_net, self.conv_hr, self.conv_last):
            scale_init(small, 0.1)

    @property
    def receptive_field(self) -> int:
        # conv_first and two per block at full stride, upsample1 at 1, upsample2 at 1/2, conv_hr and conv_last at 1/4
        return 1 + 2 * int(self.settings["blocks"]) + 1 + 1 + 1

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return self._restored(x)
        return self._restored((x - self.mean) * (1 / self.std)) * self.std + self.mean

    def _restored(self, x: Tensor) -> Tensor:
        feature = self.trunk_net(F.leaky_relu(self.conv_first(x), SLOPE))
        feature = self.upsample1(feature, SLOPE)
        feature = self.upsample2(feature, SLOPE)
        feature = drop_channels(F.leaky_relu(self.conv_hr(feature), SLOPE), self.dropout, self.training)
        residual: Tensor = self.conv_last(feature)
        return residual + F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def _channels(name: str, values: Sequence[float] | None) -> Tensor | None:
    if values is None:
        return None
    if len(values) != 3:
        raise ValueError(f"{name} takes 3 numbers, not {list(values)}")
    return torch.tensor([float(value) for value in values]).view(1, 3, 1, 1)
