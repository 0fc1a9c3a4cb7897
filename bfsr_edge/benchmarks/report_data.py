"""A run as the report needs it: engines with names, measurements by engine, which engine is meant by "ours"."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bfsr_edge.benchmarks.results import GALLERY, EngineRow, GalleryRow, ImageRow, LayerRow, Run, SizeRow
from bfsr_edge.weights import DEFAULT

NAMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch", "tensorrt": "TensorRT",
         "opencv": "OpenCV"}  # fmt: skip
"""Backends as their makers write them; others stay as they are."""


@dataclass(frozen=True)
class View:
    """One run folder, ready to be shown. Nothing in it is computed that the files do not say."""

    folder: Path
    """Where the run lies: the gallery's pictures are read from here."""
    machine: Mapping[str, Any]
    """machine.json."""
    engines: tuple[EngineRow, ...]
    """In the order of engines.csv."""
    latency: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Engine to ms of every timed run."""
    drops: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    """Engine to (picture, dB lost against FP32), for engines that are not the FP32 one themselves."""
    images: tuple[ImageRow, ...] = ()
    """Rows of images.csv."""
    throughput: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    """Engine to (batch, faces a second)."""
    sizes: tuple[SizeRow, ...] = ()
    """Rows of sizes.csv."""
    layers: tuple[LayerRow, ...] = ()
    """Rows of layers.csv, in the graph's order; empty without one."""
    curves: Mapping[str, tuple[Mapping[str, str], ...]] = field(default_factory=dict)
    """Training log to its rows."""
    gallery: tuple[GalleryRow, ...] = ()
    """Rows of gallery/gallery.csv whose pictures are all there."""

    @classmethod
    def of(cls, folder: Path, run: Run) -> View:
        """Group a run by engine. NaN and infinity are no measurements: such a cell is empty, such a row absent.

        Parameters
        ----------
        folder
            Where the run was loaded from.
        run
            What its files hold.
        """
        latency: dict[str, list[float]] = {}
        for timed in filter(_finite, run.latency):
            latency.setdefault(timed.id, []).append(timed.ms)
        engines = tuple(_without_nan(engine) for engine in run.engines)
        references = {engine.id for engine in engines if not below_fp32(engine)}
        drops: dict[str, list[tuple[str, float]]] = {}
        for image in filter(_finite, run.images):
            if image.drop is not None and image.id not in references:
                drops.setdefault(image.id, []).append((image.image, image.drop))
        rates: dict[str, list[tuple[int, float]]] = {}
        for row in filter(_finite, run.throughput):
            if row.faces_per_s > 0 and row.batch > 0:
                rates.setdefault(row.id, []).append((row.batch, row.faces_per_s))
        return cls(
            folder=folder,
            machine=run.machine,
            engines=engines,
            latency={name: tuple(times) for name, times in latency.items()},
            drops={name: tuple(pairs) for name, pairs in drops.items()},
            images=tuple(filter(_finite, run.images)),
            throughput={name: tuple(sorted(points)) for name, points in rates.items()},
            sizes=tuple(row for row in filter(_finite, run.sizes) if row.megapixels > 0),
            layers=tuple(filter(_finite, run.layers)),
            curves=run.curves,
            gallery=tuple(row for row in run.gallery if all(path.is_file() for path in pictures(folder, row))),
        )

    @cached_property
    def labels(self) -> dict[str, str]:
        """Engine to the shortest name that tells it from the others."""
        return labels(self.engines)

    def label(self, id_: str) -> str:
        """What a plot calls an engine; the id itself where engines.csv does not hold it."""
        return self.labels.get(id_, id_)

    @cached_property
    def default(self) -> EngineRow | None:
        """What the headline is about: the fastest timed and scored engine of the default network, else of ours."""
        ours = [
            engine for engine in self.engines
            if engine.kind == "ours" and engine.latency_median_ms is not None and engine.psnr_mean is not None
        ]  # fmt: skip
        of_default = [engine for engine in ours if engine.network == DEFAULT]
        return min(of_default or ours, key=lambda engine: engine.latency_median_ms or math.inf, default=None)

    @property
    def default_id(self) -> str:
        """Its id, or an empty text."""
        return self.default.id if self.default else ""

    def times_faster(self, slower: EngineRow) -> float | None:
        """How many times the headline's engine is faster: from interleaved ratios where both have one, else medians."""
        if (ours := self.default) is None:
            return None
        if ours.ratio_to_reference and slower.ratio_to_reference:
            return slower.ratio_to_reference / ours.ratio_to_reference
        if ours.latency_median_ms and slower.latency_median_ms:
            return slower.latency_median_ms / ours.latency_median_ms
        return None

    @property
    def cores(self) -> int | None:
        """CPU cores that the run could use, where machine.json says."""
        cpu = self.machine.get("cpu")
        cores = cpu.get("cores") if isinstance(cpu, Mapping) else None
        return cores if isinstance(cores, int) else None

    def curve(self, name: str, column: str) -> list[tuple[float, float]]:
        """(iteration, value) of a training log where both are finite numbers."""
        points = []
        for row in self.curves[name]:
            try:
                point = float(row["iteration"]), float(row[column])
            except (KeyError, TypeError, ValueError):
                continue
            if all(map(math.isfinite, point)):
                points.append(point)
        return points


