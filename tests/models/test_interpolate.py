"""Network interpolation: its ends, its middle, and what cannot be mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bfsr_edge.errors import ModelError, UsageError
from bfsr_edge.models import Network, create
from bfsr_edge.models.interpolate import interpolate

NETWORKS: dict[str, dict[str, Any]] = {
    "edge-unet": {"widths": [4, 8], "encoder": [0, 1], "decoder": [1]},
    "msrresnet": {"blocks": 1, "channels": 8},
    "edsr": {"blocks": 1, "channels": 8},
}


def random(architecture: str, seed: int) -> Network:
    """Every weight random, those too that begin as zeros or as bicubic interpolation."""
    generator = torch.Generator().manual_seed(seed)
    network = create(architecture, **NETWORKS[architecture])
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return network


@pytest.mark.parametrize("architecture", NETWORKS)
def test_ends_and_middle(architecture: str) -> None:
    first, second = random(architecture, 0), random(architecture, 1)
    ends = [interpolate(first, second, alpha).state_dict() for alpha in (0, 1)]
    middle, fifth = (interpolate(first, second, alpha) for alpha in (0.5, 0.2))
    assert ends[0].keys() == middle.state_dict().keys() == second.state_dict().keys()
    for name, mine in first.state_dict().items():
        other = second.state_dict()[name]
        assert torch.equal(ends[0][name], mine)
        assert torch.equal(ends[1][name], other)
        mean = torch.stack((mine, other)).double().mean(0).float()
        assert torch.equal(middle.state_dict()[name], mean)
        torch.testing.assert_close(fifth.state_dict()[name], 0.8 * mine + 0.2 * other)
    assert not middle.training
    assert (middle.architecture, middle.settings) == (first.architecture, first.settings)


def test_the_two_networks_stay_as_they_are() -> None:
    first, second = random("edge-unet", 0), random("edge-unet", 1)
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    between = interpolate(first, second, 0.0)
    with torch.no_grad():
        for weight in between.parameters():
            weight.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in first.state_dict().items())


def test_other_networks_are_refused() -> None:
    one = random("msrresnet", 0)
    with pytest.raises(ModelError, match=r"no weights in common: msrresnet with .* and edsr with"):
        interpolate(one, random("edsr", 0), 0.5)
    with pytest.raises(ModelError, match=r"'blocks': 1.*'blocks': 2"):
        interpolate(one, create("msrresnet", blocks=2, channels=8), 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.01, float("nan")])
def test_alpha_lies_between_the_two(alpha: float) -> None:
    one = random("msrresnet", 0)
    with pytest.raises(UsageError, match="alpha lies in"):
        interpolate(one, one, alpha)
