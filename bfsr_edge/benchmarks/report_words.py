"""What the report says in words: the headline, the facts of the machine, the caveats. The run holds all of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bfsr_edge.benchmarks.report_data import NAMES, View, milliseconds, significant
from bfsr_edge.benchmarks.results import EngineRow

FEW_RUNS = 20
RESTLESS = 0.02
"""Coefficient of variation above which a latency is called unsteady."""
FACTS = {
    "date": "date, UTC",
    "cpu": "CPU",
    "gpu": "GPU",
    "memory": "memory",
    "jetson": "Jetson",
    "system": "system",
    "bfsr-edge": "bfsr-edge",
    "python": "Python",
    "versions": "libraries",
    "threads": "threads",
    "pairs": "pictures",
    "energy": "energy",
    "suite": "suite",
    "command": "command",
}
"""Keys of machine.json that stand at the top, and what they are called there."""
SPEAKS = ("name", "kind", "version", "none")
"""Keys whose value says enough without them."""
UNSAID = ("available", "swap")
"""Keys that say too little for the top."""


@dataclass(frozen=True)
class Tile:
    """One number in large type."""

    value: str
    """The number."""
    unit: str
    """Its unit, or an empty text."""
    text: str
    """What it is."""
    main: bool = False
    """Whether it is about our engine itself."""


def _part(machine: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = machine.get(key)
    return value if isinstance(value, Mapping) else {}


def fact(value: Any) -> str:
    """What machine.json says, in one line: lists and nested objects too; empty parts are left out."""
    if isinstance(value, Mapping):
        parts = ((key, fact(part)) for key, part in value.items())
        return ", ".join(f"{key} {part}" for key, part in parts if part)
    if isinstance(value, (list, tuple)):
        return ", ".join(text for part in value if (text := fact(part)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    return significant(value, 4) if isinstance(value, float) else str(value)


def machine_name(machine: Mapping[str, Any]) -> str:
    """The GPU where there is one, and the processor."""
    gpu, cpu = _part(machine, "gpu"), _part(machine, "cpu")
    named = [str(value).split(", SM ")[0] for key, value in gpu.items() if key.startswith("cuda:")]
    named.append(str(cpu.get("name", "")))
    return " + ".join(filter(None, named)) or str(machine.get("name") or "A machine that was not described")


def top_facts(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What belongs at the top of the page; what is empty is left out."""
    found = []
    for key, told in FACTS.items():
        value = machine.get(key)
        if isinstance(value, Mapping):
            hidden = (*UNSAID, "name") if key == "cpu" else UNSAID  # the page's title names the processor
            plain = [part for name, part in value.items() if name in SPEAKS and name not in hidden]
            value = [*plain, {name: part for name, part in value.items() if name not in (*SPEAKS, *hidden)}]
        if text := fact(value):
            found.append((told, text.removesuffix("+00:00").replace("T", " ") if key == "date" else text))
    if text := peaks(machine):
        found.insert(len(found) - 1, ("measured peaks", text))
    return found


def peaks(machine: Mapping[str, Any]) -> str:
    """What the machine can do at most, as this run measured it."""
    measured = _part(machine, "peaks")
    rates = [f"{name.upper()} {rate / 1e9:,.0f} GMAC/s" for name, rate in _part(measured, "macs").items()]
    copy = measured.get("copy")
    return ", ".join([*rates, *([f"copy {copy / 1e9:.1f} GB/s"] if copy else [])])


