"""Every profile loads, and says what it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfsr_edge.engines.profile import list_profiles, load_profile
from bfsr_edge.errors import UsageError

NAMES = [
    "cpu",
    "datacenter",
    "jetson-agx-orin",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "jetson-thor",
    "rtx-30",
    "rtx-40",
    "rtx-50",
]
ROOT = Path(__file__).resolve().parents[2]


def test_all_are_there() -> None:
    assert list_profiles() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.summary
    flavour = "openvino" if name == "cpu" else "tensorrt-rtx" if name.startswith("rtx") else "tensorrt"
    assert profile.flavour == flavour
    assert bool(profile.boards) == name.startswith("jetson")
    # TensorRT takes memory for the largest batch, and no more than the best is ever run
    assert flavour == "openvino" or profile.batch[1] == profile.batch[2]


def test_facts() -> None:
    assert [load_profile(f"rtx-{number}").sm for number in (30, 40, 50)] == [("8.6",), ("8.9",), ("12.0",)]
    assert load_profile("jetson-orin-nano").sm == load_profile("jetson-agx-orin").sm == ("8.7",)
    small = load_profile("jetson-orin-nano")
    assert 0 < small.workspace_mib < small.tactic_dram_mib < 4096 / 2
    assert small.optimization_level in (2, 3)
    assert load_profile("cpu").precision == "int8"


@pytest.mark.parametrize("name", NAMES)
def test_readme_has_a_row(name: str) -> None:
    rows = [line for line in (ROOT / "engines" / "README.md").read_text("utf-8").splitlines() if f"`{name}`" in line]
    row = next(line for line in rows if line.startswith("|"))
    profile = load_profile(name)
    assert all(sm in row for sm in profile.sm)
    assert ("not run here" in row) == (name != "cpu")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour = 3", "unknown key 'colour'"),
        ("tile = '128'", "'128' is no int"),
        ("batch = [1, 4]", "batch"),
        ("batch = [4, 1, 8]", "out of range: batch"),
        ("precision = 'int4'", "out of range: precision"),
        ("optimization_level = 6", "out of range: optimization_level"),
        ("flavour = 'tensorrt'", "out of range: sm"),
        ("tile = ", "TOML"),
    ],
)
def test_wrong_profiles_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        load_profile(str(path))


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"(?s)gtx-10.*rtx-30"):
        load_profile("gtx-10")
