"""The run: one engine after the other, each beside the reference, every result on the disk before the next begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from bfsr_edge import images
from bfsr_edge.benchmarks import costs, energy, results, rooflines, stats
from bfsr_edge.benchmarks.client import Client
from bfsr_edge.benchmarks.costs import Costs
from bfsr_edge.benchmarks.pictures import Pictures
from bfsr_edge.benchmarks.prepare import REFERENCE
from bfsr_edge.benchmarks.results import EngineRow, GalleryRow, ImageRow, LatencyRow, ThroughputRow
from bfsr_edge.benchmarks.rooflines import Peaks
from bfsr_edge.benchmarks.subjects import Subject
from bfsr_edge.benchmarks.suite import Suite
from bfsr_edge.benchmarks.worker import SLOW
from bfsr_edge.errors import BackendError, BfsrError
from bfsr_edge.pairs import read_rgb

LONGEST_BATCH = 5.0
"""Seconds that one batch may take when throughput is measured."""
AMPLIFIED = 8


class Progress(Protocol):
    """Called with what is being done, and how much of it."""

    def __call__(self, what: str, done: int, total: int, /) -> None: ...


@dataclass(frozen=True)
class Bench:
    """What stays the same over a run."""

    suite: Suite
    folder: Path
    """The run folder."""
    work: Path
    """For files that are needed while it runs."""
    pictures: Pictures
    threads: int
    peaks: Peaks
    say: Callable[[str], None]
    progress: Progress


@dataclass
class Timed:
    """An engine's runs."""

    rounds: list[tuple[list[float], list[float]]] = dataclasses.field(default_factory=list)
    """For each, the reference's milliseconds and the engine's."""
    device_ms: list[float] = dataclasses.field(default_factory=list)
    joules: float | None = None
    """Of one run."""

    @property
    def all(self) -> list[float]:
        """The engine's runs of all rounds."""
        return [ms for _, engine in self.rounds for ms in engine]


class References:
    """FP32 engines that stay loaded: the one that all ratios refer to, and for the gallery each network's own."""

    def __init__(self, bench: Bench, subjects: list[Subject]) -> None:
        self._bench = bench
        self._subjects = {subject.id: subject for subject in subjects}
        self._open: dict[str, Client] = {}
        self.first = REFERENCE
        """The id that ratios refer to."""

    def get(self, identity: str) -> Client | None:
        """That engine, loaded and warm; ``None`` where it cannot be loaded."""
        if identity not in self._open:
            subject = self._subjects.get(identity)
            if subject is None or subject.missing:
                return None
            for other in [name for name in self._open if name != self.first]:
                self._open.pop(other).close()  # of networks that are done: they only take memory
            suite = self._bench.suite
            try:
                client = Client(subject, suite.tile, self._bench.threads)
                client.ask("warm", seconds=suite.warm_seconds, runs=suite.warm_runs)
            except BackendError:
                return None
            self._open[identity] = client
        return self._open[identity]

    def __enter__(self) -> References:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._open.values():
            client.close()
        self._open.clear()


def run(bench: Bench, subjects: list[Subject]) -> list[EngineRow]:
    """Measure what engines.csv does not hold yet; the rows of all.

    Rows of an engine are written in one go when it is done, its row in engines.csv last: what stands there is complete.
    An engine that cannot be loaded gets a row that says why, and the others go on.
    """
    done = _resume(bench.folder)
    rows = dict(done)
    with References(bench, subjects) as references:
        for number, subject in enumerate(subjects, start=1):
            if subject.id in done:
                continue
            bench.say(f"[{number}/{len(subjects)}] {subject.id}")
            row = _one(bench, subject, references)
            results.append(bench.folder / "engines.csv", [row])
            rows[row.id] = row
            bench.say(f"    {line(row)}")
    return [rows[subject.id] for subject in subjects if subject.id in rows]


def line(row: EngineRow) -> str:
    """What is worth a look while it runs."""
    told = []
    if row.latency_median_ms is not None:
        told.append(f"{row.latency_median_ms:.2f} ms median of {row.latency_n}")
    if row.ratio_to_reference is not None:
        told.append(f"{row.ratio_to_reference:.3g} of the reference's time")
    if row.psnr_mean is not None:
        told.append(f"{row.psnr_mean:.3f} dB over {row.n_images}")
    if row.drop_mean is not None:
        told.append(f"drop {row.drop_mean:.4f}")
    if row.note:
        told.append(row.note)
    return ", ".join(told) or "nothing was measured"


