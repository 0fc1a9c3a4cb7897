"""The networks: sizes, costs, receptive fields, and what EdgeUNet's skip begins as."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bfsr_edge.errors import ModelError
from bfsr_edge.models import ARCHITECTURES, create, gmacs, parameter_count
from bfsr_edge.models.edge_unet import bicubic_kernel
from bfsr_edge.resources import find_toml
from bfsr_edge.train.recipe import load_recipe

SMALL: dict[str, dict[str, Any]] = {
    "msrresnet": {"blocks": 2, "channels": 8},
    "edsr": {"blocks": 2, "channels": 8},
    "edge-unet": {"widths": [4, 8, 8], "encoder": [1, 0, 1], "decoder": [1, 1]},
}


@pytest.mark.parametrize(
    ("architecture", "blocks", "parameters"),
    [
        ("msrresnet", 16, 1_517_571),
        ("msrresnet", 20, 1_812_995),
        ("edsr", 20, 1_812_995),
        ("msrresnet", 24, 2_108_419),
        ("msrresnet", 26, 2_256_131),
    ],
)
def test_published_parameter_counts(architecture: str, blocks: int, parameters: int) -> None:
    assert parameter_count(create(architecture, blocks=blocks)) == parameters


def test_published_costs() -> None:
    assert gmacs(create("msrresnet", blocks=24)) == pytest.approx(51.2, abs=0.1)
    assert gmacs(create("msrresnet", blocks=20)) == pytest.approx(46.5, abs=0.2)


def test_the_default_stays_inside_its_limits() -> None:
    recipe = load_recipe(find_toml("train", "edge"))
    network = create(recipe.network.architecture, **recipe.network.settings)
    assert parameter_count(network) < 2_276_356
    assert gmacs(network) <= 6


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_settings_rebuild_the_network_and_shapes_are_times_four(architecture: str) -> None:
    network = create(architecture, **SMALL[architecture])
    again = create(architecture, **network.settings)
    assert parameter_count(again) == parameter_count(network)
    with torch.no_grad():
        assert network(torch.rand(2, 3, 8, 12)).shape == (2, 3, 32, 48)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_nothing_beyond_the_receptive_field_counts(architecture: str) -> None:
    torch.manual_seed(0)
    network = create(architecture, **SMALL[architecture]).double()
    radius = network.receptive_field
    side = 64
    furthest = 0
    for phase in range(4):
        middle = 4 * (side // 2 + phase) + phase
        x = torch.rand(1, 3, side, side, dtype=torch.double, requires_grad=True)
        network(x)[0, :, middle, middle].sum().backward()
        assert x.grad is not None
        seen = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        furthest = max(furthest, int((seen - (side // 2 + phase)).abs().max()))
    assert furthest <= radius
    assert furthest >= 0.6 * radius, "the property is far too cautious"


def test_the_skip_begins_as_bicubic_interpolation() -> None:
    image = np.random.default_rng(0).random((24, 20, 3), dtype=np.float32)
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    ours = F.pixel_shuffle(F.conv2d(x, bicubic_kernel(), padding=2), 4)[0].permute(1, 2, 0).numpy()
    theirs = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(ours[8:-8, 8:-8], theirs[8:-8, 8:-8], atol=1e-5)


def test_edge_unet_holds_only_what_quantizes_and_fuses() -> None:
    layers = {type(layer) for layer in create("edge-unet").modules() if not list(layer.children())}
    assert layers <= {nn.Conv2d, nn.Sequential}  # an empty Sequential stands for no blocks


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="no architecture called 'esrgan'") as caught:
        create("esrgan")
    assert "edge-unet" in caught.value.fix
    with pytest.raises(ModelError, match="cannot be built"):
        create("msrresnet", depth=3)
    with pytest.raises(ModelError, match="cannot be built"):
        create("edge-unet", widths=[8, 8], encoder=[1], decoder=[1])
