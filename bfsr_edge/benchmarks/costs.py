"""What one input costs a network: multiply-accumulates and bytes, read off its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bfsr_edge.errors import ModelError
from bfsr_edge.precision import dequantized, makers

if TYPE_CHECKING:
    import onnx

WIDTHS = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
"""Bytes a value; those of INT8 are one."""


@dataclass(frozen=True)
class Costs:
    """Of one input at a network's tile."""

    parameters: int
    """Weights of the convolutions, their biases and slopes."""
    macs: float
    """Multiply-accumulates of all convolutions."""
    int8_macs: float = 0.0
    """Those that run in INT8."""
    int8_values: float = 0.0
    """Inputs, weights and results of the convolutions that run in INT8, each once."""
    floating_values: float = 0.0
    """The same of the others."""

    def moved(self, precision: str) -> float | None:
        """Bytes that have to be moved if everything between two convolutions is fused into them.

        None where that is not known: a network that ran in INT8, whose file does not say which layers did.

        Parameters
        ----------
        precision
            Executed, such as "fp32+int8".
        """
        parts = precision.split("+")
        if "int8" in parts and not self.int8_values:
            return None
        width = next((WIDTHS[part] for part in parts if part in WIDTHS), WIDTHS["fp32"])
        return self.int8_values + width * self.floating_values


def of_onnx(path: Path, tile: int) -> Costs:
    """Of an ONNX file (an OpenVINO engine is one too).

    Raises
    ------
    ModelError
        It is no ONNX file, or its sizes cannot be found.
    """
    from bfsr_edge.precision import convolutions, ends, plain
    from bfsr_edge.weights.graphs import read_onnx

    proto = plain(read_onnx(path))
    source, sink = ends(proto)
    side_in, side_out = source.type.tensor_type.shape.dim[2], sink.type.tensor_type.shape.dim[2]
    scale = side_out.dim_value // side_in.dim_value if side_in.dim_value else 4
    for value, factor in ((source, 1), (sink, scale)):
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_value = 1
        dims[2].dim_value = dims[3].dim_value = tile * factor
    del proto.graph.value_info[:]
    made = makers(proto)
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in proto.graph.initializer}
    shapes = _shapes(proto)
    total = int8_total = 0.0
    values = {True: 0.0, False: 0.0}
    parameters = 0
    for node, macs, _ in convolutions(proto):
        quantized = all(dequantized(name, made) for name in node.input[:2])
        weights = _stored(node.input[1], made, sizes)
        bias = _stored(node.input[2], made, sizes) if len(node.input) > 2 else 0
        total += macs
        int8_total += macs if quantized else 0
        parameters += weights + bias
        values[quantized] += weights + shapes.get(node.input[0], 0) + shapes.get(node.output[0], 0)
    return Costs(parameters, total, int8_total, values[True], values[False])


def _stored(name: str, made: Mapping[str, onnx.NodeProto], sizes: dict[str, int]) -> int:
    """Values of a weight, directly stored or behind Q/DQ."""
    while name in made and name not in sizes:
        name = made[name].input[0]
    return sizes.get(name, 0)


def _shapes(proto: onnx.ModelProto) -> dict[str, int]:
    """Tensor to how many values it has, where that is known."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if dims and all(dims):
            found[value.name] = math.prod(dims)
    return found


def of_ncnn(param: Path, tile: int) -> Costs:
    """Of an ncnn network (.param) of plain convolutions, enlarged by Interp and PixelShuffle.

    Raises
    ------
    ModelError
        It is no such file.
    """
    try:
        lines = param.read_text("utf-8").splitlines()
        if lines[0].strip() != "7767517":
            raise ValueError("it does not begin with ncnn's number")
        return _ncnn([line.split() for line in lines[2:] if line.strip()], tile)
    except (OSError, UnicodeDecodeError, ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{param} cannot be read as a network of ncnn", why=(str(error),)) from error


def _ncnn(layers: list[list[str]], tile: int) -> Costs:
    scales: dict[str, float] = {}
    channels: dict[str, float] = {}
    macs = values = 0.0
    parameters = 0
    for kind, _, n_in, n_out, *rest in layers:
        inputs, outputs = rest[: int(n_in)], rest[int(n_in) : int(n_in) + int(n_out)]
        options = dict(word.split("=", 1) for word in rest[int(n_in) + int(n_out) :])
        scale = scales[inputs[0]] if inputs else 1.0
        depth = channels[inputs[0]] if inputs else 3.0
        if kind == "Convolution":
            weights, bias = int(options["6"]), int(options.get("5", "0"))
            out = int(options["0"])
            scale /= int(options.get("3", "1"))
            pixels = (tile * scale) ** 2
            macs += weights * pixels
            values += weights + (depth + out) * pixels
            parameters += weights + (out if bias else 0)
            depth = out
        elif kind == "PReLU":
            parameters += int(options["0"])
        elif kind == "Interp":
            scale *= float(options.get("1", "1"))
        elif kind == "PixelShuffle":
            factor = int(options["0"])
            scale, depth = scale * factor, depth / factor**2
        elif kind == "Concat":
            depth = sum(channels[name] for name in inputs)
        scales.update(dict.fromkeys(outputs, scale))
        channels.update(dict.fromkeys(outputs, depth))
    return Costs(parameters, macs, floating_values=values)