def warnings(rows: list[EngineRow], advice: str) -> list[str]:
    """Engines whose runs varied too much, and what helps: a command for the user, who alone may run it."""
    restless = [
        f"{row.id} ({row.latency_cv:.1%})"
        for row in rows
        if row.latency_cv is not None and row.latency_cv > stats.VARIATION
    ]
    if not restless:
        return []
    return [
        f"latency varied by more than {stats.VARIATION:.0%}: {', '.join(restless)}. "
        f"For steadier numbers lock the clocks and measure again: {advice}"
    ]


def _resume(folder: Path) -> dict[str, EngineRow]:
    """Engines that an earlier, interrupted run finished; what it left of unfinished ones is removed."""
    found = {row.id: row for row in results.read_table(folder / "engines.csv", EngineRow)}
    tables: dict[str, type[Any]] = {"images": ImageRow, "latency": LatencyRow, "throughput": ThroughputRow}
    for name, kind in tables.items():
        path = folder / f"{name}.csv"
        rows = results.read_table(path, kind)
        kept = [row for row in rows if row.id in found]
        if len(kept) < len(rows):
            results.write_table(path, kept, kind)
    return found


def _one(bench: Bench, subject: Subject, references: References) -> EngineRow:
    blank = EngineRow(subject.id, subject.kind, subject.network, note=subject.note)
    if subject.missing:
        return dataclasses.replace(blank, note=_notes(subject.note, subject.missing))
    try:
        spent, cost_note = _costs(subject, bench.suite.tile)
        with Client(subject, bench.suite.tile, bench.threads) as client:
            return _measured(bench, subject, client, references, spent, cost_note)
    except BfsrError as error:
        return dataclasses.replace(blank, note=_notes(subject.note, "; ".join((error.what, *error.why))))


def _measured(
    bench: Bench, subject: Subject, client: Client, references: References, spent: Costs | None, cost_note: str
) -> EngineRow:
    suite = bench.suite
    opened = client.opened
    warm = client.ask("warm", seconds=suite.warm_seconds, runs=suite.warm_runs)
    slow = warm["seconds"] >= SLOW
    reference = references.get(references.first) if references.first != subject.id else None
    pairs = bench.pictures.pairs if subject.scored else ()
    if slow:
        pairs = pairs[: suite.slow_faces]
    timed, first = (
        _time_slowly(bench, client, reference, subject, len(pairs))
        if slow
        else (_time(bench, client, reference, subject), [])
    )
    scores = [*first, *_score(bench, client, subject, range(len(first), len(pairs)))]
    latency = stats.latency(timed.all)
    throughput = _throughput(bench, client, subject, latency.median / 1000)

    scored = [ImageRow(subject.id, pair.name, s["psnr"], s["ssim"]) for pair, s in zip(pairs, scores, strict=True)]
    scored = _with_drops(bench.folder, subject, scored)
    notes = [subject.note, cost_note]
    if slow:
        notes.append(f"slower than a second: {latency.n} runs" + (f", {len(scored)} faces" if scored else ""))
    if reference is None and references.first != subject.id:
        notes.append(f"no ratio: {references.first} cannot be loaded")
    if latency.variation > stats.VARIATION:
        notes.append(f"latency varies by {latency.variation:.1%}")
    drops = [row.drop for row in scored if row.drop is not None]
    if scored and subject.fp32 and not drops:
        notes.append(f"no PSNR drop: {subject.fp32} was not scored on these pictures")
    # the peaks are the CPU's: they say nothing of what runs on a GPU
    compute, memory = (
        rooflines.share(spent, bench.peaks, opened["precision"], latency.median / 1000)
        if spent is not None and opened["device"] == "cpu"
        else (None, None)
    )
    moved = spent.moved(opened["precision"]) if spent else None
    looks = [score["perceptual"] for score in scores if score["perceptual"] is not None]
    values: dict[str, Any] = {}
    if scored:
        values["psnr_mean"], values["psnr_worst"], values["psnr_std"] = stats.mean_worst_std([r.psnr for r in scored])
        values["ssim_mean"], values["ssim_worst"], _ = stats.mean_worst_std([r.ssim for r in scored])
    if drops:
        values["drop_mean"], values["drop_worst"], values["drop_std"] = stats.mean_worst_std(drops, "max")
    row = EngineRow(
        id=subject.id,
        kind=subject.kind,
        network=subject.network,
        precision=opened["precision"],
        backend=opened["backend"],
        backend_version=opened["backend_version"],
        device=opened["device"],
        threads=bench.threads if opened["device"] == "cpu" else None,
        tile=f"{suite.tile}x{suite.tile}",
        batch=1,
        parameters=spent.parameters if spent else None,
        gmacs=spent.macs / 1e9 if spent else None,
        mbytes=moved / 1e6 if moved else None,
        n_images=len(scored) or None,
        perceptual_mean=math.fsum(looks) / len(looks) if looks else None,
        latency_min_ms=latency.minimum,
        latency_mean_ms=latency.mean,
        latency_median_ms=latency.median,
        latency_p90_ms=latency.p90,
        latency_p95_ms=latency.p95,
        latency_p99_ms=latency.p99,
        latency_cv=latency.variation,
        latency_n=latency.n,
        ratio_to_reference=1.0 if references.first == subject.id else stats.ratio(timed.rounds),
        cold_start_s=client.cold_start,
        peak_rss_mb=warm["peak_rss"],
        device_mb=opened["device_mb"],
        energy_j=timed.joules,
        gmacs_per_s=spent.macs / 1e9 / (latency.median / 1000) if spent and spent.macs else None,
        roofline_compute=compute,
        roofline_memory=memory,
        note=_notes(*notes),
        device_latency_median_ms=float(np.median(timed.device_ms)) if timed.device_ms else None,
        n_perceptual=len(looks) or None,
        **values,
    )
    _gallery(bench, subject, client, references, scored, opened["precision"])
    results.append(bench.folder / "images.csv", scored)
    results.append(
        bench.folder / "latency.csv",
        [LatencyRow(subject.id, turn, ms) for turn, (_, times) in enumerate(timed.rounds) for ms in times],
    )
    results.append(bench.folder / "throughput.csv", throughput)
    return row


