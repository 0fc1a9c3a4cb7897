"""The networks: sizes, costs, receptive fields, what EdgeUNet's skip begins as, dropout and normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bfsr_edge.errors import ModelError
from bfsr_edge.models import ARCHITECTURES, Network, create, gmacs, load_checkpoint, parameter_count, save_checkpoint
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


@pytest.mark.parametrize(
    ("architecture", "gains"),
    [
        ("msrresnet", {"conv_first": 0.1, "trunk_net": 0.1, "upsample1": 1, "upsample2": 1, "conv_hr": 0.1}),
        ("msrresnet", {"conv_last": 0.1}),
        ("edsr", {"body": 0.1, "upsample": 1}),
    ],
)
def test_networks_begin_as_published(architecture: str, gains: dict[str, float]) -> None:
    """mmediting's: Kaiming-normal times a gain, and no bias. What is not named begins as torch has it."""
    torch.manual_seed(0)
    network = create(architecture, blocks=2, channels=32)
    seen = set()
    for name, layer in network.named_modules():
        part = name.partition(".")[0]
        if isinstance(layer, nn.Conv2d) and part in gains:
            seen.add(part)
            fan_in = layer.weight[0].numel()
            spread = float(layer.weight.detach().std())
            assert spread == pytest.approx(gains[part] * (2 / fan_in) ** 0.5, rel=0.1), name
            assert layer.bias is not None
            assert not layer.bias.any(), name
    assert seen == set(gains)


def test_edge_unet_holds_only_what_quantizes_and_fuses() -> None:
    layers = {type(layer) for layer in create("edge-unet").modules() if not list(layer.children())}
    assert layers <= {nn.Conv2d, nn.Sequential}  # an empty Sequential stands for no blocks


def test_a_slope_makes_every_relu_of_edge_unet_a_leaky_one() -> None:
    torch.manual_seed(3)
    plain = create("edge-unet", **SMALL["edge-unet"]).eval()
    leaky = create("edge-unet", **SMALL["edge-unet"], slope=0.25).eval()
    assert plain.settings == SMALL["edge-unet"], "as in checkpoints written before there was a slope"
    assert leaky.settings == SMALL["edge-unet"] | {"slope": 0.25}
    leaky.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(leaky(x), plain(x))
        # all values in front of an activation above zero, where both are the identity
        for network in (plain, leaky):
            for name, weight in network.named_parameters():
                if name.split(".")[0] in ("down", "encoder", "decoder"):
                    weight.copy_(weight * 1e-3 if weight.ndim == 4 else torch.ones_like(weight))
        assert torch.equal(leaky(x), plain(x))
    with pytest.raises(ModelError, match="slope must lie in"):
        create("edge-unet", slope=1.0)


def test_linear_down_leaves_the_strided_convolutions_without_an_activation() -> None:
    torch.manual_seed(3)
    plain = create("edge-unet", **SMALL["edge-unet"]).eval()
    linear = create("edge-unet", **SMALL["edge-unet"], linear_down=True).eval()
    assert linear.settings == SMALL["edge-unet"] | {"linear_down": True}
    linear.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(linear(x), plain(x))
        for network in (plain, linear):
            for layer in (part for name, part in network.named_modules() if name.startswith("down.")):
                assert isinstance(layer, nn.Conv2d)
                assert layer.bias is not None
                layer.weight.mul_(1e-3)
                layer.bias.fill_(1)  # above zero, where an activation is the identity
        assert torch.equal(linear(x), plain(x))


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="no architecture called 'esrgan'") as caught:
        create("esrgan")
    assert "edge-unet" in caught.value.fix
    with pytest.raises(ModelError, match="cannot be built"):
        create("msrresnet", depth=3)
    with pytest.raises(ModelError, match="cannot be built"):
        create("edge-unet", widths=[8, 8], encoder=[1], decoder=[1])


MEAN, STD = [0.5, 0.4, 0.3], [0.3, 0.25, 0.2]


def seeded(architecture: str, **settings: Any) -> Network:
    torch.manual_seed(3)
    return create(architecture, **SMALL[architecture], **settings)


@pytest.mark.parametrize("architecture", ["msrresnet", "edsr"])
def test_defaults_are_left_out_of_the_settings(architecture: str) -> None:
    """So older checkpoints and those of today have equal settings."""
    assert seeded(architecture).settings == seeded(architecture, dropout=0.0).settings == SMALL[architecture]
    assert seeded(architecture, dropout=0.1).settings == SMALL[architecture] | {"dropout": 0.1}


@pytest.mark.parametrize("architecture", ["msrresnet", "edsr"])
def test_dropout_leaves_out_whole_channels_in_training_only(architecture: str) -> None:
    x = torch.rand(4, 3, 8, 8)
    plain, dropped = seeded(architecture).eval(), seeded(architecture, dropout=0.5)
    assert parameter_count(dropped) == parameter_count(plain)
    seen: list[torch.Tensor] = []
    last: Any = dropped.conv_last
    last.register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs[0]))
    with torch.no_grad():
        assert torch.equal(dropped.eval()(x), plain(x))
        torch.manual_seed(0)
        first = dropped.train()(x)
        torch.manual_seed(0)
        assert torch.equal(dropped(x), first), "from torch's global generator, which a resume state holds"
        assert not torch.equal(dropped(x), first)
    whole, some = seen[0], seen[1]
    gone = (some == 0).all(dim=(2, 3))
    assert 0.25 < float(gone.float().mean()) < 0.75
    kept = ~gone[:, :, None, None].expand_as(some)
    torch.testing.assert_close(some[kept], 2 * whole[kept])


def test_a_normalised_network_is_the_plain_one_on_normalised_pictures(tmp_path: Path) -> None:
    plain, normalised = seeded("msrresnet").eval(), seeded("msrresnet", mean=MEAN, std=STD).eval()
    assert parameter_count(normalised) == parameter_count(plain)
    assert normalised.state_dict().keys() == plain.state_dict().keys()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(normalised(x), plain((x - mean) / std) * std + mean)
        save_checkpoint(tmp_path / "it.safetensors", normalised)
        again = load_checkpoint(tmp_path / "it.safetensors")
        assert torch.equal(again(x), normalised(x))
    assert again.settings == SMALL["msrresnet"] | {"mean": MEAN, "std": STD}


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"mean": MEAN},
        {"std": STD},
        {"mean": MEAN[:2], "std": STD},
        {"mean": MEAN, "std": [0.1, 0.0, 0.1]},
    ):
        with pytest.raises(ModelError, match="cannot be built"):
            create("msrresnet", **wrong)
    with pytest.raises(ModelError, match="cannot be built"):
        create("edsr", dropout=1.5)


@pytest.mark.parametrize("architecture", ["msrresnet", "edsr"])
def test_a_network_with_dropout_and_normalisation_exports(architecture: str, tmp_path: Path) -> None:
    """export itself compares the graph with torch in both backends, at two tiles."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from bfsr_edge.export import export

    settings = {"dropout": 0.5} | ({"mean": MEAN, "std": STD} if architecture == "msrresnet" else {})
    save_checkpoint(tmp_path / "it.safetensors", seeded(architecture, **settings))
    done = export(tmp_path / "it.safetensors", tmp_path / "it.onnx", tile=(32, 48))
    assert max(done.errors.values()) < 0.01
    graph = onnx.load(done.path).graph
    assert {"Dropout", "Div"}.isdisjoint(node.op_type for node in graph.node)
