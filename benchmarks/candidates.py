"""What an EdgeUNet will cost, before it is trained: random weights, Q/DQ, OpenVINO's latency, a TensorRT-RTX build.

Latency does not depend on the weights, so shapes that are too slow are found out here and not after a day of training.
The quantization is onnxruntime's static one on noise: right for timing, useless for pictures.

    python benchmarks/candidates.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bfsr_edge.export import export
from bfsr_edge.models import create, gmacs, parameter_count, save_checkpoint
from bfsr_edge.resources import find_toml
from bfsr_edge.train.recipe import load_recipe

SIDE = 128
LIMIT_MS = 12.0
FIVE: dict[str, Any] = {"widths": [32, 64, 96, 128, 128], "encoder": [0, 1, 1, 1, 1]}
CANDIDATES: dict[str, dict[str, Any]] = {
    "two blocks less at full size": FIVE | {"decoder": [2, 3, 2, 1]},
    "three less at full and one at half size": FIVE | {"decoder": [1, 2, 2, 1]},
    "LeakyReLU": FIVE | {"decoder": [4, 3, 2, 1], "slope": 0.01},
    "no activation behind strided convolutions": FIVE | {"decoder": [4, 3, 2, 1], "linear_down": True},
    "four levels, middle of 3": {"widths": [32, 64, 128, 128], "encoder": [0, 1, 1, 3], "decoder": [1, 2, 1]},
    "four levels, one block more at the top": {
        "widths": [32, 64, 128, 128],
        "encoder": [1, 2, 1, 3],
        "decoder": [1, 2, 1],
    },
    "four levels, no block at full size": {"widths": [32, 64, 128, 128], "encoder": [0, 1, 1, 3], "decoder": [0, 2, 1]},
    "four levels, half the width at full size": {
        "widths": [16, 64, 128, 128],
        "encoder": [0, 1, 1, 3],
        "decoder": [0, 2, 1],
    },
    "four levels, wider below": {"widths": [32, 64, 96, 160], "encoder": [0, 2, 2, 2], "decoder": [1, 2, 2]},
}


class Noise:
    """Calibration data for onnxruntime: a few random pictures."""

    def __init__(self, count: int = 3) -> None:
        rng = np.random.default_rng(0)
        self._batches: Iterator[Any] = iter([rng.random((1, 3, SIDE, SIDE), np.float32) for _ in range(count)])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}


def quantize(source: Path, target: Path) -> None:
    """Q/DQ on every convolution but the first, the skip and the last, and on every Add but the last."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    nodes = onnx.load(source).graph.node
    ends = [
        node.name for node in nodes if node.op_type == "Conv" and node.name.split("/")[1] in ("head", "skip", "tail")
    ]
    last = [node.name for node in nodes if node.op_type == "Add"][-2:]  # skip + tail, and the centre put back
    quantize_static(
        source,
        target,
        Noise(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Add"],
        nodes_to_exclude=ends + last,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )


def milliseconds(path: Path, threads: int, runs: int) -> float:
    """Median latency of one face in OpenVINO with float32 outside the quantized part."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    face = np.random.default_rng(1).random((1, 3, SIDE, SIDE), np.float32)
    times = []
    for _ in range(10 + runs):
        begin = time.perf_counter()
        request.infer({0: face})
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times[10:])


def builds(path: Path) -> str:
    """Whether TensorRT-RTX builds the graph, strongly typed; needs no GPU."""
    try:
        import tensorrt_rtx as trt
    except ImportError:
        return "not installed"
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        return f"no: {parser.get_error(0).desc()}"
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    profile.set_shape("input", *((count, 3, SIDE, SIDE) for count in (1, 1, 4)))
    config.add_optimization_profile(profile)
    return "yes" if builder.build_serialized_network(network, config) is not None else "no"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--runs", type=int, default=50)
    given = arguments.parse_args()
    default = load_recipe(find_toml("train", "edge")).network.settings
    print(f"{platform.machine()}, {given.threads} threads, median of {given.runs} runs, 128→512; limit {LIMIT_MS} ms\n")
    print("| candidate | parameters | GMAC | FP32 ms | INT8 ms | TensorRT-RTX builds INT8 |")
    print("|---|---|---|---|---|---|")
    for name, settings in {"**edge, the default**": default, **CANDIDATES}.items():
        network = create("edge-unet", **settings)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, plain, int8 = (Path(folder, f"it.{end}") for end in ("safetensors", "onnx", "int8.onnx"))
            save_checkpoint(checkpoint, network)
            export(checkpoint, plain, tile=SIDE)
            quantize(plain, int8)
            times = [milliseconds(path, given.threads, given.runs) for path in (plain, int8)]
            cells = (
                f"{parameter_count(network):,}",
                f"{gmacs(network):.2f}",
                *(f"{t:.1f}" for t in times),
                builds(int8),
            )
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