# ---- latency


def _time(bench: Bench, client: Client, reference: Client | None, subject: Subject) -> Timed:
    """In turns with the reference, until there are enough runs or seconds."""
    suite = bench.suite
    seconds, runs = suite.seconds / suite.rounds, math.ceil(suite.runs / suite.rounds)
    timed = Timed()
    joules, counted, spent = 0.0, 0, 0.0
    source = energy.find(client.opened["device"])
    while len(timed.all) < suite.runs and spent < suite.seconds:
        bench.progress(f"{subject.id}: latency", min(len(timed.rounds), suite.rounds), suite.rounds)
        theirs = reference.ask("time", seconds=seconds, runs=runs, wake=2)["ms"] if reference else []
        with energy.Meter(source) as meter:
            answer = client.ask("time", seconds=seconds, runs=runs, wake=2)
        timed.rounds.append((theirs, answer["ms"]))
        timed.device_ms += answer["device_ms"]
        spent += sum(answer["ms"]) / 1000
        if meter.joules is not None:
            joules, counted = joules + meter.joules, counted + answer["runs"]
    timed.joules = joules / counted if counted else None
    return timed


def _time_slowly(
    bench: Bench, client: Client, reference: Client | None, subject: Subject, faces: int
) -> tuple[Timed, list[dict[str, Any]]]:
    """A few runs, which are pictures to be scored where there are any: nothing slow is run twice.

    But where energy is measured: scoring would be counted with the work.
    """
    suite = bench.suite
    timed, scores = Timed(), []
    joules: list[float] = []
    source = energy.find(client.opened["device"])
    for number in range(suite.slow_runs):
        bench.progress(f"{subject.id}: latency", number, suite.slow_runs)
        theirs = (
            reference.ask("time", seconds=suite.seconds / suite.rounds, runs=suite.runs, wake=2)["ms"]
            if reference
            else []
        )
        with energy.Meter(source) as meter:
            if number < faces and source is None:
                scores += _score(bench, client, subject, range(number, number + 1))
                ours = [scores[-1]["ms"]]
            else:
                ours = client.ask("time", seconds=0.0, runs=1, wake=0)["ms"]
        timed.rounds.append((theirs, ours))
        if meter.joules is not None:
            joules.append(meter.joules)
    timed.joules = math.fsum(joules) / len(joules) if joules else None
    return timed, scores


