"""From an ONNX file to the graph of one precision and tile; files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from bfsr_edge.engines import graphs
from bfsr_edge.errors import ModelError, UsageError
from bfsr_edge.weights import resolve
from tests.engines import helpers


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = helpers.network(tmp_path / "tiny.onnx")
    helpers.calibration(path)
    return path


def read(path: Path) -> graphs.Source:
    return graphs.read_source(resolve(path))


def test_what_the_file_says(tiny: Path) -> None:
    source = read(tiny)
    assert (source.name, source.scale, source.stride, source.receptive_field) == ("tiny", 4, 8, 3)
    assert not source.quantized


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("uint8_io", [False, True])
def test_precisions(tiny: Path, precision: str, uint8_io: bool) -> None:
    graph = graphs.prepare(read(tiny), precision, (24, 40), uint8_io=uint8_io)
    proto = onnx.load_from_string(graph.content)
    onnx.checker.check_model(proto, full_check=True)
    for value, factor in ((proto.graph.input[0], 1), (proto.graph.output[0], 4)):
        tensor = value.type.tensor_type
        assert tensor.elem_type == (TensorProto.UINT8 if uint8_io else TensorProto.FLOAT)
        assert [dim.dim_param or dim.dim_value for dim in tensor.shape.dim] == ["N", 3, 24 * factor, 40 * factor]
    assert graph.quantized == bool(graph.calibration_sha256) == (precision == "int8")
    assert graph.shares[precision] > 0.2
    assert sum(graph.shares.values()) == pytest.approx(1)


def test_the_same_bytes_every_time(tiny: Path) -> None:
    assert graphs.prepare(read(tiny), "int8", (32, 32)) == graphs.prepare(read(tiny), "int8", (32, 32))


def test_a_quantized_file_is_the_int8_graph(tiny: Path) -> None:
    path = tiny.with_name("tiny.int8.onnx")
    path.write_bytes(graphs.prepare(read(tiny), "int8", (32, 32)).content)
    source = read(path)
    assert (source.name, source.quantized) == ("tiny", True)
    assert graphs.prepare(source, "int8", (32, 32)).shares["int8"] > 0.2
    with pytest.raises(UsageError, match="quantized already, it cannot become fp16"):
        graphs.prepare(source, "fp16", (32, 32))


def test_calibration_is_found(tiny: Path, tmp_path: Path) -> None:
    source = read(tiny)
    assert graphs.find_calibration(source, None) == tmp_path / "tiny.calibration.json"
    other = (tmp_path / "tiny.calibration.json").rename(tmp_path / "other.json")
    assert graphs.find_calibration(source, other) == other
    with pytest.raises(UsageError, match="has no calibration") as raised:
        graphs.find_calibration(source, None)
    assert f"bfsr-edge calibrate --faces DIR --model {tiny}" in raised.value.fix
    with pytest.raises(UsageError, match="there is no file"):
        graphs.find_calibration(source, tmp_path / "none.json")


def test_calibration_of_another_network(tiny: Path, tmp_path: Path) -> None:
    other = helpers.network(tmp_path / "other.onnx", seed=4)
    with pytest.raises(ModelError, match="does not belong to this graph"):
        graphs.prepare(read(other), "int8", (32, 32), calibration=tmp_path / "tiny.calibration.json")


def test_a_calibration_that_excludes_everything(tiny: Path) -> None:
    helpers.calibration(tiny, excluded=("/head/Conv", "/body/Conv", "/tail/Conv"))
    with pytest.raises(ModelError, match="no convolution of tiny is quantized"):
        graphs.prepare(read(tiny), "int8", (32, 32))


# ---- files that cannot be used


def test_truncated(tiny: Path) -> None:
    tiny.write_bytes(tiny.read_bytes()[:-500])
    with pytest.raises(ModelError, match="cannot be"):
        read(tiny)


@pytest.mark.parametrize("opset", [12, 23])
def test_opset(tmp_path: Path, opset: int) -> None:
    with pytest.raises(ModelError, match=f"opset {opset}"):
        read(helpers.network(tmp_path / "it.onnx", opset=opset))


def test_fixed_batch(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no dynamic batch axis: input is fixed to 1 pictures") as raised:
        read(helpers.network(tmp_path / "it.onnx", batch=1))
    assert "bfsr-edge export" in raised.value.fix


@pytest.mark.parametrize("scale", [0.0, float("nan"), -1.0])
def test_scales_of_a_quantized_file(tiny: Path, scale: float) -> None:
    proto = onnx.load_from_string(graphs.prepare(read(tiny), "int8", (32, 32)).content)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    name = next(node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear")
    dtype = numpy_helper.to_array(stored[name]).dtype
    stored[name].CopyFrom(numpy_helper.from_array(np.array(scale, dtype), name))
    path = tiny.with_name("broken.onnx")
    onnx.save(proto, str(path))
    with pytest.raises(ModelError, match="the scale of"):
        read(path)


@pytest.mark.parametrize("scale", [0.0, float("nan")])
def test_scales_of_a_calibration(tiny: Path, scale: float) -> None:
    helpers.calibration(tiny, scale=scale)
    with pytest.raises(ModelError, match="scale"):
        graphs.prepare(read(tiny), "int8", (32, 32))
