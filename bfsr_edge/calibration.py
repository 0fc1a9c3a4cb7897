"""What a calibration is: the scale of every activation, how and from which faces it was found, and what INT8 costs.

`bfsr-edge calibrate` makes one and keeps it as JSON; `bfsr_edge/quantization.py` turns a graph and its calibration into
the INT8 graph.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bfsr_edge.errors import ModelError
from bfsr_edge.files import replace
from bfsr_edge.precision import FP16_TINY

VERSION = 1
SMALLEST = FP16_TINY
"""Smallest scale that FP16 stores whole, 6.1e-5."""
METHODS = ("max", "mse", "percentile", "entropy")
RECALIBRATE = "bfsr-edge calibrate --faces DIR --model FILE.onnx"


@dataclass(frozen=True)
class Drop:
    """What INT8 costs, measured through two compiled engines on pairs of degraded and true pictures."""

    mean: float
    """PSNR of FP32 minus PSNR of INT8, mean over pictures, in dB."""
    worst: float
    """The largest on one picture, in dB."""
    worst_name: str
    """That picture."""
    count: int
    """How many pictures."""
    fp32: float
    """Mean PSNR of the FP32 engine, in dB."""
    int8: float
    """Mean PSNR of the INT8 engine, in dB."""
    backend: str
    """Library and version that ran both."""


@dataclass(frozen=True)
class Layer:
    """One convolution."""

    name: str
    """Its node's name in the graph."""
    tensor: str
    """The activation that it reads, as a key of ``Calibration.scales``."""
    share: float
    """Its part of the multiply-accumulates of all convolutions."""
    precision: str
    """"int8", or what the calibration's ``floating`` says."""
    drop: float | None = None
    """dB lost in the mean where it alone is quantized; ``None``: not measured."""
    worst: float | None = None
    """The same on the worst picture."""


def short_layer(name: str) -> str:
    """A layer's name as tables and plots show it: ``/encoder.1/encoder.1.0/conv1/Conv`` as ``encoder.1.0.conv1``."""
    parts = [part for part in name.split("/") if part and part != "Conv"]
    kept = [part for part, following in zip(parts, [*parts, ""][1:], strict=True) if not following.startswith(part)]
    return ".".join(kept) or name


@dataclass(frozen=True)
class Calibration:
    """Everything that turns one float32 graph into its INT8 graph."""

    scales: Mapping[str, float]
    """Activation tensor to the size of one 8-bit step; excluded layers' too, so that they can be taken in again."""
    graph_sha256: str
    """``graph_sha256`` of the float32 graph that it was made from."""
    model: str = ""
    """What that model is called."""
    method: str = "max"
    """How ranges were chosen: one of ``METHODS``."""
    percentile: float = 0.0
    """Of the percentile method, in percent."""
    excluded: tuple[str, ...] = ()
    """Names of the convolutions that stay in floating point."""
    quantized_skips: bool = True
    """Whether the skipping branch of a residual Add is INT8 too."""
    floating: str = "fp16"
    """What is not INT8: "fp16" or "fp32"."""
    faces: tuple[str, ...] = ()
    """sha256 of the encoded bytes of every face used."""
    seed: int = 0
    """Of the choice of faces and of their degradation."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to version."""
    created: str = ""
    """UTC time, ISO 8601."""
    drop: Drop | None = None
    """What it costs; ``None``: no pairs were given."""
    budget: float | None = None
    """Largest mean drop that was asked for, in dB."""
    over_budget: bool = False
    """Whether the drop is above the budget all the same."""
    layers: tuple[Layer, ...] = ()
    """Every convolution, in the graph's order."""

    @property
    def int8_share(self) -> float:
        """Part of the multiply-accumulates that is INT8, from ``layers``."""
        return sum(layer.share for layer in self.layers if layer.precision == "int8")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all; OSError where it cannot be written."""
        content = {"format": "bfsr-edge calibration", "version": VERSION, **dataclasses.asdict(self)}
        replace(Path(path), (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what ``save`` wrote.

        Raises
        ------
        ModelError
            It is missing, damaged, of a newer version, or holds a scale that is zero or no number.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format") != "bfsr-edge calibration":
                raise ValueError("it is another kind of file")
            if content.pop("version") != VERSION:
                raise ValueError(f"its version is not {VERSION}")
            content["scales"] = {str(name): float(scale) for name, scale in content["scales"].items()}
            content["excluded"] = tuple(content["excluded"])
            content["faces"] = tuple(content["faces"])
            content["drop"] = Drop(**content["drop"]) if content["drop"] else None
            content["layers"] = tuple(Layer(**layer) for layer in content["layers"])
            calibration = cls(**content)
            texts = (*calibration.excluded, *calibration.faces, calibration.graph_sha256, calibration.model)
            if not all(isinstance(text, str) for text in (*texts, calibration.method, calibration.floating)):
                raise ValueError("a name in it is no text")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ModelError(
                f"{path} cannot be read as a calibration",
                why=(f"{type(error).__name__}: {error}",),
                fix=RECALIBRATE,
            ) from error
        check_scales(calibration)
        return calibration


def check_scales(calibration: Calibration) -> None:
    """Refuse scales that no graph can be made with.

    Raises
    ------
    ModelError
        One is zero, no number, or below ``SMALLEST``.
    """
    for name, scale in calibration.scales.items():
        if not (math.isfinite(scale) and scale >= SMALLEST):
            raise ModelError(
                f"the calibration's scale of {name} is {scale}",
                why=(
                    "the tensor was zero on every calibration face" if scale == 0 else "the file was edited or damaged",
                    f"scales are finite and at least {SMALLEST:.2g}, which FP16 can store",
                ),
                fix=RECALIBRATE,
            )
