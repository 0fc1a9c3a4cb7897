"""ONNX files as the backends need them: what the file says about itself, and the tile set to what is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bfsr_edge.errors import ModelError
from bfsr_edge.runtime.base import CHANNELS, DEFAULT_TILE, tile_size
from bfsr_edge.weights import Model
from bfsr_edge.weights.graphs import read_onnx

if TYPE_CHECKING:
    import onnx

PREFIX = "bfsr_edge."
MAX_SCALE, MAX_SIDE = 16, 16_384
"""No network of ours comes near; beyond them a damaged file asks for more memory than there is."""


@dataclass(frozen=True)
class Graph:
    """An ONNX model whose tile is set."""

    content: bytes
    """The serialized ModelProto: input N×3×h×w and output N×3×sh×sw with this tile, N free."""
    input: str
    """Name of its input."""
    output: str
    """Name of its output."""
    scale: int
    """Output pixels per input pixel along each side, from the metadata, else from the shapes."""
    stride: int
    """From the metadata, else 1."""
    receptive_field: int
    """From the metadata, else 0: not known."""
    tile: tuple[int, int]
    """Height and width."""
    live_bytes: float = 0.0
    """Bytes of the tensors that are alive at the same time, at most, for each input pixel of a batch; 0: not known."""
    io: str = "float32"
    """Type of input and output: "float32" in [0, 1], or "uint8" in 0 … 255."""


def read_graph(model: Model, tile: int | tuple[int, int] | None) -> Graph:
    """Read an ONNX file and set its tile.

    Only the two sizes of input and output are rewritten: nothing else in a graph of ours depends on the tile.

    Raises
    ------
    ModelError
        The file is no ONNX model, is not one picture in and one out, or does not say its scale.
    UsageError
        The tile is not a multiple of the stride.
    """
    try:
        proto = read_onnx(model.path)
    except ModelError as error:
        raise _unusable(model, f"it cannot be parsed: {'; '.join(error.why)}") from error
    source, sink, io = _ends(model, proto)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    try:
        scale = int(metadata.get(PREFIX + "scale", 0)) or _scale_of(_sides(source), _sides(sink))
        stride = int(metadata.get(PREFIX + "stride", 1))
        receptive_field = int(metadata.get(PREFIX + "receptive_field", 0))
    except ValueError as error:
        raise _unusable(model, f"its metadata are not numbers: {error}") from error
    if scale < 1 or stride < 1:
        raise _unusable(model, "neither its metadata nor its shapes say by how much it enlarges")
    if (
        max(scale / MAX_SCALE, stride / MAX_SIDE, receptive_field / MAX_SIDE, *(s / MAX_SIDE for s in _sides(source)))
        > 1
    ):
        raise _unusable(model, f"its scale is above {MAX_SCALE}, or a size in it above {MAX_SIDE} pixels")
    if receptive_field < 0:
        raise _unusable(model, f"its receptive field is {receptive_field}")

    height, width = _sides(source)
    own = (height, width) if height and width else (-(-DEFAULT_TILE // stride) * stride,) * 2
    height, width = tile_size(tile, stride, own)
    _set_shape(source, ("N", CHANNELS, height, width))
    _set_shape(sink, ("N", CHANNELS, scale * height, scale * width))
    del proto.graph.value_info[:]  # shapes inferred for the old tile
    return Graph(
        content=proto.SerializeToString(),
        input=source.name,
        output=sink.name,
        scale=scale,
        stride=stride,
        receptive_field=receptive_field,
        tile=(height, width),
        live_bytes=_live_bytes(proto) / (height * width),
        io=io,
    )


def _live_bytes(proto: onnx.ModelProto) -> int:
    """What a run must hold at the same time for one tile, if every result is kept from its making to its last use.

    Weights are not counted: they do not grow with the tile. 0 where the shapes cannot be found.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for value in (bare.graph.input[0], bare.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # a graph that the backend may run all the same
        return 0
    sizes: dict[str, int] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        count = math.prod(dim.dim_value for dim in tensor.shape.dim)
        sizes[value.name] = count * onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    last_use = {name: number for number, node in enumerate(inferred.node) for name in node.input}
    held = most = sum(sizes.get(value.name, 0) for value in inferred.input)
    for number, node in enumerate(inferred.node):
        held += sum(sizes.get(name, 0) for name in node.output)
        most = max(most, held)
        held -= sum(sizes.get(name, 0) for name in set(node.input) if last_use[name] == number)
    return most


def _ends(model: Model, proto: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto, str]:
    """The one input that is not a weight, the one output, and their type; both N×3×h×w as far as the file says."""
    import onnx

    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise _unusable(model, f"it has {len(inputs)} inputs and {len(proto.graph.output)} outputs instead of one each")
    for value in (inputs[0], proto.graph.output[0]):
        tensor = value.type.tensor_type
        if tensor.elem_type not in types:
            raise _unusable(model, f"{value.name} is neither float32 nor uint8")
        channels = tensor.shape.dim[1].dim_value if len(tensor.shape.dim) == 4 else -1
        if channels not in (0, CHANNELS):
            raise _unusable(model, f"{value.name} is not N×{CHANNELS}×h×w")
    io = {types[value.type.tensor_type.elem_type] for value in (inputs[0], proto.graph.output[0])}
    if len(io) != 1:
        raise _unusable(model, "one of its input and output is uint8, the other float32")
    return inputs[0], proto.graph.output[0], io.pop()


def _sides(value: onnx.ValueInfoProto) -> tuple[int, int]:
    """Height and width, 0 where they are not fixed."""
    dims = value.type.tensor_type.shape.dim
    return dims[2].dim_value, dims[3].dim_value


def _scale_of(source: tuple[int, int], sink: tuple[int, int]) -> int:
    """The whole factor between the sides, 0 where there is none."""
    height, width = source
    scale = sink[0] // height if height else 0
    return scale if scale and sink == (scale * height, scale * width) else 0


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size


def _unusable(model: Model, reason: str) -> ModelError:
    return ModelError(
        f"{model.path} cannot be used as a super-resolution network",
        why=(reason,),
        fix="export it with: bfsr-edge export --model CHECKPOINT --out FILE.onnx",
    )
