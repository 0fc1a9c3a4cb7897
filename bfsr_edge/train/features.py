"""VGG19 features conv5_4, in which SRGAN compares result and truth (Ledig et al. 2017, arXiv 1609.04802).

The settings are those of mmediting's SRGAN: layer ``'34'`` of ``vgg19``, so conv5_4 before its activation, weight 1,
criterion L1, no style term, input normalised by ImageNet's mean and deviation. Its ``norm_img = False`` means that
pictures are in [0, 1] already.

The weights are ImageNet's and not ours to ship: they come from torchvision where it is installed, else from a file.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfsr_edge.errors import ModelError, first_line
from bfsr_edge.files import sha256

# places in torchvision's vgg19().features, up to conv5_4
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
POOLS = (4, 9, 18, 27)

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

PUBLISHED = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
_FIX = f"download {PUBLISHED} and set adversarial.perceptual_file to it"


class VggFeatures(nn.Module):
    """Frozen VGG19 up to conv5_4.

    Parameters
    ----------
    tensors
        ``features.N.weight`` and ``features.N.bias`` as torchvision names them. Their shapes give the widths.
    source
        Where they come from, for errors.

    Raises
    ------
    ModelError
        A tensor is missing, or their shapes are not those of a VGG19.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for place in range(CONVOLUTIONS[-1] + 1):
            if place in POOLS:
                layers.append(nn.MaxPool2d(2))
            elif place in CONVOLUTIONS:
                layers.append(_convolution(tensors, place, width, source))
                width = tensors[f"features.{place}.bias"].shape[0]
            else:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB N×3×H×W in [0, 1] to features N×C×(H/16)×(W/16); H and W of at least 16."""
        features: Tensor = self.layers((pictures - self.mean) / self.deviation)
        return features

    def distance(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Mean absolute difference of the features; the gradient goes into ``prediction`` only."""
        with torch.no_grad():
            aim = self(truth)
        return F.l1_loss(self(prediction).float(), aim.float())


def load_vgg(file: str) -> VggFeatures:
    """The features in ``file``, or torchvision's if it is empty.

    Parameters
    ----------
    file
        torchvision's ``vgg19-dcbb9e9d.pth``, or the same tensors as safetensors. The end of its name carries the first
        digits (8 or more) of its sha256, as torchvision's files do, and is what it is checked against; a file of
        another name is given as ``path@sha256``.

    Raises
    ------
    ModelError
        torchvision is missing or has no weights; the file is missing, truncated, of another sha256, or no VGG19.
    """
    if not file:
        return VggFeatures(_from_torchvision(), "torchvision")
    path, digits = _split(file)
    _check(path, digits)
    return VggFeatures(_read(path), str(path))


def _convolution(tensors: Mapping[str, Tensor], place: int, width: int, source: str) -> nn.Conv2d:
    """A convolution with 3×3 weights and bias of the file, which must take ``width`` channels."""
    weight, bias = (tensors.get(f"features.{place}.{kind}") for kind in ("weight", "bias"))
    if weight is None or bias is None or weight.shape[1:] != (width, 3, 3) or bias.shape != weight.shape[:1]:
        shape = "is missing" if weight is None else f"has the shape {tuple(weight.shape)}"
        raise ModelError(
            f"{source} holds no VGG19",
            why=(f"features.{place}.weight {shape}, and 3×3 weights for {width} channels with a bias belong there",),
            fix=_FIX,
        )
    convolution = nn.Conv2d(width, weight.shape[0], 3, padding=1)
    convolution.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return convolution


def _split(file: str) -> tuple[Path, str]:
    """The path and the hexadecimal digits that its sha256 begins with."""
    given = re.fullmatch(r"(.+)@([0-9a-fA-F]{8,64})", file)
    if given:
        return Path(given[1]), given[2].lower()
    path = Path(file)
    named = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    if not named:
        raise ModelError(
            f"nothing says what {path} should hold",
            why=("the name of torchvision's file ends in the first 8 digits of its sha256, vgg19-dcbb9e9d.pth",),
            fix=f"keep that name, or give {path}@SHA256 with what sha256sum prints for a file you trust",
        )
    return path, named[1]


def _check(path: Path, digits: str) -> None:
    """ModelError unless the file's sha256 begins with ``digits``."""
    try:
        found = sha256(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read", why=(error.strerror or str(error),), fix=_FIX) from error
    if not found.startswith(digits):
        raise ModelError(
            f"{path} is not the file it should be: its sha256 begins with {found[: len(digits)]}, not {digits}",
            why=("its download was cut short", "it is another file that was given this name"),
            fix=_FIX,
        )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` or ``.safetensors`` file."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError … for files it will not open
        raise ModelError(f"{path} cannot be opened as weights only", why=(first_line(error),), fix=_FIX) from error
    if not isinstance(content, Mapping):
        return {}
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _from_torchvision() -> dict[str, Tensor]:
    """torchvision's own weights; it downloads and checks them where it does not have them yet."""
    try:
        models: Any = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ModelError(
            "the perceptual loss needs the weights of VGG19, and torchvision is not installed",
            why=("they are not ours to ship",),
            fix=f"{_FIX}; or install the torchvision that goes with this PyTorch",
        ) from error
    try:
        tensors: dict[str, Tensor] = models.VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, no space, or a damaged download
        raise ModelError("torchvision could not get the weights of VGG19", why=(str(error),), fix=_FIX) from error
    return tensors
