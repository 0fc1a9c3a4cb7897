"""Histograms and the ranges chosen from them; the activations that they count."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from bfsr_edge.calibrate.ranges import MOST_BINS, Histogram, _theirs, activations, scales
from bfsr_edge.calibration import METHODS
from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.quantization import LEVELS, source_tensors
from tests.calibrate.helpers import TILE, graph


def values(seed: int = 0, count: int = 1_000_000) -> NDArray[np.float32]:
    """Normal, with a few far outliers and exact zeros, as activations have."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=count).astype(np.float32)
    drawn[: count // 3] = 0
    drawn[-3:] = (12, -15, 20)
    return drawn


def error(data: NDArray[np.float32], limit: float) -> float:
    step = limit / LEVELS
    return float(np.mean(np.square(data - np.clip(np.rint(data / step), -LEVELS, LEVELS) * step)))


def test_least_error_is_the_least() -> None:
    data = values()
    histogram = Histogram()
    for part in np.array_split(data, 7):
        histogram.add(part)
    found = histogram.least_error()
    assert histogram.maximum == 20
    assert found < 15
    tried = [error(data, limit) for limit in np.linspace(0.5, 20, 200)]
    assert error(data, found) == pytest.approx(min(tried), rel=0.05)


def test_counts_do_not_depend_on_the_order() -> None:
    """Bins are added where later values are larger, and none is lost."""
    data = values()
    histogram = Histogram()
    for part in np.array_split(np.sort(np.abs(data)), 50):
        histogram.add(part)
    assert int(histogram.counts.sum()) + histogram.zeros == data.size
    assert len(histogram.counts) * histogram.width >= 20
    centres = (np.arange(len(histogram.counts)) + 0.5) * histogram.width
    assert float(np.dot(histogram.counts, centres)) == pytest.approx(float(np.abs(data).sum()), rel=0.01)


def test_bins_become_wider_rather_than_too_many() -> None:
    """A tensor that is nearly dead on the first face, and awake on the next."""
    data, histogram = values(), Histogram()
    histogram.add(data[:1000] * np.float32(1e-9))
    histogram.add(data)
    assert len(histogram.counts) <= MOST_BINS + 1
    assert int(histogram.counts.sum()) + histogram.zeros == data.size + 1000
    assert len(histogram.counts) * histogram.width >= 20
    tried = [error(data, limit) for limit in np.linspace(0.5, 20, 200)]
    assert error(data, histogram.least_error()) == pytest.approx(min(tried), rel=0.05)


def test_entropy_counts_on_eight_bits() -> None:
    """127 levels for each sign; with the 63 of seven bits it would clip a fifth off these values."""
    pytest.importorskip("onnxruntime")
    histogram = Histogram()
    histogram.add(np.random.default_rng(0).laplace(size=1_000_000).astype(np.float32))
    assert 0.95 < _theirs("entropy", {"it": histogram}, 0.0)["it"] / histogram.maximum <= 1.01


@pytest.fixture
def pictures() -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(seed).integers(0, 256, (TILE, TILE, 3), dtype=np.uint8) for seed in range(3)]


def test_methods(pictures: list[NDArray[np.uint8]]) -> None:
    """The maximum is the largest magnitude seen; percentiles lie below and fall with the percentage."""
    pytest.importorskip("onnxruntime")
    proto = graph("msrresnet")
    tensors = list(source_tensors(proto).values())
    found = scales(proto, tensors, pictures, METHODS, 99.9)
    assert set(found) == set(METHODS)
    seen = dict.fromkeys(tensors, 0.0)
    for step in activations(proto, tensors, pictures):
        for name, value in step.items():
            seen[name] = max(seen[name], float(np.abs(value).max()))
    lower = scales(proto, tensors, pictures, ["percentile"], 99.0)["percentile"]
    for name in tensors:
        assert found["max"][name] == pytest.approx(seen[name] / LEVELS, rel=1e-5)
        assert 0 < lower[name] < found["percentile"][name] <= found["max"][name]
        assert 0 < found["mse"][name] <= found["max"][name]
        assert 0 < found["entropy"][name] <= found["max"][name] * 1.01


def test_percentile_is_that_of_the_values(pictures: list[NDArray[np.uint8]]) -> None:
    pytest.importorskip("onnxruntime")
    proto = graph("msrresnet")
    name = source_tensors(proto)["/conv_hr/Conv"]
    together = np.concatenate([step[name].ravel() for step in activations(proto, [name], pictures)])
    expected = np.percentile(np.abs(together), 99.9)
    found = scales(proto, [name], pictures, ["percentile"], 99.9)["percentile"][name] * LEVELS
    assert found == pytest.approx(float(expected), rel=0.01)


