"""Joules, where the machine tells them: Jetson's INA3221 and INA238, NVML, RAPL. Nothing here needs root to be tried.

Counters of energy are read before and after; sensors of power are read every tenth of a second in a thread and summed
over time. They count the whole board, GPU or package: what else runs there is in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bfsr_edge.runtime.machine import read_text

HWMON = Path("/sys/class/hwmon")
POWERCAP = Path("/sys/class/powercap")
BOARD_CHIPS = ("ina3221", "ina238", "ina226", "ina2xx")
TOTAL_RAILS = ("VDD_IN", "VIN_SYS_5V0", "VDD_TOTAL", "SYS_VIN", "VIN")
"""Names of the rail that feeds the whole board, on one Jetson or another."""
SAMPLING = 0.1
MICRO, MILLI = 1e-6, 1e-3


@dataclass(frozen=True)
class Source:
    """Something that tells energy or power."""

    name: str
    """For the report: what is counted, and by what."""
    joules: Callable[[], float] | None = None
    """An energy counter's value, which only grows."""
    watts: Callable[[], float] | None = None
    """The power now."""


class Meter:
    """Energy between ``with`` and its end, in ``joules``; ``None`` where it could not be read.

    >>> with Meter(find("cpu")) as meter:
    ...     work()
    >>> meter.joules
    """

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self.joules: float | None = None
        self._before = 0.0
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Meter:
        source = self._source
        if source is None:
            return self
        try:
            if source.joules is not None:
                self._before = source.joules()
            elif source.watts is not None:
                self._sample()
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()
        except (OSError, ValueError):
            self._source = None
        return self

    def __exit__(self, *_: object) -> None:
        source = self._source
        if source is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if source.joules is not None:
                self.joules = source.joules() - self._before
            elif source.watts is not None and self._thread is not None:
                self._stop.set()
                self._thread.join()
                self._sample()
                pairs = zip(self._samples, self._samples[1:], strict=False)
                self.joules = sum((b - a) * (p + q) / 2 for (a, p), (b, q) in pairs)

    def _watch(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while not self._stop.wait(SAMPLING):
                self._sample()

    def _sample(self) -> None:
        assert self._source is not None
        assert self._source.watts is not None
        self._samples.append((time.perf_counter(), self._source.watts()))


def find(device: str, *, hwmon: Path = HWMON, powercap: Path = POWERCAP) -> Source | None:
    """What tells the energy of work on "cpu" or "cuda:N" here; ``None`` where nothing does.

    A board's own sensor comes first: it counts CPU, GPU and memory of a Jetson together.
    """
    board = _board(hwmon)
    if board is not None:
        return board
    return _nvml(int(device.partition(":")[2] or 0)) if device.startswith("cuda") else _rapl(powercap)


def _board(hwmon: Path) -> Source | None:
    """The rail that feeds the board; else all rails of the chip together."""
    for chip in sorted(hwmon.glob("hwmon*")):
        name = read_text(chip / "name")
        if not any(known in name for known in BOARD_CHIPS):
            continue
        rails = {}
        for voltage in sorted(chip.glob("in*_input")):
            number = voltage.name[2:-6]
            if _number(chip / f"curr{number}_input") is not None:
                rails[read_text(chip / f"in{number}_label") or number] = number
        total = next((rails[rail] for rail in TOTAL_RAILS if rail in rails), None)
        power = chip / "power1_input"
        if total is None and _number(power) is not None:

            def alone(power: Path = power) -> float:
                return float(power.read_text()) * MICRO

            return Source(f"board, {name}", watts=alone)
        numbers = [total] if total is not None else list(rails.values())
        if numbers:
            rail = next((label for label, number in rails.items() if number == total), "all rails")

            def watts(chip: Path = chip, numbers: list[str] = numbers) -> float:
                # millivolts times milliamperes
                return sum(
                    float((chip / f"in{n}_input").read_text()) * float((chip / f"curr{n}_input").read_text()) * MICRO
                    for n in numbers
                )

            return Source(f"board, {name} {rail}", watts=watts)
    return None


def _rapl(powercap: Path) -> Source | None:
    """The sum of all packages; since Linux 5.10 only root may read it, unless the system says otherwise."""
    packages = [
        zone for zone in sorted(powercap.glob("intel-rapl:*")) if read_text(zone / "name").startswith("package")
    ]  # fmt: skip
    counters = [zone / "energy_uj" for zone in packages if _number(zone / "energy_uj") is not None]
    if not counters:
        return None
    ranges = [_number(counter.with_name("max_energy_range_uj")) or 0.0 for counter in counters]
    last, begun = [0.0] * len(counters), [0.0] * len(counters)

    def joules() -> float:
        for index, counter in enumerate(counters):
            value = float(counter.read_text())
            if value < last[index]:  # each begins again at 0 by itself
                begun[index] += ranges[index]
            last[index] = value
        return (sum(last) + sum(begun)) * MICRO

    return Source(f"CPU package, RAPL ({len(counters)})", joules=joules)


def _nvml(index: int) -> Source | None:
    """The GPU's own counter, of all Volta and later ones."""
    try:
        library: Any = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    handle, value = ctypes.c_void_p(), ctypes.c_ulonglong()
    try:
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
            return None
        if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)):
            return None
    except AttributeError:  # a library of that name that is none
        return None

    def joules() -> float:
        if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)):
            raise OSError("NVML no longer tells the energy")
        return value.value * MILLI

    return Source(f"GPU {index}, NVML", joules=joules)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
