"""What a run measures and for how long, as a frozen dataclass; ``benchmarks/*.toml`` say what differs."""

from __future__ import annotations

from dataclasses import dataclass

from bfsr_edge.errors import UsageError
from bfsr_edge.resources import find_toml
from bfsr_edge.settings import from_mapping, read_toml

STAGE = "benchmarks"
ENGINES = (
    "openvino-fp32",
    "openvino-int8",
    "openvino-bf16",
    "onnxruntime-fp32",
    "onnxruntime-int8",
    "torch-fp32",
    "compile-fp32",
    "tensorrt-fp16",
    "tensorrt-int8",
)
"""Backend and precision; tensorrt is left out where there is no GPU."""
BASELINES = ("bicubic", "lanczos")
PEERS = ("ncnn", "realesr-animevideov3-x4", "realesrgan-x4plus")
RANDOM = "srresnet24"
"""A network with random weights, for its latency alone: it does not depend on them."""


@dataclass(frozen=True)
class Suite:
    """What is measured, for how long.

    Raises
    ------
    UsageError
        A value is out of range or a name unknown.
    """

    name: str = "quick"
    models: tuple[str, ...] = ("edge", RANDOM)
    """Shipped names, files, or "srresnet24" for random weights."""
    engines: tuple[str, ...] = ENGINES
    """For each model, of ``ENGINES``."""
    latency_engines: tuple[str, ...] = ("openvino-fp32", "openvino-int8", "torch-fp32")
    """For a model with random weights."""
    baselines: tuple[str, ...] = BASELINES
    peers: tuple[str, ...] = PEERS
    tile: int = 128
    """Side of the input in pixels; pairs of another size are left out."""
    pairs: int = 40
    """Pairs scored, spread over all; 0: every one."""
    looks: int = 8
    """Of these, how many get the perceptual figure, which takes a second each; 0: every one."""
    warm_seconds: float = 0.2
    """Warm-up is at least as long and has at least as many runs."""
    warm_runs: int = 20
    seconds: float = 3.0
    """Timed runs end when either of the two is reached, all rounds together."""
    runs: int = 200
    rounds: int = 6
    """Turns that engine and reference take."""
    slow_runs: int = 3
    """Timed runs of an engine slower than a second."""
    slow_faces: int = 8
    """Pictures that such an engine is scored on."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    throughput_seconds: float = 1.0
    """For each batch size."""
    megapixels: tuple[float, ...] = (1.0, 4.0)
    """Of the photographs that are restored from file to file."""
    scale: int = 4
    """Of that restoration."""
    network_tiles: int = 64
    """Tiles that the network is timed on for that, at most; more are extrapolated."""
    gallery: int = 6
    """Pictures in the gallery, for each INT8 engine of OpenVINO or TensorRT."""
    peak_seconds: float = 0.5
    """For each of the machine's peaks."""

    def __post_init__(self) -> None:
        checks = {
            "engines": set(self.engines) | set(self.latency_engines) <= set(ENGINES),
            "baselines": set(self.baselines) <= set(BASELINES),
            "peers": set(self.peers) <= set(PEERS),
            "models": bool(self.models),
            "tile": self.tile >= 16,
            "pairs, looks, gallery": min(self.pairs, self.looks, self.gallery) >= 0,
            "warm_seconds, seconds, throughput_seconds, peak_seconds": min(
                self.warm_seconds, self.seconds, self.throughput_seconds, self.peak_seconds
            )
            > 0,
            "warm_runs, runs, rounds, slow_runs, network_tiles": min(
                self.warm_runs, self.runs, self.rounds, self.slow_runs, self.network_tiles
            )
            >= 1,
            "slow_faces": self.slow_faces >= self.slow_runs,
            "batches": all(batch >= 1 for batch in self.batches),
            "megapixels": all(size > 0 for size in self.megapixels),
            "scale": self.scale in (1, 2, 4),
        }
        bad = [key for key, good in checks.items() if not good]
        if bad:
            raise UsageError(
                f"suite {self.name!r} has a value out of range: {'; '.join(bad)}",
                fix="the docstrings of bfsr_edge/benchmarks/suite.py say what is allowed",
            )


def load_suite(name_or_path: str) -> Suite:
    """A suite by name or by the path of a TOML.

    Raises
    ------
    UsageError
        There is none, or a key or value is wrong.
    """
    path = find_toml(STAGE, name_or_path)
    return from_mapping(Suite, {"name": path.stem, **read_toml(path)}, str(path))
