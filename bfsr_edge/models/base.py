"""What every network of ours says about itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """RGB float32 N×3×H×W in [0, 1] to N×3×sH×sW, not clipped; H and W multiples of ``stride``."""

    architecture: str
    """Name in the registry."""
    settings: dict[str, Any]
    """Keyword arguments that build it again; JSON holds them."""
    scale: int = 4
    """Output pixels per input pixel and side."""
    stride: int = 1
    """Height and width of the input must be multiples of it."""
    ends: tuple[str, ...] = ()
    """Modules that read the picture or write the result; all others are hidden."""

    @property
    @abstractmethod
    def receptive_field(self) -> int:
        """Radius in input pixels: what lies further away cannot change an output pixel."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
