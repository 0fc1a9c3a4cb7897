"""INT8: where Q/DQ nodes stand in a graph.

``place`` makes the INT8 graph from the float32 graph and its calibration, the same one every time, with nothing but
numpy and onnx. A small device needs no faces for that.

The rules of placement:

- activations: symmetric, zero point 0, one scale a tensor; weights: symmetric, one scale an output channel (axis 0),
  stored as INT8 with a DequantizeLinear behind them;
- Q/DQ stand on the inputs of convolutions, one pair a tensor, however many read it. Where PixelShuffle feeds the
  convolution the pair stands before it, as both orders give the same numbers and the convolution before it, its
  activation and the quantization then fuse;
- at a residual Add only the branch that skips takes the dequantized tensor, sharing the pair that feeds the next
  convolution; the branch that comes fresh out of a convolution is added in full;
- first and last convolutions, the global skip and its Add are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bfsr_edge.calibration import RECALIBRATE, SMALLEST, Calibration, Layer, check_scales
from bfsr_edge.errors import ModelError
from bfsr_edge.precision import (
    MOVES_ONLY,
    RE_EXPORT,
    before_convolution,
    behind_convolution,
    convolutions,
    ends,
    is_quantized,
    plain,
    to_fp16,
)

if TYPE_CHECKING:
    import onnx

OPSETS = (19, 20)
"""FP16 in QuantizeLinear begins with 19; no TensorRT from 10.3 on reads beyond 20 for certain."""
LEVELS = 127
"""Largest 8-bit level used: -128 would make the range lopsided."""


def read(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """A float32 ONNX file that ``place`` can work on, weights stored beside it included.

    Raises
    ------
    ModelError
        It is no ONNX file, or ``check`` refuses it.
    """
    from bfsr_edge.weights.graphs import read_onnx

    proto = read_onnx(path)
    check(proto, str(path))
    return proto


def check(proto: onnx.ModelProto, name: str = "the graph") -> None:
    """Refuse a graph that INT8 cannot be made from, or that no engine with batches can.

    Raises
    ------
    ModelError
        Its opset is not 19 or 20, its number of pictures is fixed, it is not one float32 picture in and one out, it is
        quantized already, or it holds no convolution.
    """
    from onnx import TensorProto

    opsets = {entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")}
    opset = max(opsets, default=0)
    if not proto.graph.node:
        raise ModelError(f"{name} holds no network", why=("it is cut off or damaged",), fix=RE_EXPORT)
    if opset not in OPSETS:
        raise ModelError(
            f"{name} is written in ONNX opset {opset}, and INT8 needs {' or '.join(map(str, OPSETS))}",
            why=("it was exported by another tool or version",),
            fix=RE_EXPORT,
        )
    for value in ends(proto):
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4:
            raise ModelError(f"{value.name} of {name} is not float32 N×3×h×w", fix=RE_EXPORT)
        if dims[0].dim_value:
            raise ModelError(
                f"{name} has no dynamic batch axis: {value.name} is fixed to {dims[0].dim_value} pictures at a time",
                fix=RE_EXPORT,
            )
    if is_quantized(proto):
        raise ModelError(f"{name} is quantized already", fix="give the float32 graph that it was made from")
    if not any(node.op_type == "Conv" for node in proto.graph.node):
        raise ModelError(f"{name} holds no convolution", fix=RE_EXPORT)


def graph_sha256(proto: onnx.ModelProto) -> str:
    """The hash of what a graph computes: its operations, the names of its activations, the values of its weights.

    How weights are stored (float32, FP16 with a Cast, in a file of their own), what they and the nodes are called, the
    tile, and the metadata make no difference.
    """
    graph = plain(proto).graph
    weights = {tensor.name: _digest(tensor) for tensor in graph.initializer}
    whole = hashlib.sha256()
    for node in graph.node:
        entry = [node.op_type, node.domain]
        entry += sorted(attribute.SerializeToString(deterministic=True).hex() for attribute in node.attribute)
        entry += [weights.get(name, f"tensor {name}") for name in node.input]
        entry += ["gives", *node.output]
        whole.update(json.dumps(entry).encode())
    return whole.hexdigest()


def end_convolutions(proto: onnx.ModelProto) -> set[str]:
    """Names of the first and last convolutions, and so of those on the global skip: left in floating point.

    First: nothing before it is a convolution. Last: nothing behind it is.
    """
    behind, before = behind_convolution(proto.graph), before_convolution(proto.graph)
    return {
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv" and (node.input[0] not in behind or not before.intersection(node.output))
    }


def source_tensors(proto: onnx.ModelProto) -> dict[str, str]:
    """Convolution's node name to the activation that is quantized for it: its input, or what PixelShuffle moved."""
    graph = plain(proto).graph
    made = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    found = {}
    for node in graph.node:
        if node.op_type == "Conv":
            name = node.input[0]
            while name in made and made[name].op_type in MOVES_ONLY and readers[name] == 1:
                name = made[name].input[0]
            found[node.name] = name
    return found


