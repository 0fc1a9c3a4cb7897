"""What this machine can do at most: multiply-accumulates a second by precision, and bytes a second.

The peaks are measured, not read off a data sheet: convolutions of 1×1, each one large matrix product, through the
libraries that the engines use, the fastest of them counting; and a copy that no cache holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bfsr_edge.benchmarks.costs import Costs

CHANNELS, SIDE, PRODUCTS = 1024, 48, 8
"""19 GMAC and 20 MB: large enough to fill every core, and products one behind the other, beside which it hardly counts
that float32 pictures are read and converted."""
COPY_BYTES = 1 << 28
MACS = PRODUCTS * CHANNELS * CHANNELS * SIDE * SIDE


@dataclass(frozen=True)
class Peaks:
    """Of one machine with a number of threads."""

    macs: dict[str, float] = field(default_factory=dict)
    """Precision ("fp32", "bf16", "fp16", "int8") to multiply-accumulates a second."""
    by: dict[str, str] = field(default_factory=dict)
    """Precision to the library that reached it."""
    copy: float = 0.0
    """Bytes a second, those read and those written."""


def measure(threads: int, seconds: float) -> Peaks:
    """Measure each for about ``seconds``. A precision that no library here executes is left out."""
    found: dict[str, tuple[float, str]] = {}

    def offer(precision: str, rate: float, name: str) -> None:
        if rate > found.get(precision, (0.0, ""))[0]:
            found[precision] = (rate, name)

    rng = np.random.default_rng(0)
    one, two = (rng.random((2048, 2048), dtype=np.float32) for _ in range(2))
    offer("fp32", 2048**3 * _rate(lambda: one @ two, seconds), "numpy")
    for precision in ("fp32", "bf16", "fp16", "int8"):
        if (run := _openvino(precision, threads)) is not None:
            offer(precision, MACS * _rate(run, seconds), "openvino")
    for precision in ("fp32", "int8"):
        if (run := _onnxruntime(precision, threads)) is not None:
            offer(precision, MACS * _rate(run, seconds), "onnxruntime")
    return Peaks(
        {precision: rate for precision, (rate, _) in found.items()},
        {precision: name for precision, (_, name) in found.items()},
        copy_rate(threads, seconds),
    )


def copy_rate(threads: int, seconds: float) -> float:
    """Bytes a second of copying arrays that no cache holds, reads and writes counted."""
    count = COPY_BYTES // 8 // threads
    pairs = [(np.ones(count), np.zeros(count)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:  # numpy copies without the interpreter's lock

        def copy() -> None:
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))

        return 2 * 8 * count * threads * _rate(copy, seconds)


def share(costs: Costs, peaks: Peaks, precision: str, seconds: float) -> tuple[float | None, float | None]:
    """How close one run of ``seconds`` came to the peaks of computing and of moving: 1 is as fast as the machine.

    Parameters
    ----------
    precision
        Executed: what is not INT8 of a mixed network runs in the other part of "fp32+int8".
    """
    floating = next((part for part in precision.split("+") if part in ("fp32", "bf16", "fp16")), "fp32")
    need = {"int8": costs.int8_macs, floating: costs.macs - costs.int8_macs}
    compute: float | None = 0.0
    for name, macs in need.items():
        if macs and compute is not None:
            compute = compute + macs / peaks.macs[name] if peaks.macs.get(name) else None
    moved = costs.moved(precision)
    memory = moved / peaks.copy if peaks.copy and moved else None
    return (
        compute / seconds if compute else None,
        memory / seconds if memory else None,
    )


def _rate(run: Callable[[], Any], seconds: float) -> float:
    """Runs a second: of the fastest, as a peak is asked for."""
    run()
    best = float("inf")
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - before)
    if best == float("inf"):
        before = time.perf_counter()
        run()
        best = time.perf_counter() - before
    return 1 / best


def _graph(int8: bool) -> bytes:
    """Convolutions of 1×1 one behind the other, their operands through Q/DQ where they are to run in INT8."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shape = [1, CHANNELS, SIDE, SIDE]
    square = (CHANNELS, CHANNELS, 1, 1)
    values = rng.integers(-127, 128, square).astype(np.int8) if int8 else rng.normal(0, 0.03, square).astype(np.float32)
    tensors = [
        numpy_helper.from_array(values, "weight"),
        numpy_helper.from_array(np.float32(0.02), "step"),
        numpy_helper.from_array(np.float32(0.0004), "weight.step"),  # so that values neither grow nor vanish
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    nodes = [helper.make_node("DequantizeLinear", ["weight", "weight.step", "zero"], ["weight.dq"])] if int8 else []
    source, weight = "input", "weight.dq" if int8 else "weight"
    for number in range(PRODUCTS):
        if int8:
            nodes += [
                helper.make_node("QuantizeLinear", [source, "step", "zero"], [f"{number}.q"]),
                helper.make_node("DequantizeLinear", [f"{number}.q", "step", "zero"], [f"{number}.dq"]),
            ]
            source = f"{number}.dq"
        nodes.append(helper.make_node("Conv", [source, weight], [f"{number}.out"]))
        source = f"{number}.out"
    # reduced, so that little but the products is left
    nodes.append(helper.make_node("ReduceMean", [source], ["output"], keepdims=1))
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in tensors if tensor.name in used]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, 1]),
    ]
    graph = helper.make_graph(nodes, "peak", ends[:1], ends[1:], tensors)
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    onnx.checker.check_model(content)
    return content


def _input() -> Any:
    return np.random.default_rng(1).random((1, CHANNELS, SIDE, SIDE), dtype=np.float32)


def _openvino(precision: str, threads: int) -> Callable[[], Any] | None:
    """A function that runs the product once; ``None`` where OpenVINO does not execute that precision here."""
    try:
        import openvino
    except ImportError:
        return None
    from bfsr_edge.runtime.openvino import ELEMENT_TYPES

    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}[precision] not in able:
        return None
    hint = ELEMENT_TYPES.get(precision, "f32")
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    try:
        compiled = core.compile_model(core.read_model(_graph(precision == "int8")), "CPU", settings)
    except RuntimeError:
        return None
    if compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != hint:
        return None
    request, batch = compiled.create_infer_request(), _input()
    return lambda: request.infer([batch], share_inputs=True, share_outputs=True)


def _onnxruntime(precision: str, threads: int) -> Callable[[], Any] | None:
    """The same in ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        _graph(precision == "int8"), options, providers=["CPUExecutionProvider"]
    )  # fmt: skip
    batch = _input()
    return lambda: session.run(None, {"input": batch})
