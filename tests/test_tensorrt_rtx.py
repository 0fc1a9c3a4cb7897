"""The gate for TensorRT: every exported graph parses and builds in TensorRT-RTX, whose builder needs no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bfsr_edge import quantization
from bfsr_edge.calibration import Calibration
from bfsr_edge.engines import builder, graphs
from bfsr_edge.precision import plain
from bfsr_edge.runtime import trt
from bfsr_edge.weights import list_models, resolve

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("tensorrt_rtx", reason="the builder comes with: pip install 'bfsr-edge[rtx]'")

SM = ("8.6", "8.9", "12.0")
PRECISIONS = ("fp32", "fp16", "int8")
TILE = (32, 32)
# networks of few blocks build in a second; what a block is made of does not change with their number
NETWORKS: dict[str, dict[str, Any]] = {
    "edge-unet": {"encoder": [1, 1, 1, 1], "decoder": [1, 1, 1]},
    "msrresnet": {"blocks": 2},
    "edsr": {"blocks": 2},
}
SHARE = 0.8
"""What at least is INT8 of the shipped model and of the networks in full size."""


def test_every_network_is_here() -> None:
    from bfsr_edge.models import ARCHITECTURES

    assert set(NETWORKS) == set(ARCHITECTURES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Network to its ONNX file, with a calibration beside it."""
    from bfsr_edge.export import export
    from bfsr_edge.models import create, save_checkpoint

    folder = tmp_path_factory.mktemp("exported")
    found = {}
    for name, settings in NETWORKS.items():
        checkpoint = folder / f"{name}.safetensors"
        save_checkpoint(checkpoint, create(name, **settings))
        found[name] = export(checkpoint, folder / f"{name}.onnx", tile=TILE).path
        calibrate(found[name])
    return found


def calibrate(path: Path) -> None:
    """Scales by the largest value on noise; the ends stay in floating point."""
    import onnxruntime

    proto = quantization.read(path)
    sources = quantization.source_tensors(proto)
    watched = plain(proto)
    for name in sorted(set(sources.values()) - {watched.graph.input[0].name}):
        watched.graph.output.append(onnx.ValueInfoProto(name=name))
    noise = np.random.default_rng(0).random((2, 3, *TILE), dtype=np.float32)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    values = dict(
        zip([output.name for output in session.get_outputs()], session.run(None, {"input": noise}), strict=True)
    )
    values["input"] = noise
    scales = {name: float(np.abs(values[name]).max()) / quantization.LEVELS for name in sources.values()}
    calibration = Calibration(
        scales=scales,
        graph_sha256=quantization.graph_sha256(proto),
        excluded=tuple(sorted(quantization.end_convolutions(proto))),
    )
    calibration.save(path.with_name(f"{path.stem}.calibration.json"))


def build(content: bytes, *, quantized: bool, sm: str) -> builder.Built:
    order = builder.Order(content, quantized=quantized, tile=TILE, batch=(1, 4, 8), sm=(sm,))
    built = builder.build(trt.load_api("tensorrt-rtx"), order)
    assert len(built.plan) > 1000
    assert not built.weakly_typed
    return built


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_builds(exported: dict[str, Path], name: str, precision: str) -> None:
    graph = graphs.prepare(graphs.read_source(resolve(exported[name])), precision, TILE)
    weights = [build(graph.content, quantized=graph.quantized, sm=sm).sizes["weights_bytes"] for sm in SM]
    stored = onnx.load_from_string(graph.content).graph.initializer
    # the plan holds what the graph holds: nothing was widened on the way
    assert max(weights) < 1.2 * sum(numpy_helper.to_array(tensor).nbytes for tensor in stored) + 20_000
    assert graph.shares[precision] > (0.5 if precision == "int8" else 0.999)


@pytest.mark.parametrize("uint8_io", [False, True], ids=["float32", "uint8"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("entry", list_models(), ids=lambda entry: entry.name)
def test_what_ships_builds(entry: Any, precision: str, uint8_io: bool) -> None:
    """With its trained weights and its calibration."""
    if "onnx" not in entry.files:
        pytest.skip(f"{entry.name} ships no ONNX: it is exported on demand")
    if precision == "int8" and "calibration" not in entry.files:
        pytest.skip(f"{entry.name} ships no calibration")
    source = graphs.read_source(resolve(entry.name, kind="onnx"))
    graph = graphs.prepare(source, precision, TILE, uint8_io=uint8_io)
    for sm in SM:
        build(graph.content, quantized=graph.quantized, sm=sm)
    assert graph.shares[precision] >= (SHARE if precision == "int8" else 0.999)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the exporter announces that it will be replaced one day
@pytest.mark.parametrize(
    ("name", "settings"), [("edge-unet", {}), ("msrresnet", {"blocks": 24}), ("edsr", {"blocks": 20})]
)
def test_most_of_the_work_is_int8(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """In full size, where the ends weigh what they weigh; nothing is on the global skip."""
    import torch

    from bfsr_edge.models import create

    path = tmp_path / "it.onnx"
    torch.onnx.export(
        create(name, **settings).eval(), (torch.zeros(1, 3, *TILE),), str(path), dynamo=False, opset_version=20,
        input_names=["input"], output_names=["output"], dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
    )  # fmt: skip
    proto = quantization.read(path)
    ends = quantization.end_convolutions(proto)
    int8 = sum(layer.share for layer in quantization.layers_of(proto, tuple(sorted(ends))) if layer.name not in ends)
    assert int8 >= SHARE


def test_fp16_weights_in_the_file_build_too(tmp_path: Path) -> None:
    """As ``bfsr-edge export --fp16-weights`` stores them: a Cast behind each."""
    from bfsr_edge.export import export
    from bfsr_edge.models import create, save_checkpoint

    save_checkpoint(tmp_path / "it.safetensors", create("msrresnet", blocks=1))
    path = export(tmp_path / "it.safetensors", tmp_path / "it.onnx", tile=TILE, fp16_weights=True).path
    build(path.read_bytes(), quantized=False, sm="8.9")