def layers_of(proto: onnx.ModelProto, excluded: tuple[str, ...], floating: str = "fp16") -> tuple[Layer, ...]:
    """Every convolution of a float32 graph, those in ``excluded`` in floating point, "fp16" or "fp32".

    Raises
    ------
    ModelError
        Its sizes cannot be found.
    """
    sources = source_tensors(proto)
    work = [(node.name, macs) for node, macs, _ in convolutions(proto)]
    total = sum(macs for _, macs in work)
    return tuple(
        Layer(name, sources[name], macs / total, floating if name in excluded else "int8") for name, macs in work
    )


def place(proto: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """The INT8 graph: Q/DQ where the rules at the top of this module say, FP16 elsewhere, float32 input and output.

    Parameters
    ----------
    proto
        The float32 graph; not changed.
    calibration
        Made from a graph of the same ``graph_sha256``.

    Returns
    -------
    A graph for a strongly typed build, the same bytes for the same arguments. Metadata are kept.

    Raises
    ------
    ModelError
        The graph does not fit (``check``), the calibration was made from another one, names a layer or misses a tensor
        that the graph does or does not have, or holds a scale that is zero or no number.
    """
    from onnx import helper, numpy_helper

    check(proto)
    check_scales(calibration)
    if graph_sha256(proto) != calibration.graph_sha256:
        raise ModelError(
            "the calibration does not belong to this graph",
            why=(
                f"it was made from {calibration.model or 'another model'}, and weights or layers have changed since",
                "the network was trained further and exported again",
            ),
            fix=RECALIBRATE,
        )
    result = plain(proto)
    graph = result.graph
    names = {node.name for node in graph.node if node.op_type == "Conv"}
    unknown = sorted(set(calibration.excluded) - names)
    if unknown:
        raise ModelError(f"the calibration excludes a layer that is not there: {unknown[0]}", fix=RECALIBRATE)
    sources = {name: tensor for name, tensor in source_tensors(proto).items() if name not in calibration.excluded}
    missing = sorted(set(sources.values()) - set(calibration.scales))
    if missing:
        raise ModelError(f"the calibration has no scale for {missing[0]}", fix=RECALIBRATE)

    half = calibration.floating == "fp16"
    weights = {tensor.name: tensor for tensor in graph.initializer}
    tensors = [numpy_helper.from_array(np.int8(0), "int8.zero")]
    pairs: dict[str, str] = {}
    for tensor in sources.values():
        if tensor not in pairs:
            pairs[tensor] = f"{tensor}.dq"
            tensors.append(numpy_helper.from_array(np.float32(calibration.scales[tensor]), f"{tensor}.scale"))

    def quantizers(tensor: str) -> list[onnx.NodeProto]:
        scale = [f"{tensor}.scale", "int8.zero"]
        return [
            helper.make_node("QuantizeLinear", [tensor, *scale], [f"{tensor}.int8"], name=f"{tensor}/Quantize"),
            helper.make_node("DequantizeLinear", [f"{tensor}.int8", *scale], [pairs[tensor]], name=f"{tensor}/Dequant"),
        ]

    rewired = _skips(graph, pairs) if calibration.quantized_skips else {}
    moved = _moved(graph, sources)
    nodes: list[onnx.NodeProto] = []
    known = {value.name for value in graph.input}
    for name in sorted(known & set(pairs)):
        nodes += quantizers(name)
    for original in graph.node:
        node = type(original)()
        node.CopyFrom(original)
        if node.name in sources:
            if node.input[0] in pairs:
                node.input[0] = pairs[node.input[0]]
            stored, dequantize = _weights(node.input[1], weights[node.input[1]], half)
            tensors += stored
            nodes.append(dequantize)
            node.input[1] = dequantize.output[0]
        elif node.output[0] in moved:
            node.input[0] = pairs.get(node.input[0], node.input[0])
        elif node.output[0] in rewired:
            place_in = rewired[node.output[0]]
            node.input[place_in] = pairs[node.input[place_in]]
        nodes.append(node)
        for name in node.output:
            if name in pairs:
                nodes += quantizers(name)
    used = {name for node in nodes for name in node.input}
    kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in graph.initializer if tensor.name in used]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(tensor for tensor in tensors if tensor.name in used)])
    return to_fp16(result) if half else result


