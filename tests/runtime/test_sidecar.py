"""What a sidecar refuses, what it only remarks, and that it says everything at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.errors import ModelError
from bfsr_edge.runtime import sidecar
from bfsr_edge.runtime.sidecar import Here, Sidecar
from bfsr_edge.weights import Model, resolve
from tests.runtime.engine_files import described

HERE = Here("tensorrt", "10.3.0", "8.9", "NVIDIA GeForce RTX 4090", system="linux-x86_64", cuda="12.6", driver="560.35")
REBUILD = "bfsr-edge build-engine --model edge --int8 --target rtx-40"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "edge.engine"
    path.write_bytes(b"a plan")
    return path


def made(plan: Path, **different: Any) -> Sidecar:
    fields = {"system": "linux-x86_64", "rebuild": REBUILD, "gpu": HERE.gpu, "cuda": "12.6", "driver": "560.35"}
    return described(plan, **{**fields, **different})


def test_written_and_read(plan: Path) -> None:
    wanted = made(plan, options={"optimization_level": 3}, psnr_drop=0.01)
    sidecar.write(plan, wanted)
    assert sidecar.read(plan) == wanted
    assert [path.name for path in plan.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: "",
        lambda content: content[:-20],
        lambda content: "[]",
        lambda content: json.dumps({**json.loads(content), "version": 2}),
        lambda content: json.dumps({**json.loads(content), "unknown": 1}),
        lambda content: json.dumps({key: value for key, value in json.loads(content).items() if key != "tile"}),
    ],
)
def test_damaged(plan: Path, spoil: Any) -> None:
    sidecar.write(plan, made(plan))
    path = sidecar.path_of(plan)
    path.write_text(spoil(path.read_text("utf-8")), "utf-8")
    with pytest.raises(ModelError, match="cannot be read as the sidecar"):
        sidecar.read(plan)


def test_a_field_of_older_builds(plan: Path) -> None:
    wanted = made(plan)
    sidecar.write(plan, wanted)
    path = sidecar.path_of(plan)
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "version_compatible": False}), "utf-8")
    assert sidecar.read(plan) == wanted


def test_missing(plan: Path) -> None:
    with pytest.raises(ModelError, match=r"has no sidecar edge\.engine\.json"):
        sidecar.read(plan)


class TestPlan:
    def test_the_right_one(self, plan: Path) -> None:
        sidecar.check_plan(made(plan), resolve(plan))

    def test_another_hash(self, plan: Path) -> None:
        wanted = made(plan)
        plan.write_bytes(b"another plan")
        with pytest.raises(ModelError, match=r"is not the plan that edge\.engine\.json describes") as caught:
            sidecar.check_plan(wanted, resolve(plan))
        assert REBUILD in caught.value.fix

    def test_unknown_flavour(self, plan: Path) -> None:
        with pytest.raises(ModelError, match="'tensorrt-3000'"):
            sidecar.check_plan(made(plan, flavour="tensorrt-3000"), resolve(plan))


class TestMachine:
    def test_the_right_one(self, plan: Path) -> None:
        assert sidecar.check_machine(made(plan), plan, HERE) == []

    @pytest.mark.parametrize(
        ("different", "reason"),
        [
            ({"flavour": "tensorrt-rtx"}, "it is a plan of tensorrt-rtx, here is tensorrt"),
            ({"flavour_version": "10.7.0"}, "it was built with tensorrt 10.7.0, here is 10.3.0"),
            ({"flavour_version": "10.3.1"}, "it was built with tensorrt 10.3.1, here is 10.3.0"),
            ({"system": "linux-aarch64"}, "it was built for linux-aarch64, this is linux-x86_64"),
            ({"sm": ("8.6", "12.0")}, "it was built for GPUs of SM 8.6, 12.0; NVIDIA GeForce RTX 4090 has 8.9"),
        ],
    )
    def test_hard_differences(self, plan: Path, different: dict[str, Any], reason: str) -> None:
        with pytest.raises(ModelError, match="cannot run on this machine") as caught:
            sidecar.check_machine(made(plan, **different), plan, HERE)
        assert caught.value.why == (reason,)
        assert caught.value.fix == f"build it here: {REBUILD}"

    def test_everything_in_one_error(self, plan: Path) -> None:
        wrong = made(plan, flavour_version="11.4.0", sm=("12.0",), system="windows-x86_64")
        with pytest.raises(ModelError) as caught:
            sidecar.check_machine(wrong, plan, HERE)
        assert len(caught.value.why) == 3
        assert str(caught.value).count(REBUILD) == 1

    def test_one_of_several_gpus(self, plan: Path) -> None:
        assert sidecar.differences(made(plan, sm=("8.6", "8.9", "12.0")), HERE) == []

    def test_a_cpu_is_no_gpu(self, plan: Path) -> None:
        (told,) = sidecar.differences(made(plan), dataclasses.replace(HERE, sm="", gpu=""))
        assert told.endswith("this machine has none")

    @pytest.mark.parametrize(
        ("different", "remark"),
        [
            ({"driver": "550.0"}, "built with driver 550.0, running with 560.35"),
            ({"gpu": "NVIDIA GeForce RTX 4080"}, "built with GPU NVIDIA GeForce RTX 4080, running with"),
            ({"cuda": "12.4"}, "built with CUDA 12.4, running with 12.6"),
        ],
    )
    def test_soft_differences(self, plan: Path, different: dict[str, Any], remark: str) -> None:
        (told,) = sidecar.check_machine(made(plan, **different), plan, HERE)
        assert told.startswith(remark)

    def test_what_is_not_known_is_no_difference(self, plan: Path) -> None:
        """An RTX engine is built without a GPU, and says nothing of one."""
        assert sidecar.check_machine(made(plan, gpu="", cuda="", driver=""), plan, HERE) == []

    def test_openvino_reads_plans_of_other_versions(self, plan: Path) -> None:
        wanted = made(plan, flavour="openvino", flavour_version="2025.1.0", sm=(), gpu="")
        here = dataclasses.replace(HERE, flavour="openvino", version="2026.4.1", sm="", gpu="")
        assert sidecar.check_machine(wanted, plan, here) == ["built with openvino 2025.1.0, running with 2026.4.1"]


def test_executed(plan: Path) -> None:
    assert [sidecar.executed(made(plan, precision=name)) for name in ("int8", "fp16", "fp32")] == [
        "fp16+int8",
        "fp16",
        "fp32",
    ]


@pytest.mark.parametrize(
    ("shares", "precision", "told"),
    [
        ({"int8": 0.9, "fp16": 0.1, "fp32": 0.0}, "int8", "fp16+int8"),
        ({"int8": 0.9, "fp16": 0.0, "fp32": 0.1}, "int8", "fp32+int8"),
        ({"int8": 0.0, "fp16": 1.0, "fp32": 0.0}, "fp16", "fp16"),
        ({}, "int8", "fp16+int8"),
        ({"int8": "most"}, "int8", "fp16+int8"),
        ("nonsense", "fp32", "fp32"),
    ],
)
def test_executed_by_shares(plan: Path, shares: Any, precision: str, told: str) -> None:
    assert sidecar.executed(made(plan, precision=precision, options={"mac_shares": shares})) == told


def test_model_is_what_resolve_gives(plan: Path) -> None:
    assert isinstance(resolve(plan), Model)
    assert resolve(plan).kind == "engine"
