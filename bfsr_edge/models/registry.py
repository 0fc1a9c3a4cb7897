"""Architectures by name, and what they cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bfsr_edge.errors import ModelError
from bfsr_edge.models.base import Network
from bfsr_edge.models.edge_unet import EdgeUNet
from bfsr_edge.models.edsr import EDSR
from bfsr_edge.models.srresnet import MSRResNet

ARCHITECTURES: dict[str, type[Network]] = {network.architecture: network for network in (MSRResNet, EDSR, EdgeUNet)}


def create(architecture: str, **settings: Any) -> Network:
    """A new network with random weights.

    Parameters
    ----------
    architecture
        A key of ``ARCHITECTURES``: ``msrresnet``, ``edsr`` or ``edge-unet``.
    settings
        Keyword arguments of that class.

    Raises
    ------
    ModelError
        The name or a setting is unknown, or the settings do not fit each other.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"there is no architecture called {architecture!r}",
            why=("the name is misspelt", "the file was written by a newer version"),
            fix=f"use one of {', '.join(sorted(ARCHITECTURES))}",
        )
    try:
        network = ARCHITECTURES[architecture](**settings)
        if not all(parameter.numel() for parameter in network.parameters()):
            raise ValueError("a layer has no channels")
        return network
    except (TypeError, ValueError, RuntimeError, IndexError) as error:  # torch has its own for sizes that cannot be
        raise ModelError(
            f"{architecture} cannot be built with {settings}",
            why=(str(error),),
            fix="compare the settings with the class's docstring in bfsr_edge/models",
        ) from error


def parameter_count(module: nn.Module) -> int:
    """Trainable and fixed parameters, buffers left out."""
    return sum(parameter.numel() for parameter in module.parameters())


def gmacs(module: Network, height: int = 128, width: int = 128) -> float:
    """Multiply-accumulates in 10⁹ of all convolutions for one input of ``height`` × ``width`` pixels.

    Counted by running the network on meta tensors: no arithmetic is done and no memory is taken.
    """
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        per_output = layer.weight[0].numel()
        total += output.numel() * per_output

    network = create(module.architecture, **module.settings).to("meta")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.empty(1, 3, height, width, device="meta"))
    return total / 1e9
