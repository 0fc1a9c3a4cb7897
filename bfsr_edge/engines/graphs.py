"""From the exported float32 ONNX to the graph of one precision and tile, whose bytes a builder reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bfsr_edge import precision as lowering
from bfsr_edge import quantization
from bfsr_edge.calibration import Calibration
from bfsr_edge.errors import ModelError, UsageError
from bfsr_edge.runtime.base import CHANNELS
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.weights import Model, list_models, resolve, sha256_of
from bfsr_edge.weights.graphs import read_onnx

if TYPE_CHECKING:
    import onnx

OPSETS = range(13, 21)
"""Older ones have no per-channel DequantizeLinear; newer ones are not read by every TensorRT from 10.3 on."""


@dataclass(frozen=True)
class Source:
    """An ONNX file that engines can be built from, and what it says about itself."""

    name: str
    """What engines from it are called."""
    path: Path
    """The file."""
    sha256: str
    """Of the file."""
    proto: onnx.ModelProto
    """Its content, weights included. Not to be changed."""
    quantized: bool
    """Whether it holds Q/DQ nodes already."""
    scale: int
    """Output pixels per input pixel."""
    stride: int
    """Sides of a tile are multiples of it."""
    receptive_field: int
    """Radius in input pixels, 0 where it is not known."""


@dataclass(frozen=True)
class Graph:
    """The graph of one engine."""

    content: bytes
    """The ONNX file."""
    precision: str
    """"fp32", "fp16" or "int8"."""
    quantized: bool
    """Whether it holds Q/DQ nodes."""
    shares: dict[str, float]
    """Part of the convolutions' multiply-accumulates by precision."""
    calibration: Calibration | None
    """What the INT8 graph was made with."""
    calibration_path: Path | None
    """Its file."""
    calibration_sha256: str
    """Of that file; empty without one."""


def read_source(model: Model) -> Source:
    """Read an ONNX file for building.

    Raises
    ------
    ModelError
        It is cut off, of an opset that not every builder reads, has a fixed batch, or holds a scale that is no number.
    """
    graph = read_graph(model, None)  # checks inputs, outputs and metadata, and gives the tile that the file has
    proto = read_onnx(model.path)
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset not in OPSETS:
        raise ModelError(
            f"{model.path} is written in ONNX opset {opset}; engines are built from opset {OPSETS[0]} to {OPSETS[-1]}",
            why=("it was exported by another tool", "not every TensorRT from 10.3 on reads newer ones"),
            fix="bfsr-edge export --model CHECKPOINT --out FILE.onnx",
        )
    source, sink = lowering.ends(proto)
    for value in (source, sink):
        fixed = value.type.tensor_type.shape.dim[0].dim_value
        if fixed:
            raise ModelError(
                f"{model.path} has no dynamic batch axis: {value.name} is fixed to {fixed} pictures",
                why=("it was exported without dynamic axes",),
                fix="bfsr-edge export --model CHECKPOINT --out FILE.onnx",
            )
    quantized = lowering.is_quantized(proto)
    if quantized:
        _check_scales(model.path, proto)
    return Source(
        name=Path(model.name).stem.removesuffix(".int8"),
        path=model.path,
        sha256=model.sha256,
        proto=proto,
        quantized=quantized,
        scale=graph.scale,
        stride=graph.stride,
        receptive_field=graph.receptive_field,
    )


def find_calibration(source: Source, given: Path | None) -> Path:
    """The calibration of a model: the one given, one beside the ONNX file, or the one that ships.

    Raises
    ------
    UsageError
        There is none; says how to make it.
    """
    if given is not None:
        if not given.is_file():
            raise UsageError(f"there is no file {given}", fix=_calibrate(source))
        return given
    beside = source.path.with_name(f"{source.path.stem}.calibration.json")
    if beside.is_file():
        return beside
    for entry in list_models():
        if any(file.sha256 == source.sha256 for file in entry.files.values()) and "calibration" in entry.files:
            return resolve(entry.name, kind="calibration").path
    raise UsageError(
        f"{source.name} has no calibration, so there is no INT8 graph of it",
        why=(f"there is no {beside.name} beside {source.path.name}",),
        fix=f"{_calibrate(source)}; or --fp16, or --calibration FILE",
    )


def prepare(
    source: Source, precision: str, tile: tuple[int, int], *, calibration: Path | None = None, uint8_io: bool = False
) -> Graph:
    """The graph of one precision and tile.

    Parameters
    ----------
    precision
        "fp32", "fp16" or "int8". A graph that is quantized already is the int8 one.

    Raises
    ------
    UsageError
        A quantized file was asked to be fp32 or fp16, or there is no calibration.
    ModelError
        The calibration is not of this graph, or holds a scale that is zero or no number.
    """
    found: Calibration | None = None
    path: Path | None = None
    if source.quantized:
        if precision != "int8":
            raise UsageError(
                f"{source.path} is quantized already, it cannot become {precision}",
                fix=f"use --int8, or the file that {source.path.name} was made from",
            )
        proto = source.proto
    elif precision == "int8":
        path = find_calibration(source, calibration)
        found = Calibration.load(path)
        proto = quantization.place(source.proto, found)
    else:
        proto = lowering.to_fp16(source.proto) if precision == "fp16" else lowering.plain(source.proto)
    proto = with_tile(proto, tile, source.scale)
    shares = lowering.mac_shares(proto)
    if precision == "int8" and not shares["int8"]:
        raise ModelError(
            f"no convolution of {source.name} is quantized, so this would not be an INT8 engine",
            why=("the calibration excludes every layer",),
            fix=f"{_calibrate(source)}; or build with --fp16",
        )
    if uint8_io:
        proto = lowering.with_uint8_io(proto)
    return Graph(
        content=proto.SerializeToString(deterministic=True),
        precision=precision,
        quantized=lowering.is_quantized(proto),
        shares=shares,
        calibration=found,
        calibration_path=path,
        calibration_sha256=sha256_of(path) if path else "",
    )


def with_tile(proto: onnx.ModelProto, tile: tuple[int, int], scale: int) -> onnx.ModelProto:
    """A copy whose input is N×3×h×w and whose output N×3×sh×sw; nothing else in a graph of ours depends on the tile."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(proto)
    for value, factor in zip(lowering.ends(result), (1, scale), strict=True):
        count, *fixed = value.type.tensor_type.shape.dim
        count.dim_param = "N"
        for dim, size in zip(fixed, (CHANNELS, tile[0] * factor, tile[1] * factor), strict=True):
            dim.dim_value = size
    del result.graph.value_info[:]
    return result


def _check_scales(path: Path, proto: onnx.ModelProto) -> None:
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type not in lowering.QUANTIZERS or node.input[1] not in stored:
            continue
        values: np.ndarray[Any, Any] = numpy_helper.to_array(stored[node.input[1]]).astype(np.float32)
        if not (np.isfinite(values).all() and values.min() > 0):
            raise ModelError(
                f"{path}: the scale of {node.name or node.op_type} is {values.min():g}",
                why=("scales are finite and above zero", "the calibration saw nothing but zeros there"),
                fix="bfsr-edge calibrate --faces DIR --model FILE.onnx",
            )


def _calibrate(source: Source) -> str:
    shipped = {file.sha256: entry.name for entry in list_models() for file in entry.files.values()}
    return f"bfsr-edge calibrate --faces DIR --model {shipped.get(source.sha256, source.path)}"