PICTURES = ("input", "fp32", "int8", "diff8")
"""Of one place in the gallery."""


def pictures(folder: Path, row: GalleryRow) -> list[Path]:
    """Its four files, in the order of ``PICTURES``."""
    return [folder / GALLERY / f"{row.n:02d}-{name}.png" for name in PICTURES]


def below_fp32(engine: EngineRow) -> bool:
    """Whether anything but float32 was executed by a network, so that a loss against FP32 means something."""
    return engine.kind != "baseline" and engine.precision.lower() not in ("", "fp32")


def precision(engine: EngineRow) -> str:
    """In one word, as people write it: INT8 where any layer is; the table of engines has the whole truth."""
    return "INT8" if "int8" in engine.precision.lower().split("+") else engine.precision.upper()


def labels(engines: Sequence[EngineRow]) -> dict[str, str]:
    """Engine id to network and precision, with the backend and then the id where that is not enough."""

    def short(engine: EngineRow) -> str:
        # what only interpolates has no precision worth telling
        return engine.network if engine.kind == "baseline" else f"{engine.network} {precision(engine)}".strip()

    def longer(engine: EngineRow) -> str:
        return f"{short(engine)} {NAMES.get(engine.backend, engine.backend)}".strip()

    found: dict[str, str] = {}
    for engine in engines:
        for way in (short, longer):
            name = way(engine)
            if name and sum(way(other) == name for other in engines) == 1:
                found[engine.id] = name
                break
        else:
            found[engine.id] = engine.id
    return found


def _finite(row: Any) -> bool:
    values = (getattr(row, entry.name) for entry in dataclasses.fields(row))
    return all(math.isfinite(value) for value in values if isinstance(value, float))


def _without_nan(engine: EngineRow) -> EngineRow:
    bad: dict[str, Any] = {
        entry.name: None for entry in dataclasses.fields(engine)
        if isinstance(value := getattr(engine, entry.name), float) and not math.isfinite(value)
    }  # fmt: skip
    return dataclasses.replace(engine, **bad) if bad else engine


def milliseconds(value: float) -> str:
    """A time given in ms, in the unit that suits it, three digits: "0.52 ms", "9.0 ms", "120 ms", "1.19 s"."""
    if value >= 1000:
        return f"{value / 1000:.{2 if value < 9_995 else 1 if value < 99_950 else 0}f} s"
    return f"{value:.{2 if value < 0.995 else 1 if value < 99.95 else 0}f} ms"


def tick_milliseconds(value: float) -> str:
    """The same for round values: "1 ms", "10 s"."""
    if value >= 60_000 and value % 60_000 == 0:
        return f"{significant(value / 60_000, 3)} min"
    return f"{significant(value / 1000, 3)} s" if value >= 1000 else f"{significant(value, 3)} ms"


def significant(value: float, digits: int) -> str:
    """With so many digits, never in the notation with e; trailing zeros of round values are left out."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    after = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{after}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
