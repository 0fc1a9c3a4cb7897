"""What a run folder holds: tables as frozen dataclasses, a CSV each.

An empty cell (``None`` here) was not measured; the row's ``note`` says why. Rows are appended while a run goes on, each
in one write, so that an interrupted run keeps what was measured.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bfsr_edge import files
from bfsr_edge.errors import UsageError

MACHINE = "machine.json"
CURVES = "curves"
GALLERY = "gallery"


@dataclass(frozen=True)
class EngineRow:
    """One engine: a network in one precision on one backend."""

    id: str
    """Unique in a run, such as "edge-int8-openvino"."""
    kind: str
    """"ours", "peer" or "baseline"."""
    network: str = ""
    precision: str = ""
    """What was really executed, such as "fp32+int8"; empty where nothing ran."""
    backend: str = ""
    backend_version: str = ""
    device: str = ""
    threads: int | None = None
    """CPU threads."""
    tile: str = ""
    """Input in pixels, height×width, such as "128x128"."""
    batch: int | None = None
    """Of the latency runs."""
    parameters: int | None = None
    gmacs: float | None = None
    """10⁹ multiply-accumulates of the convolutions for one input."""
    mbytes: float | None = None
    """10⁶ bytes that one input moves at least: weights once, each convolution's input and output once."""
    n_images: int | None = None
    """Pictures scored."""
    psnr_mean: float | None = None
    """dB, RGB, 8 bits, whole picture."""
    psnr_worst: float | None = None
    psnr_std: float | None = None
    """Standard deviation over pictures."""
    ssim_mean: float | None = None
    ssim_worst: float | None = None
    drop_mean: float | None = None
    """dB lost against the same network's FP32 engine, on the same pictures."""
    drop_worst: float | None = None
    drop_std: float | None = None
    perceptual_mean: float | None = None
    """Mean over ``n_perceptual`` pictures of the figure that ``machine.json`` names under "perceptual"."""
    latency_min_ms: float | None = None
    """Wall clock, array in to array out, for one batch."""
    latency_mean_ms: float | None = None
    latency_median_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_cv: float | None = None
    """Standard deviation over mean."""
    latency_n: int | None = None
    """Timed runs."""
    ratio_to_reference: float | None = None
    """Median latency over the reference engine's, both run in turns: below 1 is faster."""
    cold_start_s: float | None = None
    """From starting a fresh process to its first result."""
    peak_rss_mb: float | None = None
    """10⁶ bytes of resident memory at most, of the process that ran this engine alone."""
    device_mb: float | None = None
    """10⁶ bytes in use on the GPU after the runs, less what was in use before."""
    energy_j: float | None = None
    """Joules for one input."""
    gmacs_per_s: float | None = None
    roofline_compute: float | None = None
    """Time that the multiply-accumulates need at the machine's measured peak, over the measured median."""
    roofline_memory: float | None = None
    """Time that the bytes need at the machine's measured copy bandwidth, over the measured median; caches can lift it
    above 1."""
    note: str = ""
    """Why cells are empty, and what else is to be known; parts are separated by "; "."""
    device_latency_median_ms: float | None = None
    """Between two CUDA events; empty on a CPU."""
    n_perceptual: int | None = None
    """Pictures that ``perceptual_mean`` is of: the first of those scored."""
    machine: str = ""
    """In results that are kept: where it was measured."""


@dataclass(frozen=True)
class ImageRow:
    """One picture through one engine."""

    id: str
    """The engine's."""
    image: str
    psnr: float
    ssim: float
    drop: float | None = None
    """dB lost against the same network's FP32 engine."""


@dataclass(frozen=True)
class LatencyRow:
    """One timed run."""

    id: str
    round: int
    """From 0; between two rounds the reference engine ran."""
    ms: float


@dataclass(frozen=True)
class ThroughputRow:
    """How many inputs a second at one batch size."""

    id: str
    batch: int
    faces_per_s: float


@dataclass(frozen=True)
class SizeRow:
    """One photograph, restored from file to file, and its parts timed alone."""

    id: str
    """The engine's, or the model's name."""
    megapixels: float
    """Of the input."""
    scale: int
    wall_s: float
    """Of ``bfsr-edge restore`` once its network is loaded."""
    decode_s: float
    """Core-seconds: processor time where nothing else waits, else wall clock times threads."""
    network_s: float
    """Core-seconds of the network on as many tiles."""
    encode_s: float
    """Core-seconds of writing the result."""
    peak_rss_mb: float = 0.0
    """Of the whole restore process, in 10⁶ bytes; 0 where the system does not tell (not Linux)."""


