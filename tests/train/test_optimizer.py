"""Muon: what it does to hidden weights, that the others go by AdamW, and that every network says which are which."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bfsr_edge.models import ARCHITECTURES, Network, create
from bfsr_edge.train.optimizer import UPDATE, Muon, make_optimizer, orthogonal
from bfsr_edge.train.recipe import Optimizer

CPU = torch.device("cpu")
PLAN = Optimizer("muon", rate=1e-2, betas=(0.8, 0.9), weight_decay=0.1, momentum=0.9)
SMALL: dict[str, dict[str, Any]] = {
    "edge-unet": {"widths": [4, 8], "encoder": [0, 1], "decoder": [1]},
    "msrresnet": {"blocks": 1, "channels": 4},
    "edsr": {"blocks": 1, "channels": 4},
}


def stepped(network: Network, plan: Optimizer, steps: int = 3) -> Network:
    """A copy, moved by gradients that are the same for every optimizer."""
    moved = copy.deepcopy(network)
    optimizer = make_optimizer(plan, moved, CPU)
    for step in range(steps):
        draws = torch.Generator().manual_seed(step)
        for weight in moved.parameters():
            weight.grad = torch.randn(weight.shape, generator=draws)
        optimizer.step()
    return moved


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_singular_values_come_near_one(rows: int, columns: int, count: int, size: float, seed: int) -> None:
    matrices = torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # as in training, where no direction vanishes altogether
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    matrices = size * (left * values.clamp_min(0.05 * float(values.max())).unsqueeze(1)) @ right
    near = orthogonal(matrices)
    assert near.shape == matrices.shape
    after = torch.linalg.svdvals(near)
    assert float(after.min()) > 0.5
    assert float(after.max()) < 1.5
    # the nearest one: of the polar decomposition it has the directions, and of every direction about one
    assert float((near * (left @ right)).sum(dim=(1, 2)).min()) > 0.6 * min(rows, columns)


def test_nothing_stays_nothing() -> None:
    assert not orthogonal(torch.zeros(2, 3, 5)).any()


def test_a_step_has_the_size_of_adams_whatever_the_gradient() -> None:
    for shape in ((16, 16, 3, 3), (8, 64, 1, 1), (64, 8)):
        for size in (1e-8, 1.0, 1e8):
            weight = nn.Parameter(torch.zeros(shape))
            weight.grad = size * torch.randn(shape, generator=torch.Generator().manual_seed(0))
            Muon([weight], [nn.Parameter(torch.zeros(1))], momentum=0.95, lr=0.01, weight_decay=0.0).step()
            assert weight.detach().square().mean().sqrt().item() == pytest.approx(UPDATE * 0.01, rel=0.2)


@pytest.mark.parametrize("name", SMALL)
def test_the_ends_of_every_network_go_by_adamw_and_the_rest_does_not(name: str) -> None:
    network = create(name, **SMALL[name])
    muon = dict(stepped(network, PLAN).named_parameters())
    adam = dict(stepped(network, Optimizer("adamw", PLAN.rate, PLAN.betas, weight_decay=0.1)).named_parameters())
    alike = {key for key in muon if torch.equal(muon[key], adam[key])}
    pictures = {key for key, weight in muon.items() if weight.ndim == 4 and (weight.shape[1] == 3 or "last" in key)}
    biases = {key for key in muon if key.endswith("bias")}
    tail = {"tail.weight"} & set(muon)
    assert alike == pictures | biases | tail
    assert not any(torch.equal(muon[key], weight) for key, weight in network.named_parameters())


def test_every_trained_network_says_which_its_ends_are() -> None:
    trained = {name for name, kind in ARCHITECTURES.items() if list(create(name, **SMALL.get(name, {})).parameters())}
    assert trained == set(SMALL)
    for name in trained:
        network = create(name, **SMALL[name])
        assert network.ends
        for end in network.ends:
            network.get_submodule(end)


def test_the_layout_in_memory_does_not_matter() -> None:
    network = create("edge-unet", **SMALL["edge-unet"])
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not typed
    for plain, other in zip(stepped(network, PLAN).parameters(), stepped(last, PLAN).parameters(), strict=True):
        torch.testing.assert_close(plain, other)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_frozen_weights_stay_and_have_no_moments(name: str) -> None:
    network = create("edge-unet", **SMALL["edge-unet"])
    for key, weight in network.named_parameters():
        weight.requires_grad_(not key.startswith("encoder."))
    moved = stepped(network, dataclasses.replace(PLAN, name=name))
    for (key, before), after in zip(network.named_parameters(), moved.parameters(), strict=True):
        assert torch.equal(before, after) is key.startswith("encoder."), key
    held = sum(len(group["params"]) for group in make_optimizer(PLAN, moved, CPU).param_groups)
    assert held == sum(weight.requires_grad for weight in moved.parameters())