def test_progress_and_unknown_method(pictures: list[NDArray[np.uint8]]) -> None:
    proto = graph("edsr")
    tensors = list(source_tensors(proto).values())
    steps: list[int] = []
    scales(proto, tensors, pictures, ["max"], 99.9, progress=lambda: steps.append(1))
    assert len(steps) == len(pictures)
    with pytest.raises(UsageError, match="there is no method 'median'"):
        scales(proto, tensors, pictures, ["median"], 99.9)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_always_zero_is_told(pictures: list[NDArray[np.uint8]], method: str) -> None:
    proto = graph("msrresnet")
    alive = scales(proto, list(source_tensors(proto).values()), pictures, [method], 99.9)[method]
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("trunk_net.0.conv1"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    told: list[str] = []
    found = scales(proto, list(source_tensors(proto).values()), pictures, [method], 99.9, tell=told.append)[method]
    (line,) = told
    dead = {name for name, scale in found.items() if scale == pytest.approx(1 / 127) and name in line}
    assert len(dead) == 1
    assert set(found) == set(alive)


def test_a_tensor_that_is_hardly_ever_above_zero(pictures: list[NDArray[np.uint8]]) -> None:
    """Its percentile is zero: it gets its whole range, and that is told."""
    pytest.importorskip("onnxruntime")
    proto = graph("msrresnet")
    for tensor in proto.graph.initializer:
        if tensor.name == "trunk_net.0.conv1.bias":
            values = np.full_like(numpy_helper.to_array(tensor), -1e6)
            values[0] = -_peak(proto, pictures) * 0.99
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    told: list[str] = []
    tensors = list(source_tensors(proto).values())
    found = scales(proto, tensors, pictures, ["percentile", "max"], 99.9, tell=told.append)
    (line,) = told
    assert "zero nearly everywhere" in line
    (sparse,) = (name for name in tensors if name in line)
    assert found["percentile"][sparse] == found["max"][sparse] > 0


def _peak(proto: onnx.ModelProto, pictures: list[NDArray[np.uint8]]) -> float:
    """The largest value of the first channel behind the first block's first convolution, its bias taken off."""
    (node,) = (node for node in proto.graph.node if "trunk_net.0.conv1.bias" in node.input)
    (bias,) = (numpy_helper.to_array(t)[0] for t in proto.graph.initializer if t.name == "trunk_net.0.conv1.bias")
    steps = activations(proto, [node.output[0]], pictures)
    return max(float(step[node.output[0]][:, 0].max()) for step in steps) - float(bias)


def test_a_network_that_is_mostly_zero_is_refused(pictures: list[NDArray[np.uint8]]) -> None:
    proto = graph("msrresnet")
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("conv_first") or tensor.name.endswith("bias"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    with pytest.raises(ModelError, match="activations are zero on every calibration face"):
        scales(proto, list(source_tensors(proto).values()), pictures, ["mse"], 99.9)


def test_weights_that_are_no_numbers(pictures: list[NDArray[np.uint8]]) -> None:
    proto = graph("edsr")
    for tensor in proto.graph.initializer:
        if tensor.name == "conv_first.bias":
            spoilt = np.full_like(numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(numpy_helper.from_array(spoilt, tensor.name))
    with pytest.raises(ModelError, match="holds NaN or Inf"):
        scales(proto, list(source_tensors(proto).values()), pictures, ["max"], 99.9)


def test_a_graph_that_openvino_refuses_without_a_word(
    pictures: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    proto = graph("edsr")
    monkeypatch.setattr(openvino.Core, "compile_model", fail)
    with pytest.raises(ModelError, match="OpenVINO cannot run the graph to calibrate") as caught:
        scales(proto, list(source_tensors(proto).values()), pictures, ["max"], 99.9)
    assert caught.value.why == ("RuntimeError",)


def test_without_onnxruntime(pictures: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods need it and say how to get it; the others do not."""
    proto = graph("edsr")
    tensors = list(source_tensors(proto).values())
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert scales(proto, tensors, pictures, ["max", "mse"], 99.9)
    for method in ("percentile", "entropy"):
        with pytest.raises(BackendError) as caught:
            scales(proto, tensors, pictures, [method], 99.9)
        assert "bfsr-edge[onnxruntime]" in caught.value.fix
