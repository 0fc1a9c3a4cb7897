"""What machines are taken for, and what they can build for."""

from __future__ import annotations

import pytest

from bfsr_edge.engines import target
from bfsr_edge.engines.profile import load_profile
from bfsr_edge.engines.target import Here
from bfsr_edge.errors import UsageError
from bfsr_edge.runtime.machine import VNNI
from tests.engines.helpers import machine

NANO = "NVIDIA Jetson Orin Nano Developer Kit"


@pytest.mark.parametrize(
    ("here", "name", "reason"),
    [
        (machine(), "cpu", "no NVIDIA GPU"),
        (machine(gpu="Orin", sm="8.7", board=NANO, tensorrt="10.3.0"), "jetson-orin-nano", NANO),
        (machine(gpu="Orin", sm="8.7", board="NVIDIA Jetson AGX Orin Developer Kit"), "jetson-agx-orin", "AGX"),
        (machine(gpu="Orin", sm="8.7", board="NVIDIA Jetson Orin NX Engineering Reference"), "jetson-orin-nx", "NX"),
        (machine(gpu="NVIDIA Thor", sm="11.0", board="NVIDIA Jetson AGX Thor Developer Kit"), "jetson-thor", "Thor"),
        (machine(gpu="NVIDIA GeForce RTX 4090", sm="8.9", rtx="1.7.1", tensorrt="11.4.0"), "rtx-40", "1.7.1"),
        (machine(gpu="NVIDIA GeForce RTX 4090", sm="8.9", tensorrt="11.4.0"), "datacenter", "11.4.0"),
        (machine(gpu="NVIDIA L4", sm="8.9", rtx="1.7.1", tensorrt="11.4.0"), "datacenter", "11.4.0"),
        (machine(gpu="NVIDIA H100", sm="9.0", tensorrt="11.4.0"), "datacenter", "H100"),
        (machine(gpu="NVIDIA H100", sm="9.0", rtx="1.7.1"), "cpu", "not tensorrt"),
        (machine(gpu="NVIDIA GeForce RTX 5090", sm="12.0"), "cpu", "not tensorrt and tensorrt-rtx"),
        (machine(gpu="Quadro P400", sm="6.1", tensorrt="11.4.0"), "cpu", "no profile knows"),
        (machine(gpu="Orin, 16 SMs", sm="8.7", container=True), "jetson-orin-nano", "board is hidden"),
        (machine(gpu="NVIDIA Thor", sm="11.0", container=True, tensorrt="10.16.2"), "jetson-thor", "board is hidden"),
    ],
)
def test_choose(here: Here, name: str, reason: str) -> None:
    profile, why = target.choose(here)
    assert profile.name == name
    assert reason in why


@pytest.mark.parametrize(
    ("name", "here", "obstacle"),
    [
        ("cpu", machine(), ""),
        ("rtx-40", machine(rtx="1.7.1"), ""),
        ("rtx-40", machine(), "tensorrt-rtx is not installed here"),
        ("jetson-orin-nano", machine(), "tensorrt is not installed here"),
        ("jetson-orin-nano", machine(gpu="NVIDIA H100", sm="9.0", tensorrt="10.3.0"), "found is NVIDIA H100"),
        ("jetson-orin-nx", machine(gpu="Orin", sm="8.7", container=True, tensorrt="10.3.0"), ""),
        ("jetson-thor", machine(gpu="Orin", sm="8.7", container=True, tensorrt="10.3.0"), "found is Orin"),
        ("jetson-orin-nano", machine(gpu="Orin", sm="8.7", board=NANO, tensorrt="10.3.0"), ""),
        ("jetson-agx-orin", machine(gpu="Orin", sm="8.7", board=NANO, tensorrt="10.3.0"), "Orin Nano"),
        ("datacenter", machine(tensorrt="11.4.0"), "found is none"),
        ("datacenter", machine(gpu="NVIDIA H100", sm="9.0", tensorrt="11.4.0"), ""),
        ("datacenter", machine(gpu="Quadro P400", sm="6.1", tensorrt="11.4.0"), "P400"),
    ],
)
def test_obstacle(name: str, here: Here, obstacle: str) -> None:
    found = target.obstacle(load_profile(name), here)
    assert obstacle in found
    assert bool(found) == bool(obstacle)


def test_int8_needs_vnni() -> None:
    cpu = load_profile("cpu")
    for feature in VNNI:
        assert target.default_precision(cpu, machine(cpu=("avx2", feature)))[0] == "int8"
    old = machine(cpu=("avx2", "avx512f"))
    precision, why = target.default_precision(cpu, old)
    assert (precision, "saturates" in why) == ("fp32", True)
    with pytest.raises(UsageError, match="wrong pictures"):
        target.check_precision(cpu, old, "int8")
    target.check_precision(cpu, old, "fp32")
    target.check_precision(load_profile("rtx-40"), old, "int8")  # the CPU does not matter there


def test_this_machine() -> None:
    here = target.look()
    assert "-" in here.system
    assert set(here.flavours) == {"tensorrt", "tensorrt-rtx"}
