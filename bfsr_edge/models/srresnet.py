"""MSRResNet: the SRResNet without normalisation that both reference systems trained.

Ledig et al. 2017 (arXiv 1609.04802) as modified by BasicSR and mmediting: LeakyReLU 0.1, bilinear global skip. The
SRGAN generators are the same network. Attribute names are mmediting's, so its checkpoints load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bfsr_edge.models.base import Network
from bfsr_edge.models.blocks import PixelShuffleConv, ResidualBlock, scale_init

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
    """

    architecture = "msrresnet"

    def __init__(self, blocks: int = 16, channels: int = 64) -> None:
        super().__init__()
        self.settings = {"blocks": blocks, "channels": channels}
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.trunk_net = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.upsample1 = PixelShuffleConv(channels)
        self.upsample2 = PixelShuffleConv(channels)
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)
        scale_init(self.trunk_net, 0.1)

    @property
    def receptive_field(self) -> int:
        # conv_first and two per block at full stride, upsample1 at 1, upsample2 at 1/2, conv_hr and conv_last at 1/4
        return 1 + 2 * int(self.settings["blocks"]) + 1 + 1 + 1

    def forward(self, x: Tensor) -> Tensor:
        feature = self.trunk_net(F.leaky_relu(self.conv_first(x), SLOPE))
        feature = self.upsample1(feature, SLOPE)
        feature = self.upsample2(feature, SLOPE)
        residual: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(feature), SLOPE))
        return residual + F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