def _skips(graph: onnx.GraphProto, pairs: Mapping[str, str]) -> dict[str, int]:
    """Output of a residual Add to which of its inputs skips and is quantized anyway; Adds behind all convolutions not.

    Where both inputs are quantized for other readers, the one that has come the longer way round is the fresh one: only
    the earlier is taken.
    """
    before = before_convolution(graph)
    order = {name: index for index, node in enumerate(graph.node) for name in node.output}
    found = {}
    for node in graph.node:
        if node.op_type == "Add" and before.intersection(node.output):
            candidates = [place for place, name in enumerate(node.input) if name in pairs]
            if candidates:
                found[node.output[0]] = min(candidates, key=lambda place: order.get(node.input[place], -1))
    return found


def _moved(graph: onnx.GraphProto, sources: Mapping[str, str]) -> set[str]:
    """Outputs of the nodes between a quantized tensor and the convolution that it is moved to."""
    made = {name: node for node in graph.node for name in node.output}
    found = set()
    for node in graph.node:
        if node.name in sources:
            name = node.input[0]
            while name != sources[node.name]:
                found.add(name)
                name = made[name].input[0]
    return found


def _weights(name: str, tensor: onnx.TensorProto, half: bool) -> tuple[list[onnx.TensorProto], onnx.NodeProto]:
    """Weights as INT8 with a scale for each output channel, and the node that dequantizes them."""
    from onnx import helper, numpy_helper

    values = numpy_helper.to_array(tensor).astype(np.float32)
    scale = np.abs(values).reshape(len(values), -1).max(axis=1) / LEVELS
    # a channel of zeros has a scale too; what FP16 will store is what the weights are divided by
    scale = np.maximum(scale, SMALLEST).astype(np.float16 if half else np.float32).astype(np.float32)
    steps = np.rint(values / scale.reshape(-1, *([1] * (values.ndim - 1))))
    stored = [
        numpy_helper.from_array(np.clip(steps, -LEVELS, LEVELS).astype(np.int8), f"{name}.int8"),
        numpy_helper.from_array(scale, f"{name}.scale"),
        numpy_helper.from_array(np.zeros(len(values), np.int8), f"{name}.zero"),
    ]
    inputs = [entry.name for entry in stored]
    return stored, helper.make_node("DequantizeLinear", inputs, [f"{name}.dq"], name=f"{name}/Dequant", axis=0)


def _digest(tensor: onnx.TensorProto) -> str:
    from onnx import numpy_helper

    value = np.asarray(numpy_helper.to_array(tensor))
    if np.issubdtype(value.dtype, np.floating):
        value = value.astype(np.float32)
    shape = "×".join(map(str, value.shape))
    return f"{value.dtype} {shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
