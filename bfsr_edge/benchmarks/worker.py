"""One engine in a process of its own, told what to do by lines of JSON: ``python -m bfsr_edge.benchmarks.worker``.

A process each, because memory, threads and a cold start then belong to one engine alone, because a library that crashes
takes nothing along, and because OpenVINO 2026.4 does not bear two models in one thread that are freed oldest first.
Engines are compared by giving turns to processes; one that waits for its turn does nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bfsr_edge.benchmarks.subjects import Batch, Runner, Subject, open_subject
from bfsr_edge.errors import BfsrError

if TYPE_CHECKING:
    from bfsr_edge.runtime import cuda

SLOW = 1.0
"""Seconds a run takes from which on an engine is measured with few runs."""
STATUS = Path("/proc/self/status")


def peak_rss() -> float | None:
    """The most memory that this process had resident, in 10⁶ bytes; ``None`` where the system does not tell.

    Not from getrusage: there a process counts what its parent had when it was started.
    """
    try:
        for line in STATUS.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        pass
    return None


class Worker:
    """Answers one request at a time; each method is a request, its arguments and answer are JSON."""

    def __init__(self) -> None:
        self.subject = Subject("", "", "")
        self.runner: Runner | None = None
        self.tile = 0
        self.device_clock: DeviceClock | None = None

    def open(self, subject: dict[str, Any], tile: int, threads: int) -> dict[str, Any]:
        """Load and run once."""
        self.subject, self.tile = Subject(**subject), tile
        before = device_used(self.subject.device)
        self.runner = open_subject(self.subject, tile, threads)
        self._run(self._batch(1))
        after = device_used(self.runner.device)
        self.device_clock = device_clock(self.runner)
        info = {name: getattr(self.runner, name) for name in ("backend", "backend_version", "precision", "device")}
        return {
            **info,
            "batches": self.runner.batches,
            "peak_rss": peak_rss(),
            "device_mb": after - before if before is not None and after is not None else None,
        }

    def warm(self, seconds: float, runs: int) -> dict[str, Any]:
        """Run until both are reached; where runs take a second, once or (below three seconds) twice.

        The answer's ``seconds`` are of the fastest run: a machine that is busy for a moment makes no engine slow.
        """
        batch = self._batch(1)
        started = time.perf_counter()
        times: list[float] = []
        while len(times) < runs or time.perf_counter() - started < seconds:
            before = time.perf_counter()
            self._run(batch)
            times.append(time.perf_counter() - before)
            if min(times) >= SLOW and (len(times) > 1 or times[0] >= 3 * SLOW):
                break
        return {"runs": len(times), "seconds": min(times), "peak_rss": peak_rss()}

    def time(self, seconds: float, runs: int, batch: int = 1, least: int = 1, wake: int = 1) -> dict[str, Any]:
        """Milliseconds of runs, until either is reached; ``wake`` untimed runs come first."""
        inputs = self._batch(batch)
        for _ in range(wake):
            self._run(inputs)
        times: list[float] = []
        device: list[float] = []
        started = time.perf_counter()
        while len(times) < least or (len(times) < runs and time.perf_counter() - started < seconds):
            before = time.perf_counter()
            self._run(inputs)
            times.append(1000 * (time.perf_counter() - before))
            if self.device_clock is not None:
                device.append(self.device_clock.milliseconds())
        return {"ms": times, "device_ms": device, "runs": len(times) + wake}

    def face(self, lq: str, gt: str, keep: str = "", look: bool = False) -> dict[str, Any]:
        """Run one picture and score it against the truth.

        ``keep`` is where its result goes, an .npy file; ``look`` asks for the perceptual figure, which takes a second.
        """
        from bfsr_edge.metrics import psnr, ssim, to_8bit
        from bfsr_edge.pairs import read_rgb

        low, truth = read_rgb(Path(lq)), read_rgb(Path(gt))
        batch = np.ascontiguousarray(low.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        before = time.perf_counter()
        result = self._run(batch)
        took = 1000 * (time.perf_counter() - before)
        pixels = to_8bit(result[0].transpose(1, 2, 0))
        if keep:
            np.save(keep, pixels)
        from bfsr_edge.benchmarks import perceptual

        # an infinite PSNR is no JSON; equal pictures count as 100 dB, which no lossy result reaches
        decibel = min(psnr(pixels, truth), 100.0)
        looks = perceptual.score(pixels, truth) if look else None
        return {"ms": took, "psnr": decibel, "ssim": ssim(pixels, truth), "perceptual": looks}

    def photograph(self, photograph: str, result: str, scale: int, threads: int, most_tiles: int) -> dict[str, Any]:
        """The parts of restoring a photograph, each alone."""
        from bfsr_edge.benchmarks import photographs

        assert self.runner is not None
        return photographs.parts(self.runner, photograph, result, scale, threads, most_tiles)

    def roofline(self, threads: int, seconds: float) -> dict[str, Any]:
        """What this machine can do at most."""
        import dataclasses

        from bfsr_edge.benchmarks import rooflines

        return dataclasses.asdict(rooflines.measure(threads, seconds))

    def _batch(self, count: int) -> Batch:
        """Smooth noise: a picture's values without a picture."""
        from bfsr_edge.selftest import pictures

        return pictures(count, self.tile, self.tile)

    def _run(self, batch: Batch) -> Batch:
        assert self.runner is not None
        return self.runner.run(batch)


# ---- GPUs


class DeviceClock:
    """Time between two CUDA events around the network's work in its own stream, copies left out."""

    def __init__(self, milliseconds: Callable[[], float]) -> None:
        self.milliseconds = milliseconds


def device_clock(runner: Runner) -> DeviceClock | None:
    """For an engine of TensorRT; ``None`` for all else."""
    engine: Any = runner.engine
    if engine is None or not runner.backend.startswith("tensorrt"):
        return None
    gpu: cuda.Cuda = engine._gpu
    with gpu.active():
        first, last = gpu.event(timing=True), gpu.event(timing=True)
    execute = engine._execute

    def timed(slot: Any, count: int) -> None:
        gpu.record(first, engine._compute)
        execute(slot, count)
        gpu.record(last, engine._compute)

    engine._execute = timed  # where the engine puts the network, and nothing else, into its stream

    def milliseconds() -> float:
        with gpu.active():
            gpu.wait_for(last)
            return gpu.elapsed(first, last)

    return DeviceClock(milliseconds)


def device_used(device: str) -> float | None:
    """10⁶ bytes in use on a GPU; ``None`` on a CPU, or where no CUDA package is installed."""
    if not device.startswith("cuda"):
        return None
    from bfsr_edge.runtime import cuda

    try:
        gpu = cuda.open_device(int(device.partition(":")[2] or 0))
        with gpu.active():
            free, total = gpu.free_memory()
    except BfsrError:
        return None
    return (total - free) / 1e6


# ---- the process


def main() -> None:
    """Read requests until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    # what libraries print must not get between the answers
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        try:
            answer = getattr(worker, name)(**request)
        except BfsrError as error:
            answer = {"error": "; ".join((error.what, *error.why))}
        except Exception as error:  # a library's own: the row says what it was
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    # nothing is freed: libraries crash at that, and the system takes it all back
    os._exit(0)


if __name__ == "__main__":
    main()