@dataclass(frozen=True)
class LayerRow:
    """What one layer costs where it alone is quantized."""

    layer: str
    drop_db: float
    macs: float
    """Multiply-accumulates for one input."""


@dataclass(frozen=True)
class GalleryRow:
    """Four pictures, ``NN-input.png`` and the like."""

    n: int
    image: str
    id: str
    """The INT8 engine's."""
    psnr_fp32: float
    psnr_int8: float


TABLES: dict[str, type[Any]] = {
    "engines": EngineRow,
    "images": ImageRow,
    "latency": LatencyRow,
    "throughput": ThroughputRow,
    "sizes": SizeRow,
    "layers": LayerRow,
}
Row = TypeVar("Row")


@dataclass(frozen=True)
class Run:
    """Everything that was measured, and on what."""

    machine: dict[str, Any] = field(default_factory=dict)
    """What machine.json holds."""
    engines: tuple[EngineRow, ...] = ()
    images: tuple[ImageRow, ...] = ()
    latency: tuple[LatencyRow, ...] = ()
    throughput: tuple[ThroughputRow, ...] = ()
    sizes: tuple[SizeRow, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    gallery: tuple[GalleryRow, ...] = ()
    curves: dict[str, tuple[dict[str, str], ...]] = field(default_factory=dict)
    """Name of a training run to the rows of its log.csv."""

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Read a run folder; tables that are not there are empty.

        Raises
        ------
        UsageError
            It is no run folder, or one of its files is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir() or not (folder / "engines.csv").is_file():
            raise UsageError(
                f"{folder} is no folder of a benchmark run", fix="give the folder that bfsr-edge benchmark --out wrote"
            )
        curves = {path.stem: tuple(_dicts(path)) for path in sorted((folder / CURVES).glob("*.csv"))}
        return cls(
            machine=read_json(folder / MACHINE) if (folder / MACHINE).is_file() else {},
            gallery=tuple(read_table(folder / GALLERY / "gallery.csv", GalleryRow)),
            curves=curves,
            **{name: tuple(read_table(folder / f"{name}.csv", kind)) for name, kind in TABLES.items()},
        )


def read_table(path: Path, kind: type[Row]) -> list[Row]:
    """Rows of a CSV; none where there is no such file. Columns may stand in any order, unknown ones are left out.

    Raises
    ------
    UsageError
        A column that has no default is missing, or a cell is of the wrong type; the message names the line.
    """
    if not path.is_file():
        return []
    rows = []
    readers = _readers(kind)
    for number, cells in enumerate(_dicts(path), start=2):
        try:
            values = {name: readers[name](text) for name, text in cells.items() if name in readers}
            rows.append(kind(**values))
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{path}, line {number}: this is no row of that table",
                why=(str(error),),
                fix="the file was edited or cut off: remove the line, or measure again into another --out",
            ) from error
    return rows


def write_table(path: Path, rows: Sequence[Any], kind: type[Any]) -> None:
    """A CSV with all of a table's columns, whole or not at all."""
    replace(path, _text([columns(kind), *(cells(row) for row in rows)]).encode())


def append(path: Path, rows: Sequence[Any]) -> None:
    """Add rows of one kind at a CSV's end in one write; a new file begins with its columns."""
    if not rows:
        return
    lines = [cells(row) for row in rows]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines.insert(0, columns(type(rows[0])))
    with files.writing(path), open(path, "ab") as file:
        file.write(_text(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def columns(kind: type[Any]) -> list[str]:
    """Of a table, in order."""
    return [entry.name for entry in dataclasses.fields(kind)]


def cells(row: Any) -> list[str]:
    """A row as text: floats with six digits, nothing for what was not measured."""
    return [_cell(getattr(row, name)) for name in columns(type(row))]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; UsageError where the file holds none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON", why=(str(error),)) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    replace(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; BfsrError where the folder cannot be written to."""
    with files.writing(path):
        files.replace(path, content)


def _dicts(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV", why=(str(error),)) from error
    return [{key: value for key, value in row.items() if isinstance(key, str)} for row in rows]


def _text(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _readers(kind: type[Any]) -> dict[str, Any]:
    """Column to a function from its text to its value."""
    hints = typing.get_type_hints(kind)
    return {name: _reader(name, hints[name]) for name in columns(kind)}


def _reader(name: str, hint: Any) -> Any:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    optional = type(None) in parts
    (convert,) = [part for part in parts if part is not type(None)]

    def read(text: str) -> Any:
        if text == "" and convert is not str:
            if optional:
                return None
            raise ValueError(f"{name} is empty")
        try:
            return convert(text)
        except ValueError as error:
            raise ValueError(f"{name}: {text!r} is no {convert.__name__}") from error

    return read
