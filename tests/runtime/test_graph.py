"""ONNX files of others and of ours: what is read from them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bfsr_edge.errors import ModelError
from bfsr_edge.runtime import load
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.weights import resolve

Write = Callable[..., Path]
Noise = Callable[..., NDArray[np.float32]]


def test_metadata(write: Write) -> None:
    graph = read_graph(resolve(write()), None)
    assert (graph.scale, graph.stride, graph.receptive_field, graph.tile) == (4, 8, 1, (16, 24))
    assert (graph.input, graph.output) == ("input", "output")


def test_another_tile_is_the_only_change(write: Write) -> None:
    path = write()
    before, after = onnx.load(path), onnx.load_from_string(read_graph(resolve(path), (32, 8)).content)
    assert before.graph.node == after.graph.node
    assert before.graph.initializer == after.graph.initializer
    shape = [dim.dim_value or dim.dim_param for dim in after.graph.output[0].type.tensor_type.shape.dim]
    assert shape == ["N", 3, 128, 32]


def test_shapes_alone_tell_the_scale(write: Write) -> None:
    graph = read_graph(resolve(write(metadata={})), (10, 14))
    assert (graph.scale, graph.stride, graph.receptive_field, graph.tile) == (4, 1, 0, (10, 14))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("shape", [(1, 3, 16, 24), ("N", 3, "h", "w"), (None, 3, None, None)])
def test_foreign_shapes(write: Write, noise: Noise, backend: str, shape: tuple[Any, ...]) -> None:
    """A fixed batch becomes free, and free sides become fixed."""
    pytest.importorskip(backend)
    engine = load(write(shape=shape), backend=backend, tile=(16, 24))
    assert engine.run(noise(3, 3, 16, 24)).shape == (3, 3, 64, 96)


def test_free_sides_default_to_128(write: Write) -> None:
    assert read_graph(resolve(write(shape=("N", 3, "h", "w"))), None).tile == (128, 128)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metadata": {}, "shape": ("N", 3, "h", "w")}, "say by how much it enlarges"),
        ({"metadata": {"bfsr_edge.scale": "four"}}, "metadata are not numbers"),
        ({"metadata": {"bfsr_edge.scale": "-4"}}, "say by how much it enlarges"),
        ({"metadata": {"bfsr_edge.scale": "4", "bfsr_edge.stride": "0"}}, "say by how much it enlarges"),
        ({"element_type": onnx.TensorProto.FLOAT16}, "input is neither float32 nor uint8"),
        ({"shape": ("N", 1, 16, 24)}, "input is not N×3×h×w"),
    ],
)
def test_refused(write: Write, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(write(**settings))
    assert message in caught.value.why[0]


def test_two_outputs_are_refused(write: Write) -> None:
    path = write()
    proto = onnx.load(path)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("cells", onnx.TensorProto.FLOAT, ["N", 48, 16, 24]))
    onnx.save(proto, str(path))
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "1 inputs and 2 outputs" in caught.value.why[0]
