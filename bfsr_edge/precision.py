"""ONNX graphs in other precisions: FP16 inside, 8-bit input and output, and what share of the work runs in which.

Every function takes a graph and returns a new one; the given one is never changed. TensorRT 11 has no other way to say
a precision than the types in the graph, and older versions build the same graph strongly typed, so this is where
precision is decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bfsr_edge.errors import ModelError

if TYPE_CHECKING:
    import onnx

FP16_MAX = 65504.0
FP16_TINY = 2.0**-14
"""Smallest normal fp16 number, 6.1e-5; below it precision is lost bit by bit."""
RE_EXPORT = "bfsr-edge export --model CHECKPOINT --out FILE.onnx"
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
KEEP_FLOAT32 = {"Resize": (1, 2)}
"""Operator to inputs that ONNX allows as float32 only: region and scales."""
MOVES_ONLY = frozenset({"DepthToSpace", "Transpose", "Reshape"})
"""Operators that move values without changing one, so that quantization commutes with them."""


def plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in one form: constants and weights are float32 initializers named as their readers name them.

    ``Constant`` nodes, and a ``Cast`` of a stored weight (how FP16 weights are kept in a float32 graph), are folded.
    Graphs that differ only in how numbers are stored become equal.

    Raises
    ------
    ModelError
        A stored number cannot be read.
    """
    from onnx import helper, numpy_helper

    result: onnx.ModelProto = _copy(proto)
    graph = result.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant":
            tensor = numpy_helper.from_array(_constant_value(node), node.output[0])
        elif node.op_type in ("Cast", "Identity") and node.input[0] in stored:
            value = _array(stored[node.input[0]])
            if node.op_type == "Cast":
                value = value.astype(helper.tensor_dtype_to_np_dtype(helper.get_node_attr_value(node, "to")))
            tensor = numpy_helper.from_array(value, node.output[0])
        else:
            nodes.append(node)
            continue
        stored[tensor.name] = tensor
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    tensors = []
    for name, tensor in stored.items():
        if name in used:
            tensors.append(_copy(tensor))
    _replace(graph, [_copy(node) for node in nodes], tensors)
    del graph.value_info[:]
    return result


