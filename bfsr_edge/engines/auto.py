"""``--precision auto``: build in floating point and in INT8, time both here, keep INT8 where it pays."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bfsr_edge.engines import target
from bfsr_edge.engines.build import Outcome, build, bundle
from bfsr_edge.engines.builder import Progress
from bfsr_edge.engines.graphs import read_source
from bfsr_edge.engines.request import Request, tile_of
from bfsr_edge.errors import UsageError
from bfsr_edge.files import writing
from bfsr_edge.runtime import load, sidecar
from bfsr_edge.runtime.base import CHANNELS, Engine

FASTER = 1.10
"""INT8 has to be faster by this factor: below it, the loss of quality buys nothing that anybody notices."""
WARM_UP = 3
"""Runs before anything is timed."""
ROUNDS = 7
"""Timed runs of each, taken in turns, at least…"""
SECONDS = 2.0
"""…and for at least this long."""


def build_auto(
    request: Request,
    here: target.Here,
    *,
    budget: float,
    progress: Progress | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Build both, time both, keep one; for a target that this machine cannot build for, a bundle with both graphs.

    The rival in floating point is FP16 on a GPU and FP32 on a CPU, where bf16 loses quality that nobody has measured;
    ask for that with --fp16.

    Parameters
    ----------
    budget
        Largest mean loss of PSNR allowed, in dB, as the calibration measured it.

    Raises
    ------
    UsageError
        This machine can build for the target and not run what it built, or INT8 cannot be built as asked.
    """
    if request.dla_core is not None or request.frontend != "onnx":
        raise UsageError(
            f"--precision auto builds INT8 too, and {'--dla-core' if request.frontend == 'onnx' else '--frontend'} "
            "takes none",
            fix="--fp16",
        )
    source = read_source(request.model)
    obstacle = target.obstacle(request.profile, here)
    if obstacle:
        return bundle(request, source, "auto", tile_of(request, source), obstacle)
    if request.profile.flavour == "tensorrt-rtx" and not any(gpu.sm in request.profile.sm for gpu in here.gpus):
        raise UsageError(
            f"--precision auto times what it builds, and no GPU here runs engines for {request.profile.name}",
            fix="name a precision: --fp16 or --int8; or run --precision auto on that machine",
        )
    floating = dataclasses.replace(request, precision="fp32" if request.profile.flavour == "openvino" else "fp16")
    first = build(floating, here, progress=progress, announce=announce)
    if request.profile.flavour == "openvino" and not here.int8_cpu:
        announce("INT8 is out: without VNNI instructions it saturates on this CPU")
        return first
    second = build(dataclasses.replace(request, precision="int8"), here, progress=progress, announce=announce)
    assert first.sidecar is not None
    assert second.sidecar is not None
    slow, fast = compare(first.path, second.path, first.sidecar.batch[1])
    drop = second.sidecar.psnr_drop
    keep, reason = decide(slow / fast, drop, budget)
    winner, loser = (second, first) if keep else (first, second)
    told = (
        f"auto: {first.sidecar.precision} {slow * 1e3:.1f} ms, int8 {fast * 1e3:.1f} ms for {first.sidecar.batch[1]} "
        f"tiles: {winner.path.name} stays, {reason}"
    )
    if not loser.reused:
        for path in (loser.path, sidecar.path_of(loser.path)):
            path.unlink(missing_ok=True)
        shutil.rmtree(loser.path.with_name(f"{loser.path.name}.cache"), ignore_errors=True)
    assert winner.sidecar is not None
    measured = {"floating_ms": slow * 1e3, "int8_ms": fast * 1e3, "budget_db": budget, "reason": reason}
    described = dataclasses.replace(winner.sidecar, options={**winner.sidecar.options, "auto": measured})
    with writing(winner.path):
        sidecar.write(winner.path, described)
    return dataclasses.replace(winner, sidecar=described, notes=(*winner.notes, told))


def decide(speedup: float, drop: float | None, budget: float) -> tuple[bool, str]:
    """Whether INT8 stays, and why.

    Parameters
    ----------
    speedup
        Time in floating point over time in INT8.
    drop
        What INT8 costs in dB; ``None``: not measured.
    """
    if speedup < FASTER:
        return False, f"as int8 is {speedup:.2f} times as fast and {FASTER:.2f} is asked for"
    if drop is None:
        return False, "as nobody has measured what int8 costs (bfsr-edge calibrate with pairs does)"
    if drop > budget:
        return False, f"as int8 costs {drop:.3f} dB and the budget is {budget:g}"
    return True, f"as int8 is {speedup:.2f} times as fast and costs {drop:.3f} dB, inside {budget:g}"


def compare(first: Path, second: Path, batch: int) -> tuple[float, float]:
    """Median seconds of two engines on the same noise, run in turns so that a busy machine slows both."""
    older, newer = load(first), load(second)
    tiles = np.random.default_rng(0).random((batch, CHANNELS, *older.info.tile), dtype=np.float32)
    for _ in range(WARM_UP):
        older.run(tiles)
        newer.run(tiles)
    times: list[tuple[float, float]] = []
    started = time.monotonic()
    while len(times) < ROUNDS or time.monotonic() - started < SECONDS:
        times.append((_seconds(older, tiles), _seconds(newer, tiles)))
    # the newer goes first: OpenVINO 2026.4 gives the thread another signal stack when it compiles, and puts back the
    # one that it found when the model goes. Freed oldest first, that one is gone by then, and Ctrl-C is a crash
    newer.close()
    del newer
    older.close()
    del older
    return statistics.median(pair[0] for pair in times), statistics.median(pair[1] for pair in times)


def _seconds(engine: Engine, tiles: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    before = time.perf_counter()
    engine.run(tiles)
    return time.perf_counter() - before
