"""Beginning from weights: the same network, a deeper one that begins as the same function, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from bfsr_edge.errors import UsageError
from bfsr_edge.models import create, save_checkpoint
from bfsr_edge.train.begin import new_training
from bfsr_edge.train.loop import step
from bfsr_edge.train.recipe import Data, Network, Recipe

CPU = torch.device("cpu")
UNET = {"widths": [4, 8], "encoder": [0, 1], "decoder": [1]}
DEEPER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "edge-unet": (UNET, UNET | {"encoder": [1, 2], "decoder": [3]}),
    "msrresnet": ({"blocks": 1, "channels": 4}, {"blocks": 3, "channels": 4}),
    "edsr": ({"blocks": 1, "channels": 4}, {"blocks": 2, "channels": 4}),
}


def written(folder: Path, architecture: str, settings: dict[str, Any]) -> tuple[Path, torch.nn.Module]:
    """A checkpoint of random weights, and the network in it."""
    torch.manual_seed(5)
    network = create(architecture, **settings)
    path = folder / "given.safetensors"
    save_checkpoint(path, network)
    return path, network


def recipe(path: Path, architecture: str, settings: dict[str, Any]) -> Recipe:
    return Recipe(
        network=Network(architecture, settings, str(path)), data=Data(size=64), precision="fp32", batch=1, iterations=2
    )


@pytest.mark.parametrize("architecture", DEEPER)
def test_a_deeper_network_begins_as_the_same_function_and_all_of_it_learns(architecture: str, tmp_path: Path) -> None:
    shallow, deep = DEEPER[architecture]
    path, given = written(tmp_path, architecture, shallow)
    plan = recipe(path, architecture, deep)
    training = new_training(plan, CPU)
    low, truth = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(training.network(low), given(low))
    begin = {name: weight.detach().clone() for name, weight in training.network.named_parameters()}
    assert len(begin) > len(list(given.parameters()))
    for _ in range(2):  # behind a convolution of zeros the gradient comes with the second step
        step(training, plan, low, truth, "fp32")
        training.iteration += 1
    assert not [name for name, weight in training.network.named_parameters() if torch.equal(weight, begin[name])]


def test_a_network_may_begin_from_one_of_another_slope(tmp_path: Path) -> None:
    path, given = written(tmp_path, "edge-unet", UNET)
    training = new_training(recipe(path, "edge-unet", UNET | {"slope": 0.01}), CPU)
    for name, weight in training.network.named_parameters():
        assert torch.equal(weight, given.state_dict()[name]), name
    assert training.network.settings == UNET | {"slope": 0.01}


@pytest.mark.parametrize(
    ("architecture", "given", "wanted"),
    [
        ("edge-unet", UNET | {"decoder": [2]}, UNET),
        ("edge-unet", UNET, UNET | {"widths": [4, 12]}),
        ("edge-unet", UNET, {"widths": [4, 8, 8], "encoder": [0, 1, 1], "decoder": [1, 1]}),
        ("msrresnet", {"blocks": 1, "channels": 4}, {"blocks": 2, "channels": 4, "dropout": 0.1}),
    ],
    ids=["shallower", "wider", "one level more", "another setting"],
)
def test_weights_of_another_network_are_refused(
    architecture: str, given: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    path, _ = written(tmp_path, architecture, given)
    with pytest.raises(UsageError, match="not the recipe's network"):
        new_training(recipe(path, architecture, wanted), CPU)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "edsr", {"blocks": 1, "channels": 4})
    with pytest.raises(UsageError, match="holds edsr with"):
        new_training(recipe(path, "msrresnet", {"blocks": 1, "channels": 4}), CPU)


def frozen(path: Path, *parts: str) -> Recipe:
    plan = recipe(path, "edge-unet", UNET)
    return dataclasses.replace(plan, optimizer=dataclasses.replace(plan.optimizer, frozen=parts))


def test_frozen_parts_stay_bit_for_bit_in_the_network_and_its_average(tmp_path: Path) -> None:
    path, given = written(tmp_path, "edge-unet", UNET)
    plan = frozen(path, "head", "encoder.1", "skip")
    training = new_training(plan, CPU)
    for number in range(3):
        torch.manual_seed(number)
        step(training, plan, torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64), "fp32")
        training.iteration += 1
    for network in (training.network, training.average):
        for name, weight in network.state_dict().items():
            still = name.startswith(("head.", "encoder.1.", "skip."))
            assert torch.equal(weight, given.state_dict()[name]) is still, name
    assert dict(training.network.named_parameters())["head.weight"].grad is None, "its gradient is not computed"


@pytest.mark.parametrize(
    ("parts", "what", "fix"),
    [
        (("encoder.7",), "freezes 'encoder.7', and no weights", "head, encoder, down, up, decoder, tail, skip"),
        (("hea",), "freezes 'hea', and no weights", "head, "),
        (("head", "encoder", "down", "up", "decoder", "tail", "skip"), "freezes the whole network", "leave something"),
    ],
)
def test_freezing_what_is_not_there_or_everything_is_refused(
    parts: tuple[str, ...], what: str, fix: str, tmp_path: Path
) -> None:
    path, _ = written(tmp_path, "edge-unet", UNET)
    with pytest.raises(UsageError, match=what) as caught:
        new_training(frozen(path, *parts), CPU)
    assert caught.value.fix is not None
    assert fix in caught.value.fix
