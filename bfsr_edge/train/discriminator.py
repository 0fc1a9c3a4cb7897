"""Two networks that tell photographs from results: SRGAN's, for a whole crop, and one that judges patch by patch."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfsr_edge.errors import TrainingError, UsageError

STRIDE = 32  # five halvings
LOW_PASS = 9
"""Side in pixels of the mean that is taken away from what patches are judged by."""
DETAIL_GAIN = 25.0
"""Factor of what is left, for a standard deviation of about 1 in photographs of faces."""


class Judgement(NamedTuple):
    """What the discriminator says about one batch."""

    logits: Tensor
    """N×1, or N×1×h×w with one for each patch; above 0: taken for photographs."""
    features: list[Tensor]
    """What each hidden convolution gives behind its activation, fine to coarse; empty unless asked for."""


class Discriminator(nn.Module):
    """The modified VGG that mmediting (``ModifiedVGG``) and BasicSR (``VGGStyleDiscriminator``) train SRGAN against.

    Five pairs of a 3×3 convolution and a 4×4 one of stride 2, with batch normalisation behind all but the first and
    LeakyReLU 0.2; then two linear layers. Widths are 1, 2, 4, 8 and 8 times ``channels``. With 64 channels and 128
    pixels it is the published one, of 14,499,401 parameters.

    Parameters
    ----------
    channels
        Width of the first pair.
    side
        Height and width of the pictures, in pixels: a multiple of 32. The first linear layer depends on it.

    Raises
    ------
    UsageError
        ``side`` is no multiple of 32.
    """

    def __init__(self, channels: int = 64, side: int = 128) -> None:
        super().__init__()
        if side < STRIDE or side % STRIDE:
            raise UsageError(
                f"the discriminator cannot take pictures of {side} pixels",
                why=(f"it halves them five times, so their side must be a multiple of {STRIDE}",),
                fix="set data.crop to 128, as SRGAN was published, or take the one of patches: "
                "adversarial.discriminator = 'patch'",
            )
        self.side = side
        widths = [channels * factor for factor in (1, 2, 4, 8, 8)]
        layers = [nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), _activation())]
        before = channels
        for level, width in enumerate(widths):
            if level:
                layers.append(_normalised(nn.Conv2d(before, width, 3, padding=1, bias=False)))
            layers.append(_normalised(nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False)))
            before = width
        self.body = nn.ModuleList(layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(before * (side // STRIDE) ** 2, 100), _activation(), nn.Linear(100, 1)
        )

    def forward(self, *batches: Tensor, features: bool = False) -> list[Judgement]:
        """Judge each batch on its own.

        Several batches in one call: DistributedDataParallel copies the running statistics before every call, which
        breaks the gradient of an earlier one. Each is still normalised by its own statistics, as when real and false
        pictures are given one after the other.

        Parameters
        ----------
        batches
            RGB, N×3×side×side in [0, 1], not centred.
        features
            Keep what is between the layers.

        Raises
        ------
        TrainingError
            A picture has another side.
        """
        return [self._judge(batch, features) for batch in batches]

    def _judge(self, batch: Tensor, keep: bool) -> Judgement:
        if batch.shape[1:] != (3, self.side, self.side):
            raise TrainingError(
                f"the discriminator takes pictures of {self.side}×{self.side} pixels in 3 channels, "
                f"not {tuple(batch.shape[1:])}"
            )
        return _judge(self.body, self.head, batch, keep)


class PatchDiscriminator(nn.Module):
    """Judges every patch of 62 pixels, a verdict each 8 pixels, by its `detail`.

    A PatchGAN as in pix2pix (Isola et al. 2017, arXiv 1611.07004), somewhat smaller: three 4×4 convolutions of stride 2
    and one of 3×3, with batch normalisation behind all but the first and LeakyReLU 0.2; then one of 3×3 to the logits.
    Widths are 1, 2, 4 and 4 times ``channels``. It says more about texture for its arithmetic than SRGAN's, and takes
    pictures of any size.

    It sees high frequencies only (DSGAN, Fritsche et al. 2019, arXiv 1911.07850). What is low in frequency is the pixel
    loss's alone, and without that the discriminator is blind at first: detail is a small part of a picture's variance.

    Parameters
    ----------
    channels
        Width of the first convolution.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3, channels, 4, stride=2, padding=1), _activation())]
        for before, width in pairwise((channels, 2 * channels, 4 * channels)):
            layers.append(_normalised(nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False)))
        layers.append(_normalised(nn.Conv2d(width, width, 3, padding=1, bias=False)))
        self.body = nn.ModuleList(layers)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, *batches: Tensor, features: bool = False) -> list[Judgement]:
        """Judge each batch; see `Discriminator.forward`.

        Parameters
        ----------
        batches
            RGB, N×3×H×W in [0, 1]; H and W at least 32, so that normalisation has several numbers.
        features
            Keep what is between the layers.
        """
        return [_judge(self.body, self.head, detail(batch), features) for batch in batches]


def _judge(body: nn.ModuleList, head: nn.Module, batch: Tensor, keep: bool) -> Judgement:
    """What a discriminator's layers say, with what is between them if that is to be kept."""
    kept = []
    for layer in body:
        batch = layer(batch)
        if keep:
            kept.append(batch)
    return Judgement(head(batch), kept)


def detail(pictures: Tensor) -> Tensor:
    """What pictures have above the mean of ``LOW_PASS`` × ``LOW_PASS`` pixels, times ``DETAIL_GAIN``.

    Half of ``LOW_PASS`` is cut off at each edge.
    """
    channels, reach = pictures.shape[1], LOW_PASS // 2
    with torch.autocast(pictures.device.type, enabled=False):  # a small difference of large numbers
        pictures = pictures.float()
        # two convolutions: a pooling of this size takes four to ten times as long on a CPU
        line = pictures.new_full((channels, 1, LOW_PASS, 1), 1 / LOW_PASS)
        mean = F.conv2d(F.conv2d(pictures, line, groups=channels), line.mT, groups=channels)
        return DETAIL_GAIN * (pictures[..., reach:-reach, reach:-reach] - mean)


def _activation() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), _activation())
