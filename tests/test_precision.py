"""FP16 and 8-bit graphs: what their types are, that they compute the same, and what share runs in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bfsr_edge import weights
from bfsr_edge.errors import ModelError
from bfsr_edge.metrics import to_8bit
from bfsr_edge.precision import convolutions, is_quantized, mac_shares, plain, to_fp16, with_uint8_io
from bfsr_edge.quantization import place
from bfsr_edge.runtime import load
from tests.calibrate.helpers import GRAPHS, NETWORKS, SHIPPED, TILE, calibration, graph, noise, save

pytest.importorskip("onnxruntime")


def run(proto: onnx.ModelProto, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """By ONNX Runtime, which computes in the graph's own types."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": batch})[0])


@pytest.mark.parametrize("name", GRAPHS)
def test_fp16(name: str, tmp_path: Path) -> None:
    proto = graph(name)
    before = proto.SerializeToString()
    half = to_fp16(proto)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(half, full_check=True)
    ends = (half.graph.input[0], half.graph.output[0])
    assert [value.type.tensor_type.elem_type for value in ends] == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert [value.name for value in ends] == ["input", "output"]
    assert mac_shares(half) == {"int8": 0.0, "fp16": 1.0, "fp32": 0.0}
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    for node in half.graph.node:
        if node.op_type == "Conv":
            assert {stored[weight] for weight in node.input[1:]} == {TensorProto.FLOAT16}
    batch = noise(1, 3, 128, 128) if name == SHIPPED else noise(2, 3, TILE, TILE)
    expected = load(save(proto, tmp_path / "it.onnx"), backend="openvino", tile=batch.shape[2]).run(batch)
    for backend in ("openvino", "onnxruntime"):
        result = load(save(half, tmp_path / "half.onnx"), backend=backend, tile=batch.shape[2]).run(batch)
        error = float(np.sqrt(np.mean(np.square(result - expected))))
        assert error < 0.1 / 255 * max(1.0, float(np.abs(expected).max())), backend
        assert backend == "openvino" or error > 0


@pytest.mark.parametrize("name", GRAPHS)
def test_centring_and_the_last_add_stay_float32(name: str) -> None:
    """FP16 has steps of an eighth of an 8-bit level near 1: the result's grid must be finer."""
    result = run(to_fp16(graph(name)), noise(1, 3, 128, 128) if name == SHIPPED else noise(1, 3, TILE, TILE))
    assert np.any(result != result.astype(np.float16).astype(np.float32))


def test_a_weight_too_large() -> None:
    proto = plain(graph("edsr"))
    tensor = next(entry for entry in proto.graph.initializer if entry.name == "conv_last.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.array([1e6, 0, 0], np.float32), tensor.name))
    with pytest.raises(ModelError, match=r"conv_last\.bias is too large for fp16"):
        to_fp16(proto)


def test_fp16_twice() -> None:
    with pytest.raises(ModelError, match="holds fp16 already"):
        to_fp16(to_fp16(graph("edsr")))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_uint8_ends(name: str, kind: str) -> None:
    """The same result as rounding outside, clipping included."""
    proto = graph(name)
    proto = {"fp32": proto, "fp16": to_fp16(proto), "int8": place(proto, calibration(proto))}[kind]
    pixels = with_uint8_io(proto)
    onnx.checker.check_model(pixels, full_check=True)
    batch = np.rint(noise(2, 3, TILE, TILE) * 255).astype(np.uint8)
    floats = batch.astype(np.float32) / np.float32(255)
    expected, result = to_8bit(run(proto, floats)), run(pixels, batch)
    assert result.dtype == np.uint8
    assert name != "edge-unet" or {0, 255} <= set(np.unique(expected).tolist())  # clipped at both ends
    different = np.abs(result.astype(int) - expected)
    assert different.max() <= 1
    assert different.mean() < 1e-4, "values that lie on an edge of rounding"


def test_uint8_ends_twice() -> None:
    with pytest.raises(ModelError, match="input of the graph is not float32"):
        with_uint8_io(with_uint8_io(graph("edsr")))


def test_work_of_the_shipped_default() -> None:
    """The multiply-accumulates counted in the graph are those that the manifest says."""
    (entry,) = [model for model in weights.list_models() if model.name == weights.DEFAULT]
    assert sum(macs for _, macs, _ in convolutions(graph(SHIPPED))) / 1e9 == pytest.approx(entry.gmacs, abs=0.001)


def test_shares() -> None:
    proto = graph("edge-unet")
    assert mac_shares(proto) == {"int8": 0.0, "fp16": 0.0, "fp32": 1.0}
    assert not is_quantized(proto)
    quantized = place(proto, calibration(proto))
    assert is_quantized(quantized)
    shares = mac_shares(quantized)
    work = {node.name: macs for node, macs, _ in convolutions(proto)}
    left = sum(work[name] for name in ("/head/Conv", "/tail/Conv", "/skip/Conv")) / sum(work.values())
    assert shares == pytest.approx({"int8": 1 - left, "fp16": left, "fp32": 0.0})


def test_sizes_that_cannot_be_found() -> None:
    proto = graph("edsr")
    for place_ in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[place_].dim_param = "side"
        proto.graph.output[0].type.tensor_type.shape.dim[place_].dim_param = "larger"
    del proto.graph.value_info[:]
    with pytest.raises(ModelError, match="cannot be found from the graph"):
        mac_shares(proto)


def test_no_convolution() -> None:
    shape: list[str | int | None] = ["N", 3, 4, 4]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    nodes = [helper.make_node("Relu", ["input"], ["output"])]
    with pytest.raises(ModelError, match="holds no convolution"):
        mac_shares(helper.make_model(helper.make_graph(nodes, "none", ends[:1], ends[1:])))


@pytest.mark.parametrize("io", ["float32", "uint8"])
@pytest.mark.parametrize("kind", ["fp16", "int8"])
@pytest.mark.parametrize("name", GRAPHS)
def test_tensorrt_rtx_builds_it(name: str, kind: str, io: str) -> None:
    """The real parser and builder, strongly typed; neither needs a GPU."""
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="the builder comes with: pip install 'bfsr-edge[rtx]'")
    proto = graph(name)
    proto = to_fp16(proto) if kind == "fp16" else place(proto, calibration(proto))
    proto = with_uint8_io(proto) if io == "uint8" else proto
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(proto.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    wanted = trt.uint8 if io == "uint8" else trt.float32
    assert network.get_input(0).dtype == network.get_output(0).dtype == wanted
    profile = builder.create_optimization_profile()
    tile = 128 if name == SHIPPED else TILE
    profile.set_shape("input", *((count, 3, tile, tile) for count in (1, 4, 8)))
    config = builder.create_builder_config()
    assert config.add_optimization_profile(profile) != -1
    assert builder.build_serialized_network(network, config) is not None