def _throughput(bench: Bench, client: Client, subject: Subject, median: float) -> list[ThroughputRow]:
    """Inputs a second for each batch size that does not take too long; ``median`` is seconds for one."""
    rows = []
    for batch in bench.suite.batches:
        if batch > 1 and not client.opened["batches"]:
            continue
        bench.progress(f"{subject.id}: throughput", bench.suite.batches.index(batch), len(bench.suite.batches))
        if median >= SLOW:
            if batch == 1:
                rows.append(ThroughputRow(subject.id, 1, 1 / median))
            continue
        if batch * median > LONGEST_BATCH:
            break
        try:
            times = client.ask("time", seconds=bench.suite.throughput_seconds, runs=10**6, batch=batch, least=2)["ms"]
        except BackendError:
            break  # the batch does not fit: what was measured stands
        rows.append(ThroughputRow(subject.id, batch, 1000 * batch * len(times) / math.fsum(times)))
    return rows


# ---- accuracy


def _score(bench: Bench, client: Client, subject: Subject, numbers: range) -> list[dict[str, Any]]:
    """Scores of some of the pictures."""
    scores = []
    most = bench.suite.looks or len(bench.pictures.pairs)
    for number in numbers:
        bench.progress(f"{subject.id}: pictures", number, numbers.stop)
        pair = bench.pictures.pairs[number]
        scores.append(client.ask("face", lq=str(pair.lq), gt=str(pair.gt), look=number < most))
    return scores


def _with_drops(folder: Path, subject: Subject, rows: list[ImageRow]) -> list[ImageRow]:
    """The rows with what they lose against the network's FP32 engine, where that was scored on the same picture."""
    if not subject.fp32:
        return rows
    known = {
        row.image: row.psnr for row in results.read_table(folder / "images.csv", ImageRow) if row.id == subject.fp32
    }
    return [
        dataclasses.replace(row, drop=known[row.image] - row.psnr) if row.image in known else row for row in rows
    ]  # fmt: skip


def _gallery(
    bench: Bench, subject: Subject, client: Client, references: References, scored: list[ImageRow], precision: str
) -> None:
    """The pictures that lose most by INT8: input, FP32, INT8 and eight times the difference, around grey."""
    on_its_own = any(name in subject.id for name in ("openvino", "tensorrt"))
    ranked = sorted((row for row in scored if row.drop is not None), key=lambda row: -(row.drop or 0.0))
    ranked = ranked[: bench.suite.gallery]
    fp32 = references.get(subject.fp32) if ranked and "int8" in precision and on_its_own else None
    if fp32 is None:
        return
    folder = bench.folder / results.GALLERY
    table = results.read_table(folder / "gallery.csv", GalleryRow)
    table = [row for row in table if row.id != subject.id]
    pairs = {pair.name: pair for pair in bench.pictures.pairs}
    for done, row in enumerate(ranked):
        bench.progress(f"{subject.id}: gallery", done, len(ranked))
        pair, number = pairs[row.image], 1 + max((old.n for old in table), default=0)
        kept = []
        for name, each in (("fp32", fp32), ("int8", client)):
            path = bench.work / f"{name}.npy"
            each.ask("face", lq=str(pair.lq), gt=str(pair.gt), keep=str(path))
            kept.append(np.load(path).astype(np.int16))
            path.unlink()
        difference = np.clip(128 + AMPLIFIED * (kept[1] - kept[0]), 0, 255).astype(np.uint8)
        pictures = {"input": read_rgb(pair.lq), "fp32": kept[0], "int8": kept[1], "diff8": difference}
        for name, pixels in pictures.items():
            images.write(folder / f"{number:02}-{name}.png", np.ascontiguousarray(pixels, np.uint8))
        table.append(GalleryRow(number, row.image, subject.id, row.psnr + (row.drop or 0.0), row.psnr))
        # one picture after the other, so that the table never names one that is not there
        results.write_table(folder / "gallery.csv", table, GalleryRow)


# ---- the rest


def _costs(subject: Subject, tile: int) -> tuple[Costs | None, str]:
    """What one input costs, or why that is not known."""
    if not subject.costs:
        return None, ""
    path = Path(subject.costs)
    try:
        return (costs.of_ncnn(path, tile) if path.suffix == ".param" else costs.of_onnx(path, tile)), ""
    except BfsrError as error:
        return None, f"costs not known: {error.what}"


def _notes(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