def to_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """FP16 inside, float32 input and output, every type stated: the graph for a strongly typed build.

    Two things stay float32: what happens to the input before the first convolution (centring: an FP16 pixel near 1 has
    steps of 1/8 of an 8-bit level, a centred one finer), and the last Add, which puts the large part of the result
    (the mean colour, or the enlarged input) and the small one together.

    Parameters
    ----------
    proto
        A float32 graph, with or without Q/DQ nodes; their scales become FP16 too.

    Raises
    ------
    ModelError
        A weight is too large for FP16, a scale too small, or the graph is not float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    result = plain(proto)
    graph = result.graph
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer):
        raise ModelError("the graph holds fp16 already", fix=f"give the float32 graph: {RE_EXPORT}")
    wide = _float32_nodes(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    # what each float tensor is now: float32 ones are graph inputs and what a wide node gives
    types: dict[str, int] = {value.name: TensorProto.FLOAT for value in graph.input}
    nodes: list[onnx.NodeProto] = []
    narrow: dict[str, onnx.TensorProto] = {}
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            casts[name, to] = f"{name}.fp{16 if to == TensorProto.FLOAT16 else 32}"
            nodes.append(helper.make_node("Cast", [name], [casts[name, to]], name=f"{casts[name, to]}/Cast", to=to))
        return casts[name, to]

    for index, node in enumerate(graph.node):
        wanted = TensorProto.FLOAT if index in wide else TensorProto.FLOAT16
        copy = _copy(node)
        for place, name in enumerate(node.input):
            if place in KEEP_FLOAT32.get(node.op_type, ()):
                continue
            if name in weights:
                tensor = weights[name]
                if tensor.data_type == TensorProto.FLOAT and wanted == TensorProto.FLOAT16:
                    copy.input[place] = f"{name}.fp16"
                    if name not in narrow:
                        value = _halved(name, _array(tensor), scale=node.op_type in QUANTIZERS and place == 1)
                        narrow[name] = numpy_helper.from_array(value, f"{name}.fp16")
            elif name in types and types[name] != wanted and types[name] != TensorProto.INT8:
                copy.input[place] = cast(name, wanted)
        nodes.append(copy)
        types.update(dict.fromkeys(node.output, TensorProto.INT8 if node.op_type == "QuantizeLinear" else wanted))
    for value in graph.output:
        if types[value.name] != TensorProto.FLOAT:
            (maker,) = [node for node in nodes if value.name in node.output]
            inner = f"{value.name}.inner"
            for node in nodes:
                _rename(node, value.name, inner)
            assert maker.output[0] == inner
            nodes.append(
                helper.make_node("Cast", [inner], [value.name], name=f"{value.name}/Cast", to=TensorProto.FLOAT)
            )
    used = {name for node in nodes for name in node.input}
    tensors = [_copy(tensor) for tensor in (*graph.initializer, *narrow.values()) if tensor.name in used]
    _replace(graph, nodes, tensors)
    return result


def with_uint8_io(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network on 8-bit pixels: input uint8 N×3×h×w and output uint8 N×3×sh×sw in 0 … 255, names unchanged.

    Scaling, rounding (half to even) and clipping are inside the graph, so a quarter of the bytes crosses the bus. A NaN
    cannot be told in such a result.

    Raises
    ------
    ModelError
        Input or output is not float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    result: onnx.ModelProto = _copy(proto)
    graph = result.graph
    source, sink = ends(result)
    for value in (source, sink):
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise ModelError(f"{value.name} of the graph is not float32, so pixels cannot be put around it")
    for node in graph.node:
        _rename(node, source.name, f"{source.name}.unit")
        _rename(node, sink.name, f"{sink.name}.unit")
    names = {kind: f"{kind}.uint8" for kind in ("peak", "zero")}
    before = [
        helper.make_node("Cast", [source.name], [f"{source.name}.float"], name="uint8/Cast", to=TensorProto.FLOAT),
        helper.make_node("Div", [f"{source.name}.float", names["peak"]], [f"{source.name}.unit"], name="uint8/Div"),
    ]
    after = [
        helper.make_node("Mul", [f"{sink.name}.unit", names["peak"]], [f"{sink.name}.scaled"], name="uint8/Mul"),
        helper.make_node("Round", [f"{sink.name}.scaled"], [f"{sink.name}.round"], name="uint8/Round"),
        helper.make_node(
            "Clip", [f"{sink.name}.round", names["zero"], names["peak"]], [f"{sink.name}.clip"], name="uint8/Clip"
        ),
        helper.make_node("Cast", [f"{sink.name}.clip"], [sink.name], name="uint8/Cast_1", to=TensorProto.UINT8),
    ]
    limits = [
        numpy_helper.from_array(np.float32(value), names[kind]) for kind, value in (("peak", 255.0), ("zero", 0.0))
    ]
    _replace(graph, [*before, *map(_copy, graph.node), *after], [*map(_copy, graph.initializer), *limits])
    for value in (source, sink):
        value.type.tensor_type.elem_type = TensorProto.UINT8
    return result


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether the graph holds Q/DQ nodes."""
    return any(node.op_type in QUANTIZERS for node in proto.graph.node)


def makers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Tensor to the node that it comes out of."""
    return {output: node for node in proto.graph.node for output in node.output}


def dequantized(name: str, made: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a tensor comes out of a DequantizeLinear, moved or not; ``made`` is what ``makers`` gives."""
    node = made.get(name)
    while node is not None and node.op_type in MOVES_ONLY:
        node = made.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def mac_shares(proto: onnx.ModelProto) -> dict[str, float]:
    """Share of the convolutions' multiply-accumulates by precision: keys "int8", "fp16" and "fp32", sum 1.

    A convolution counts as int8 where both its input and its weights come out of a DequantizeLinear: that is what
    backends execute in integers.

    Raises
    ------
    ModelError
        The graph has no convolution, or its shapes cannot be found.
    """
    from onnx import TensorProto

    shares = dict.fromkeys(("int8", "fp16", "fp32"), 0.0)
    made = makers(proto)
    for node, macs, element in convolutions(proto):
        quantized = all(dequantized(name, made) for name in node.input[:2])
        shares["int8" if quantized else "fp16" if element == TensorProto.FLOAT16 else "fp32"] += macs
    total = sum(shares.values())
    return {key: value / total for key, value in shares.items()}


