"""A VGG19 of random weights and very few channels, in a file named as torchvision names its own."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfsr_edge.train.features import CONVOLUTIONS


def vgg_tensors(widths: tuple[int, ...] = (2, 2, 3, 3, *[4] * 12)) -> dict[str, Tensor]:
    """Random weights shaped as a VGG19's, with far fewer channels; a classifier that nobody reads among them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"classifier.0.weight": torch.zeros(2, 2)}
    before = 3
    for place, width in zip(CONVOLUTIONS, widths, strict=True):
        scale = math.sqrt(2 / (9 * before))
        tensors[f"features.{place}.weight"] = scale * torch.randn(width, before, 3, 3, generator=generator)
        tensors[f"features.{place}.bias"] = 0.1 * torch.randn(width, generator=generator)
        before = width
    return tensors


def named_by_hash(path: Path) -> Path:
    """Rename a file as torchvision names its own."""
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_name(f"{path.stem}-{digits}{path.suffix}"))


def make_vgg(folder: Path, content: Any = None) -> Path:
    """A ``.pth`` in ``folder`` with a small VGG19, or with ``content``; `load_vgg` takes its path."""
    path = folder / "vgg19.pth"
    torch.save(vgg_tensors() if content is None else content, path)
    return named_by_hash(path)
