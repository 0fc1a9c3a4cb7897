"""What inspect tells: from TensorRT's JSON of 10 and 11, from OpenVINO, from ONNX, and what it says it cannot know."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.engines import build as building
from bfsr_edge.engines import inspection
from bfsr_edge.engines.graphs import prepare, read_source
from bfsr_edge.engines.inspection import Layer, Report, inspect
from bfsr_edge.engines.profile import load_profile
from bfsr_edge.engines.request import Request
from bfsr_edge.engines.target import look
from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.runtime import machine, sidecar, trt
from bfsr_edge.runtime.sidecar import Sidecar
from bfsr_edge.weights import resolve
from tests.engines import helpers
from tests.runtime import fake_trt
from tests.runtime.fake_cuda import FakeDevice


def tensor(name: str, sides: list[int], kind: str) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": sides, "Format/Datatype": kind}


# the layout that TensorRT's documentation shows for ProfilingVerbosity.DETAILED, with a network of ours in it
LAYERS: list[Any] = [
    {
        "Name": "Reformatting CopyNode for Input Tensor 0 to /head/Conv",
        "LayerType": "Reformat",
        "Inputs": [tensor("input", [-1, 3, 32, 32], "Row major linear FP32 format")],
        "Outputs": [tensor("Reformatted Input", [-1, 3, 32, 32], "Channel major FP16 format where channel % 8 == 0")],
        "ParameterType": "Reformat",
        "Origin": "REFORMAT",
        "TacticValue": "0x0",
    },
    {
        "Name": "/body/Conv + /Add",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("lit", [-1, 16, 32, 32], "Thirty-two wide channel vectorized row major Int8 format.")],
        "Outputs": [tensor("sum", [-1, 16, 32, 32], "Channel major FP16 format where channel % 8 == 0")],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "Weights": {"Type": "Int8", "Count": 2304},
        "Bias": {"Type": "Float", "Count": 16},
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
    },
    {
        "Name": "__myl_ShuffleCast",
        "LayerType": "kgen",
        "Inputs": [tensor("cells", [-1, 48, 32, 32], "Half")],
        "Outputs": [tensor("output", [-1, 3, 128, 128], "Float")],
    },
]
TEN = {"Layers": LAYERS, "Bindings": ["input", "output"]}
ELEVEN = {
    "Layers": LAYERS,
    "I/O Tensors": [
        {
            "Name": name,
            "IOMode": mode,
            "DataType": "Float",
            "Dimensions": [-1, 3, side, side],
            "Location": "Device",
            "IsShapeInferenceIO": False,
            "ProfileInfo": [{"MinShape": [1, 3, side, side], "Format": "Row major linear FP32 format (kLINEAR)"}],
        }
        for name, mode, side in (("input", "Input", 32), ("output", "Output", 128))
    ],
}


@pytest.mark.parametrize("information", [TEN, ELEVEN], ids=["10", "11"])
def test_inspector_json(information: dict[str, Any]) -> None:
    content = trt.parse_information(json.dumps(information))
    reformat, conv, shuffle = layers = inspection.from_information(content, batch=2)
    assert trt.io_tensors(content) == ["input", "output"]
    assert [layer.precision for layer in layers] == ["fp32", "int8", "fp16"]
    assert [layer.reformat for layer in layers] == [True, False, False]
    assert reformat.size == pytest.approx(2 * 3 * 32 * 32 * (4 + 2) / 1e6)
    assert conv.size == pytest.approx((2 * 16 * 32 * 32 * (1 + 2) + 2304) / 1e6)
    assert shuffle.size == pytest.approx(2 * 48 * 32 * 32 * (2 + 4) / 1e6)
    report = Report((), layers, "MB")
    assert report.precisions == {"int8": 1, "fp16": 1}
    assert report.reformats == 1
    assert report.largest[0] == shuffle
    assert "3 layers: 1 in int8, 1 in fp16; 1 reformats" in report.text()


def test_an_engine_that_tells_names_only() -> None:
    (layer,) = inspection.from_information({"Layers": ["/body/Conv + /Add"]}, 1)
    assert layer == Layer("/body/Conv + /Add", "not said", "not said", 0.0)


@pytest.mark.parametrize(
    ("word", "precision"),
    [
        ("Half", "fp16"),
        ("FP8", "not said"),
        ("BFloat16", "bf16"),
        ("UInt8", "uint8"),
        ("Int32", "int32"),
        ("", "not said"),
    ],
)
def test_types(word: str, precision: str) -> None:
    found = inspection.from_information({"Layers": [{"Name": "x", "Outputs": [tensor("y", [1], word)]}]}, 1)
    assert found[0].precision == precision


def test_only_the_ten_largest_are_shown() -> None:
    report = Report((), tuple(Layer(f"layer {i}", "conv", "fp16", float(i)) for i in range(30)), "ms")
    assert [layer.size for layer in report.largest] == list(range(29, 19, -1))
    assert len(json.loads(report.json())["layers"]) == 30


# ---- real files


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = helpers.network(tmp_path / "tiny.onnx")
    helpers.calibration(path)
    return path


def build(path: Path, name: str, precision: str) -> Path:
    here = dataclasses.replace(look(), cpu_features=("avx512_vnni",))
    request = Request(resolve(path), load_profile(name), precision=precision, out=path.parent, tile=(32, 32))
    return building.build(request, here).path


def test_onnx(tiny: Path) -> None:
    report = inspect(resolve(tiny))
    assert report.precisions == {"fp32": 3}
    assert report.unit == "GMAC"
    quantized = tiny.with_name("tiny.int8.onnx")
    quantized.write_bytes(prepare(read_source(resolve(tiny)), "int8", (32, 32)).content)
    lower = inspect(resolve(quantized))
    assert lower.precisions == {"fp16": 2, "int8": 1}
    assert [layer.size for layer in lower.layers] == pytest.approx([layer.size for layer in report.layers])
    assert "23.9% in int8" in dict(lower.facts)["multiply-accumulates"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_cpu_engine(tiny: Path, precision: str) -> None:
    report = inspect(resolve(build(tiny, "cpu", precision)))
    convolutions = [layer for layer in report.layers if layer.kind == "Convolution"]
    assert len(convolutions) == 3
    assert ("int8" in {layer.precision for layer in convolutions}) == (precision == "int8")
    assert report.unit == "ms"
    assert sum(layer.size for layer in report.layers) > 0
    assert ("loss" in dict(report.facts)) == (precision == "int8")


def test_rtx_plan_says_what_cannot_be_known(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(machine, "gpus", list)
    report = inspect(resolve(build(tiny, "rtx-40", "int8")))
    facts = dict(report.facts)
    assert facts["GPUs"] == "SM 8.9"
    assert "in int8" in facts["multiply-accumulates"]
    assert float(facts["weights"].split(" MB")[0]) > 0
    assert not report.layers
    assert "chooses kernels only there" in report.unknown[0]
    assert "SM 8.9" in report.unknown[1]


def test_a_plan_that_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "it.engine"
    plan.write_bytes(b"plan")
    described = Sidecar(
        "tiny", "tensorrt", "11.4.0", "int8", hashlib.sha256(b"plan").hexdigest(), "0" * 64, (32, 32), (1, 2, 4), 4, 8,
        3, "linux-x86_64", "datacenter", "bfsr-edge build-engine", sm=("9.0",),
    )  # fmt: skip
    sidecar.write(plan, described)
    monkeypatch.setattr(inspection, "_ask_inspector", lambda *_: (ELEVEN, 3_000_000))
    report = inspect(resolve(plan))
    assert dict(report.facts)["tensors"] == "input, output"
    assert dict(report.facts)["memory"] == "3.0 MB beside the weights"
    assert len(report.layers) == 3

    def fail(*_: Any) -> Any:
        raise BackendError("tensorrt cannot be used here")

    monkeypatch.setattr(inspection, "_ask_inspector", fail)
    assert "tensorrt cannot be used here" in inspect(resolve(plan)).unknown[1]


def test_no_usable_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sidecar says is shown all the same, and TensorRT's own line."""
    plan = tmp_path / "it.engine"
    plan.write_bytes(b"plan")
    described = Sidecar(
        "tiny", "tensorrt", "10.3.0", "int8", hashlib.sha256(b"plan").hexdigest(), "0" * 64, (32, 32), (1, 2, 2), 4, 8,
        3, machine.system(), "datacenter", "bfsr-edge build-engine", sm=("8.9",),
    )  # fmt: skip
    sidecar.write(plan, described)
    module = fake_trt.fake_tensorrt("10.3.0", FakeDevice(), fake_trt.Mischief(no_cuda=True))
    monkeypatch.setattr(trt, "load_api", lambda flavour: trt.Api(module, flavour, "10.3.0", (10, 3, 0)))
    monkeypatch.setattr(machine, "gpus", lambda: [machine.Gpu(0, "Fake GPU", "8.9", 1 << 34, False)])
    report = inspect(resolve(plan))
    assert dict(report.facts)["GPUs"] == "SM 8.9"
    assert "cannot make a runtime; CUDA initialization failure with error: 35" in report.unknown[1]


def test_a_tampered_plan_is_refused(tiny: Path) -> None:
    engine = build(tiny, "cpu", "fp32")
    engine.write_bytes(engine.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="is not the plan"):
        inspect(resolve(engine))


def test_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="is a checkpoint"):
        inspect(resolve(path))