def all_facts(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything, key by key."""
    return [(key, fact(value) or "not known") for key, value in machine.items()]


def headline(view: View) -> tuple[str, list[Tile]]:
    """A sentence and numbers: what the default engine does here, and how much longer the peers take."""
    ours = view.default
    if ours is None or ours.latency_median_ms is None or ours.psnr_mean is None:
        return "No engine of ours was both timed and scored in this run.", []
    ran = f"{backend(ours)}, {ours.precision.upper()} executed, {where(ours)}"
    sentence = (
        f"The fastest engine of {ours.network} in this run, {view.label(ours.id)} on {ran}: one face{size(ours)}, "
        f"mean over {ours.n_images or 'an unknown number of'} pictures, median of "
        f"{ours.latency_n or 'an unknown number of'} runs."
    )
    value, unit = milliseconds(ours.latency_median_ms).split()
    tiles = [
        Tile(f"{ours.psnr_mean:.2f}", "dB", "mean RGB PSNR" + lost(ours), main=True),
        Tile(value, unit, "median latency of one face", main=True),
    ]
    peers = [
        (engine, times) for engine in view.engines if engine.kind == "peer" and (times := view.times_faster(engine))
    ]
    for engine, times in sorted(peers, key=lambda item: item[1]):
        word = "faster than" if times >= 1 else "the speed of"
        tiles.append(Tile(f"{count(times)}×", "", f"{word} {view.label(engine.id)}{gain(view, engine)}"))
    return sentence, tiles


def backend(engine: EngineRow) -> str:
    """Its name and version."""
    return f"{NAMES.get(engine.backend, engine.backend)} {engine.backend_version}".strip()


def where(engine: EngineRow) -> str:
    """Device and threads."""
    threads = f", {engine.threads} thread{'s' if engine.threads > 1 else ''}" if engine.threads else ""
    return f"{engine.device.upper() if engine.device == 'cpu' else engine.device}{threads}"


def size(engine: EngineRow) -> str:
    """Of the input, where it is known."""
    return f" of {engine.tile.replace('x', '×')} pixels" if engine.tile else ""


def lost(engine: EngineRow) -> str:
    """What an engine loses against FP32, where that was measured."""
    if engine.drop_mean is None:
        return ""
    worst = f", {engine.drop_worst:.4f} at worst" if engine.drop_worst is not None else ""
    return f"; {engine.drop_mean:.4f} dB below FP32 in the mean{worst}"


def gain(view: View, other: EngineRow) -> str:
    """How much higher our PSNR is, on the pictures that both were scored on."""
    scores = {(row.id, row.image): row.psnr for row in view.images}
    gains = [
        scores[view.default_id, image] - score
        for (name, image), score in scores.items()
        if name == other.id and (view.default_id, image) in scores
    ]
    return f", {statistics.fmean(gains):+.2f} dB on the same {len(gains)} pictures" if gains else ""


def count(times: float) -> str:
    """A factor with two or three digits."""
    return f"{times:,.0f}" if times >= 100 else significant(times, 2)


def caveats(view: View) -> list[str]:
    """What a reader has to know before quoting a number."""
    told = ["Times are of this machine, as busy as it was. Ratios come from runs in turns (A B A B) and carry further."]
    scored = [engine for engine in view.engines if engine.n_images]
    if scored and (fewer := [e for e in scored if (e.n_images or 0) < max(e.n_images or 0 for e in scored)]):
        names = ", ".join(f"{view.label(e.id)} ({e.n_images})" for e in fewer)
        told.append(f"Scored on fewer pictures than the others, so that means are not of the same pictures: {names}.")
    if few := [e for e in view.engines if e.latency_n is not None and e.latency_n < FEW_RUNS]:
        names = ", ".join(f"{view.label(e.id)} ({e.latency_n})" for e in few)
        told.append(f"Timed fewer than {FEW_RUNS} times, so that their percentiles say little: {names}.")
    warnings = view.machine.get("warnings")
    told += [fact(warning) for warning in warnings or ()]
    restless = [e for e in view.engines if e.latency_cv is not None and e.latency_cv > RESTLESS]
    if restless and warnings is None:  # a run that came to its end has said so itself
        names = ", ".join(f"{view.label(e.id)} ({e.latency_cv:.1%})" for e in restless)
        told.append(f"Latency varied by more than {RESTLESS:.0%} (standard deviation over mean): {names}.")
    ran = {engine.backend for engine in view.engines if engine.latency_median_ms is not None}
    if not any(name.startswith("tensorrt") for name in ran):
        told.append("TensorRT: not run here.")
    if not view.machine.get("jetson"):
        told.append("Jetson: not run here.")
    if not any(engine.perceptual_mean is not None for engine in view.engines):
        told.append("Perceptual figure: not measured.")
    elif named := fact(view.machine.get("perceptual")):
        told.append(f"Perceptual figure: {named}.")
    if not view.machine.get("finished"):
        told.insert(0, "This run is not complete: it was interrupted, or is still going on.")
    return told
