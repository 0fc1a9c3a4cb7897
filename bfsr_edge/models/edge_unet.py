"""EdgeUNet: the default network, a small U-shaped residual network for machines that count milliseconds.

Blind degradation destroys fine detail, so most of the work is about what a face looks like at large: a U-shape sees the
whole face for a fraction of the arithmetic of a flat network. Everything is a plain convolution, ReLU, Add or
PixelShuffle, which quantize and fuse on every backend (a LeakyReLU does in OpenVINO, and in TensorRT by its issue 2134;
train/README.md says what it is for and what it costs). Three choices come from measurements on the INT8 CPU engine:

- the global skip is a 5×5 convolution, begun as bicubic interpolation, added before the last PixelShuffle: a Resize
  there is the slowest node of the whole graph;
- an activation after the first convolution of a block only, so that it and the quantization fuse with it;
- the input is centred (x - 0.5) inside the network: a symmetric int8 input then loses almost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfsr_edge.models.base import Network
from bfsr_edge.models.blocks import ResidualBlock, rectify, scale_init

SCALE = 4
CENTRE = 0.5


def bicubic_kernel() -> Tensor:
    """Weights 48×3×5×5 of the convolution that, followed by PixelShuffle(4), is a bicubic ×4 interpolation.

    Keys' kernel with a = -0.75 as in OpenCV and PyTorch, half-pixel centres (Keys 1981, IEEE TASSP 29). Channel
    ``c * 16 + dy * 4 + dx`` holds output pixel (dy, dx) of each 4×4 cell of colour c, as PixelShuffle orders them.
    """

    def weight(distance: float, a: float = -0.75) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        if d < 2:
            return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return 0.0

    # the output pixel's centre, in input pixels relative to the cell's centre
    phases = [(i + 0.5) / SCALE - 0.5 for i in range(SCALE)]
    taps = torch.tensor([[weight(offset - phase) for offset in range(-2, 3)] for phase in phases])
    cell = torch.einsum("yi,xj->yxij", taps, taps).reshape(SCALE * SCALE, 5, 5)
    kernel = torch.zeros(3, SCALE * SCALE, 3, 5, 5)
    for colour in range(3):
        kernel[colour, :, colour] = cell
    return kernel.reshape(3 * SCALE * SCALE, 3, 5, 5)


class EdgeUNet(Network):
    """N×3×H×W in [0, 1] to N×3×4H×4W, not clipped; H and W multiples of ``stride``.

    Parameters
    ----------
    widths
        Channels of each level, from full resolution down; each level halves the resolution.
    encoder, decoder
        Residual blocks of each level on the way down and up; the last level of ``encoder`` is the middle, and
        ``decoder`` has one entry less than ``widths``.
    slope
        Of LeakyReLU for negative values, in [0, 1); 0 is ReLU.
    linear_down
        No activation behind the strided convolutions, so that all of them stand inside residual blocks.
    """

    architecture = "edge-unet"
    ends = ("head", "tail", "skip")

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 128),
        encoder: Sequence[int] = (0, 1, 1, 3),
        decoder: Sequence[int] = (1, 2, 1),
        slope: float = 0.0,
        linear_down: bool = False,
    ) -> None:
        super().__init__()
        if not len(widths) == len(encoder) == len(decoder) + 1:
            raise ValueError("encoder needs one entry per width, decoder one less")
        if not 0 <= slope < 1:
            raise ValueError(f"slope must lie in [0, 1), not {slope}")
        self.settings = {"widths": list(widths), "encoder": list(encoder), "decoder": list(decoder)}
        # defaults are left out: checkpoints written before there was a choice keep equal settings
        self.settings |= {"slope": slope} if slope else {}
        self.settings |= {"linear_down": True} if linear_down else {}
        self.slope, self.linear_down = slope, bool(linear_down)
        self.stride = 2 ** (len(widths) - 1)
        self.head = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(width, count, slope) for width, count in zip(widths, encoder, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairwise(widths))
        self.decoder = nn.ModuleList(
            _blocks(width, count, slope) for width, count in zip(widths, decoder, strict=False)
        )
        self.tail = nn.Conv2d(widths[0], 3 * SCALE * SCALE, 3, padding=1)
        self.skip = nn.Conv2d(3, 3 * SCALE * SCALE, 5, padding=2, bias=False)
        scale_init(self.encoder, 0.3)
        scale_init(self.decoder, 0.3)
        scale_init(self.tail, 0.1)
        with torch.no_grad():
            self.skip.weight.copy_(bicubic_kernel())

    @property
    def receptive_field(self) -> int:
        encoder, decoder = self.settings["encoder"], self.settings["decoder"]
        radius = 2  # head and tail
        for level in range(len(encoder)):
            pixel = 2**level
            blocks = encoder[level] + (decoder[level] if level < len(decoder) else 0)
            radius += 2 * blocks * pixel
            if level < len(decoder):
                radius += pixel + 2 * pixel  # the strided convolution, and the cell that PixelShuffle spreads
        return int(radius)

    def forward(self, x: Tensor) -> Tensor:
        x = x - CENTRE
        feature = self.head(x)
        skips: list[Tensor] = []
        for level, down in enumerate(self.down):
            feature = self.encoder[level](feature)
            skips.append(feature)
            feature = down(feature) if self.linear_down else rectify(down(feature), self.slope)
        feature = self.encoder[-1](feature)
        for level in reversed(range(len(self.up))):
            feature = F.pixel_shuffle(self.up[level](feature), 2) + skips[level]
            feature = self.decoder[level](feature)
        out: Tensor = self.tail(feature) + self.skip(x)
        return F.pixel_shuffle(out, SCALE) + CENTRE


def _blocks(channels: int, count: int, slope: float) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, slope) for _ in range(count)))
