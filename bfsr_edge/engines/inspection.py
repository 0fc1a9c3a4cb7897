"""``inspect``: what is inside an engine or an ONNX file, and what cannot be known about it on this machine."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from bfsr_edge import precision as lowering
from bfsr_edge.engines.openvino import layers as openvino_layers
from bfsr_edge.errors import BfsrError, ModelError, UsageError, first_line
from bfsr_edge.runtime import machine, sidecar, trt
from bfsr_edge.runtime.base import CHANNELS, by, require
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.runtime.openvino import ELEMENT_TYPES, EXECUTED, INSTALL
from bfsr_edge.runtime.sidecar import Sidecar
from bfsr_edge.runtime.tensorrt import Messages
from bfsr_edge.weights import Model

LARGEST = 10
RUNS = 5
"""How often an engine for a CPU is run for its times; the last run counts."""
# what the inspector calls types, in "Format/Datatype", "Datatype" and "Weights": versions differ in words, not in sense
TYPES = (
    ("uint8", r"uint8"),
    ("int8", r"int8|\bi8\b"),
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"),
    ("fp32", r"fp32|float"),
    ("int32", r"int32"),
)
BYTES = {"int8": 1, "uint8": 1, "fp16": 2, "bf16": 2, "fp32": 4, "int32": 4}
UNKNOWN = "not said"


@dataclass(frozen=True)
class Layer:
    """One step of an engine, or one convolution of a graph."""

    name: str
    """The library's name for it; fused ones name all their parts."""
    kind: str
    """The library's type of layer."""
    precision: str
    """What it computes in."""
    size: float
    """What it is ranked by: see ``Report.unit``."""
    reformat: bool = False
    """Whether it only changes how values lie in memory."""