def convolutions(proto: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int, int]]:
    """Every convolution in the graph's order with its multiply-accumulates for one tile and its element type.

    Raises
    ------
    ModelError
        There is none, or its shapes cannot be found.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True).graph
    values = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.output)}
    sizes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    found = []
    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        weight = node.input[1] if len(node.input) > 1 else ""
        kernel = sizes.get(weight) or ([dim.dim_value for dim in values[weight].shape.dim] if weight in values else [])
        output = values.get(node.output[0]) if node.output else None
        sides = [dim.dim_value for dim in output.shape.dim[2:]] if output is not None else []
        if output is None or len(sides) != 2 or not all(sides) or len(kernel) != 4:
            raise ModelError(
                f"the size of {node.name}'s result cannot be found from the graph",
                why=("height and width of the input are not fixed in the file",),
                fix=RE_EXPORT,
            )
        found.append((node, int(np.prod(kernel)) * sides[0] * sides[1], int(output.elem_type)))
    if not found:
        raise ModelError("the graph holds no convolution", fix=RE_EXPORT)
    return found


def ends(proto: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    """The one input that is not a weight, and the one output.

    Raises
    ------
    ModelError
        There are none or more.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise ModelError(
            f"the graph has {len(inputs)} inputs and {len(proto.graph.output)} outputs instead of one each",
            fix=RE_EXPORT,
        )
    return inputs[0], proto.graph.output[0]


def behind_convolution(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that some convolution had a part in."""
    reached: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv" or reached.intersection(node.input):
            reached.update(node.output)
    return reached


def before_convolution(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that some convolution reads, directly or through other nodes."""
    leads: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type == "Conv" or leads.intersection(node.output):
            leads.update(node.input)
    return leads


def _float32_nodes(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes that stay float32 in an FP16 graph: see ``to_fp16``."""
    behind = behind_convolution(graph)
    last = {value.name for value in graph.output}
    wide = set()
    for index, node in enumerate(graph.node):
        first = node.op_type not in (*QUANTIZERS, "Conv") and not behind.intersection(node.output)
        if first or (node.op_type == "Add" and last.intersection(node.output)):
            wide.add(index)
    return wide


def _halved(name: str, value: np.ndarray[Any, Any], *, scale: bool) -> np.ndarray[Any, Any]:
    if not np.all(np.abs(value) <= FP16_MAX):
        raise ModelError(
            f"{name} is too large for fp16",
            why=(f"it holds values up to {np.abs(value).max():.3g}, fp16 ends at {FP16_MAX:g}",),
            fix="build in fp32, or train with weight decay",
        )
    if scale and value.min() < FP16_TINY:
        raise ModelError(
            f"the scale {name} is {value.min():.3g}, too small for fp16",
            why=(f"below {FP16_TINY:.2g} fp16 loses its precision",),
            fix="calibrate again: bfsr-edge calibrate --faces DIR",
        )
    return value.astype(np.float16)


def _constant_value(node: onnx.NodeProto) -> np.ndarray[Any, Any]:
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value":
            return np.asarray(numpy_helper.to_array(attribute.t))
        if attribute.name == "value_float":
            return np.asarray(attribute.f, np.float32)
        if attribute.name == "value_int":
            return np.asarray(attribute.i, np.int64)
        if attribute.name == "value_floats":
            return np.asarray(attribute.floats, np.float32)
        if attribute.name == "value_ints":
            return np.asarray(attribute.ints, np.int64)
    raise ModelError(f"the constant {node.name} of the graph is of a kind that is not known", fix=RE_EXPORT)


def _array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """A stored tensor's values; fp16 widened to float32."""
    from onnx import numpy_helper

    try:
        value = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # several classes, where the stored bytes are fewer than the shape says
        raise ModelError(f"the weight {tensor.name} cannot be read", why=(str(error),), fix=RE_EXPORT) from error
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> None:
    """Give a graph other nodes and initializers, which must be copies: protobuf empties what it deletes."""
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _rename(node: onnx.NodeProto, old: str, new: str) -> None:
    for names in (node.input, node.output):
        for place, name in _places(names):
            if name == old:
                names[place] = new


def _places(names: Any) -> Iterator[tuple[int, str]]:
    return iter(list(enumerate(names)))
