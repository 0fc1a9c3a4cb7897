"""Two networks that tell photographs from results: SRGAN's, for a whole crop, and one that judges patch by patch."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from bfsr_edge.errors import TrainingError, UsageError

STRIDE = 32  # five halvings


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
        kept = []
        for layer in self.body:
            batch = layer(batch)
            if keep:
                kept.append(batch)
        return Judgement(self.head(batch), kept)


class PatchDiscriminator(nn.Module):
    """Judges every patch of 54 pixels, a verdict each 8 pixels, instead of the picture as a whole.

    The PatchGAN of pix2pix (Isola et al. 2017, arXiv 1611.07004): three 4×4 convolutions of stride 2, one of 3×3, each
    with LeakyReLU 0.2, and a last one of 3×3 to the logits. Widths are 1, 2, 4 and 4 times ``channels``. The inner ones
    have spectral normalisation (Miyato et al. 2018, arXiv 1802.05957) in place of batch normalisation, the first and
    the last have none, as in Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833). It says more about texture for its
    arithmetic than SRGAN's, and takes pictures of any size.

    Parameters
    ----------
    channels
        Width of the first convolution.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        widths = [3, channels, 2 * channels, 4 * channels]
        halving = [nn.Conv2d(before, width, 4, stride=2, padding=1) for before, width in pairwise(widths)]
        inner = [*halving[1:], nn.Conv2d(widths[-1], widths[-1], 3, padding=1)]
        convolutions = [halving[0], *(spectral_norm(convolution) for convolution in inner)]
        self.body = nn.ModuleList(nn.Sequential(convolution, _activation()) for convolution in convolutions)
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, *batches: Tensor, features: bool = False) -> list[Judgement]:
        """Judge each batch; see `Discriminator.forward`.

        Parameters
        ----------
        batches
            RGB, N×3×H×W in [0, 1]; H and W at least 8.
        features
            Keep what is between the layers.
        """
        with parametrize.cached():  # one set of normalised weights for all batches of the call
            return [self._judge(batch, features) for batch in batches]

    def _judge(self, batch: Tensor, keep: bool) -> Judgement:
        kept = []
        batch = 2 * batch - 1
        for layer in self.body:
            batch = layer(batch)
            if keep:
                kept.append(batch)
        return Judgement(self.head(batch), kept)


def _activation() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), _activation())