@dataclass(frozen=True)
class Report:
    """What was found."""

    facts: tuple[tuple[str, str], ...]
    """Label and value, in the order to print."""
    layers: tuple[Layer, ...] = ()
    """Every layer, in the order of execution."""
    unit: str = ""
    """What ``Layer.size`` counts: "ms", "MB" or "GMAC"."""
    unknown: tuple[str, ...] = ()
    """What cannot be known here, and what would be needed."""

    @property
    def precisions(self) -> dict[str, int]:
        """Precision to number of layers, reformats left out, the most frequent first."""
        return dict(Counter(layer.precision for layer in self.layers if not layer.reformat).most_common())

    @property
    def reformats(self) -> int:
        """How many layers only move values."""
        return sum(layer.reformat for layer in self.layers)

    @property
    def largest(self) -> tuple[Layer, ...]:
        """The ten largest."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.size)[:LARGEST])

    def text(self) -> str:
        """Everything, for people."""
        width = max((len(label) for label, _ in self.facts), default=0)
        lines = [f"{label:<{width}}  {value}" for label, value in self.facts]
        if self.layers:
            counts = ", ".join(f"{count} in {precision}" for precision, count in self.precisions.items())
            lines += ["", f"{len(self.layers)} layers: {counts}; {self.reformats} reformats"]
            lines += [f"the {len(self.largest)} largest, by {self.unit}:"]
            total = sum(layer.size for layer in self.layers) or 1.0
            for layer in self.largest:
                name = layer.name if len(layer.name) <= 60 else f"{layer.name[:57]}…"
                share = layer.size / total
                lines.append(f"  {layer.size:9.3f}  {share:5.1%}  {layer.precision:<9} {layer.kind:<18} {name}")
        lines += [""] * bool(self.unknown) + [f"not known here: {what}" for what in self.unknown]
        return "\n".join(lines)

    def json(self) -> str:
        """Everything, for programs."""
        content = {
            "facts": dict(self.facts),
            "precisions": self.precisions,
            "reformats": self.reformats,
            "unit": self.unit,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "unknown": self.unknown,
        }
        return json.dumps(content, indent=1, ensure_ascii=False)


def inspect(model: Model) -> Report:
    """Look into an engine or an ONNX file.

    Raises
    ------
    UsageError
        It is a checkpoint.
    ModelError
        The file or its sidecar is damaged, or they do not belong together.
    """
    if model.kind == "onnx":
        return inspect_onnx(model)
    if model.kind != "engine":
        raise UsageError(
            f"{model.path} is a checkpoint, and inspect looks into engines and ONNX files",
            fix=f"bfsr-edge export --model {model.path} --out FILE.onnx",
        )
    described = sidecar.read(model.path)
    sidecar.check_plan(described, model)
    if described.flavour == "openvino":
        return _inspect_openvino(model, described)
    return _inspect_tensorrt(model, described)


def inspect_onnx(model: Model) -> Report:
    """The convolutions of an ONNX file: their precision and work."""
    import onnx

    graph = read_graph(model, None)
    proto = onnx.load_from_string(graph.content)
    work = lowering.convolutions(proto)
    quantized = _quantized_convolutions(proto)
    layers = []
    for node, macs, element in work:
        floating = "fp16" if element == onnx.TensorProto.FLOAT16 else "fp32"
        layers.append(Layer(node.name, node.op_type, "int8" if node.name in quantized else floating, macs / 1e9))
    shares = lowering.mac_shares(proto)
    stored = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    kinds = Counter(node.op_type for node in proto.graph.node)
    facts = (
        ("file", f"{model.path}, ONNX, {model.path.stat().st_size / 1e6:.2f} MB"),
        ("input", f"N×{CHANNELS}×{by(graph.tile)}, ×{graph.scale}, stride {graph.stride}"),
        ("multiply-accumulates", f"{sum(macs for _, macs, _ in work) / 1e9:.3f} GMAC a tile: {_shares(shares)}"),
        ("weights", f"{stored / 1e6:.2f} MB"),
        ("operators", ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())),
    )
    unknown = ("which layers a backend fuses, what it reformats, and times: build an engine and inspect that",)
    return Report(facts, tuple(layers), "GMAC", unknown)


def _inspect_openvino(model: Model, described: Sidecar) -> Report:
    """The graph that OpenVINO really runs here, with the times of its layers."""
    openvino = require("openvino", "openvino", INSTALL)
    graph = read_graph(model, None)
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": ELEMENT_TYPES.get(described.precision, "f32"),
        "PERF_COUNT": True,
    }
    try:
        compiled = core.compile_model(core.read_model(graph.content), "CPU", settings)
    except (RuntimeError, ValueError) as error:  # ValueError: a message of its own that is no UTF-8
        raise ModelError(f"OpenVINO cannot load {model.path}", why=(first_line(error),)) from error
    request = compiled.create_infer_request()
    batch = np.random.default_rng(0).random((1, CHANNELS, *graph.tile), dtype=np.float32)
    for _ in range(RUNS):
        request.infer([np.rint(batch * 255).astype(np.uint8) if graph.io == "uint8" else batch])
    found = []
    for layer in openvino_layers(compiled):
        if layer["layerType"] in ("Const", "Input", "Output"):
            continue
        time = layer.get("execTimeMcs", "")
        found.append(
            Layer(
                layer.get("originalLayersNames") or layer["name"],
                layer["layerType"],
                EXECUTED.get(layer["runtimePrecision"], layer["runtimePrecision"]),
                float(time) / 1000 if time.isdigit() else 0.0,
                layer["layerType"] == "Reorder",
            )
        )
    facts = (
        *_facts(model, described),
        ("runs in", f"{sum(layer.size for layer in found):.2f} ms a tile, with times being taken"),
    )
    return Report(facts, tuple(found), "ms", ("memory: OpenVINO does not tell it before a run",))


def _inspect_tensorrt(model: Model, described: Sidecar) -> Report:
    """A plan of TensorRT: from its inspector where the plan can be loaded, else from the sidecar alone."""
    facts = _facts(model, described)
    try:
        information, memory = _ask_inspector(model, described)
    except BfsrError as error:
        what = "layers, kernels and reformats: a plan has to be loaded for that, which takes its library and GPU"
        if described.flavour == "tensorrt-rtx":
            what += ", and TensorRT-RTX chooses kernels only there"
        return Report(facts, unknown=(what, f"loading it here: {'; '.join((error.what, *error.why))}"))
    layers = from_information(information, described.batch[1])
    facts += (
        ("tensors", ", ".join(trt.io_tensors(information))),
        ("memory", f"{memory / 1e6:.1f} MB beside the weights"),
    )
    unknown = ["times: bfsr-edge benchmark takes them"]
    if any(layer.precision == UNKNOWN for layer in layers):
        unknown.append("types of some layers: the plan was built to tell names only")
    return Report(facts, layers, "MB", tuple(unknown))


def from_information(information: dict[str, Any], batch: int) -> tuple[Layer, ...]:
    """The layers of an inspector's JSON, of TensorRT 10 or 11, largest by bytes read and written.

    Parameters
    ----------
    batch
        What stands in for a dimension that is free.
    """
    return tuple(_layer(entry, batch) for entry in information["Layers"])


def _layer(entry: Any, batch: int) -> Layer:
    if not isinstance(entry, dict):  # an engine that tells names only
        return Layer(str(entry), UNKNOWN, UNKNOWN, 0.0, _is_reformat(str(entry), ""))
    name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", UNKNOWN))
    inputs, outputs = entry.get("Inputs") or [], entry.get("Outputs") or []
    weights = entry.get("Weights")
    weights = weights if isinstance(weights, dict) else {}
    moved = sum(_bytes(tensor, batch) for tensor in (*inputs, *outputs))
    kept = int(weights.get("Count", 0)) * BYTES.get(_type(str(weights.get("Type", ""))), 0)
    words = [str(weights.get("Type", "")), *(_format(tensor) for tensor in (*inputs, *outputs))]
    precision = next((found for word in words if (found := _type(word)) != UNKNOWN), UNKNOWN)
    return Layer(name, kind, precision, (moved + kept) / 1e6, _is_reformat(name, kind))


def _is_reformat(name: str, kind: str) -> bool:
    return kind.lower() in ("reformat", "reorg") or name.startswith("Reformatting CopyNode")


def _format(tensor: dict[str, Any]) -> str:
    return str(tensor.get("Format/Datatype") or tensor.get("Datatype") or tensor.get("DataType") or "")


def _type(word: str) -> str:
    return next((name for name, pattern in TYPES if re.search(pattern, word, re.IGNORECASE)), UNKNOWN)


def _bytes(tensor: dict[str, Any], batch: int) -> int:
    count = 1
    for side in tensor.get("Dimensions") or ():
        count *= batch if int(side) < 0 else int(side)
    return count * BYTES.get(_type(_format(tensor)), 0)


def _ask_inspector(model: Model, described: Sidecar) -> tuple[dict[str, Any], int]:
    """The inspector's JSON and the bytes of a context.

    Raises
    ------
    BfsrError
        The plan cannot be loaded here; says why.
    """
    api = trt.load_api(described.flavour)
    gpus = machine.gpus()
    sm = gpus[0].sm if gpus else ""
    sidecar.check_machine(
        described, model.path, sidecar.Here(api.flavour, api.version, sm, gpus[0].name if gpus else "")
    )
    messages = Messages()
    stop_listening = trt.listen(api, messages)
    try:
        dla_core = described.options.get("dla_core")
        runtime = trt.make_runtime(api, trt.logger_of(api), messages.take_any, dla_core=dla_core)
        engine = runtime.deserialize_cuda_engine(model.path.read_bytes())
        if engine is None:
            raise ModelError(f"{api.flavour} cannot load {model.path}", why=messages.take()[-2:])
        information = trt.engine_information(api, engine)
        memory = int(engine.device_memory_size_v2)
        del engine, runtime
    finally:
        stop_listening()
    return information, memory


def _facts(model: Model, described: Sidecar) -> tuple[tuple[str, str], ...]:
    """What the sidecar says."""
    least, best, most = described.batch
    options, built = described.options, described.options.get("built", {})
    facts = [
        ("engine", f"{model.path}, {model.path.stat().st_size / 1e6:.2f} MB, sha256 {described.plan_sha256[:16]}…"),
        ("network", f"{described.name}, ×{described.scale}, built from ONNX {described.onnx_sha256[:16]}…"),
        ("for", f"{described.target}, {described.flavour} {described.flavour_version}, {described.system}"),
        ("precision", described.precision + (" (weakly typed)" if described.weakly_typed else "")),
        ("input", f"{described.io}, N×{CHANNELS}×{by(described.tile)}, batch {least} to {most}, tuned for {best}"),
    ]
    if described.sm:
        facts.append(
            ("GPUs", f"SM {', '.join(described.sm)}" + (f", built on {described.gpu}" if described.gpu else ""))
        )
    if "mac_shares" in options:
        facts.append(("multiply-accumulates", _shares(options["mac_shares"])))
    if "weights_bytes" in built:
        facts.append(("weights", f"{built['weights_bytes'] / 1e6:.2f} MB, as the builder said"))
    if "activation_bytes" in built:
        facts.append(("memory", f"{built['activation_bytes'] / 1e6:.1f} MB of activations at batch {most}, the same"))
    if described.psnr_drop is not None:
        through = options.get("psnr", {}).get("backend", "the calibration")
        facts.append(("loss", f"{described.psnr_drop:.3f} dB of PSNR against FP32, measured through {through}"))
    facts += [("built", f"{described.created} by bfsr-edge {described.bfsr_edge}"), ("again", described.rebuild)]
    return tuple(facts)


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:.1%} in {name}" for name, share in shares.items() if share) or UNKNOWN


def _quantized_convolutions(proto: Any) -> set[str]:
    """Names of the convolutions whose input and weights come out of a DequantizeLinear, moved or not."""
    made = lowering.makers(proto)
    convolutions = (node for node in proto.graph.node if node.op_type == "Conv")
    return {node.name for node in convolutions if all(lowering.dequantized(name, made) for name in node.input[:2])}
