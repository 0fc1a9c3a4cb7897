"""Tiles that fit: what is free, what is needed, and what happens when memory really runs out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from bfsr_edge import images, runtime
from bfsr_edge.cli import main
from bfsr_edge.errors import BackendError, OutOfMemory
from bfsr_edge.restore import array, memory, pipeline, plan
from bfsr_edge.restore.find import find
from bfsr_edge.restore.options import Options
from bfsr_edge.runtime import base

Photo = Callable[..., npt.NDArray[Any]]
MEGABYTE = 1_000_000


def lay(root: Path, **files: str) -> Path:
    """Files below a root as Linux has them; "__" stands for a slash and "_dot_" for a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


# ---- what is free


def test_free_memory_is_what_the_system_says(tmp_path: Path) -> None:
    lay(tmp_path, proc__meminfo="MemTotal:  9000 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB\n")
    assert memory.free(root=tmp_path) == 5000 * 1024


def test_free_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    lay(
        tmp_path,
        proc__meminfo="MemAvailable: 5000000 kB\n",
        proc__self__cgroup="0::/shop/till\n",
        sys__fs__cgroup__shop__memory_dot_max="300000000\n",
        sys__fs__cgroup__shop__memory_dot_current="250000000\n",
        sys__fs__cgroup__shop__memory_dot_stat="anon 1\ninactive_file 20000000\n",
        sys__fs__cgroup__shop__till__memory_dot_max="max\n",
        sys__fs__cgroup__shop__till__memory_dot_current="1\n",
    )
    assert memory.free(root=tmp_path) == 70_000_000  # files that were read are given up when needed


@pytest.mark.parametrize("limit", [400_000_000, 9_223_372_036_854_771_712])
def test_free_memory_in_control_groups_of_version_1(tmp_path: Path, limit: int) -> None:
    lay(
        tmp_path,
        proc__meminfo="MemAvailable: 5000000 kB\n",
        proc__self__cgroup="4:cpu,cpuacct:/x\n7:memory:/docker/abc\n",
        # in a container the own group is mounted at the top
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=f"{limit}\n",
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes="100000000\n",
    )
    assert memory.free(root=tmp_path) == (300_000_000 if limit < 1 << 60 else 5_000_000 * 1024)


def test_where_nobody_tells_nothing_is_known(tmp_path: Path) -> None:
    assert memory.free(root=tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_limit_of_the_process_counts() -> None:
    code = (
        "import resource; from bfsr_edge.restore import memory\n"
        "assert memory.free() > 0\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "print(memory.free())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(told) < 1 << 30


# ---- what is needed


def test_needs_grow_with_tile_batch_streams_and_width() -> None:
    info = base.EngineInfo("x", "openvino", "1", "cpu", "fp32", 4, 8, 0, (192, 192), "", bytes_per_pixel=1000.0)

    def needed(side: int = 192, batch: int = 1, streams: int = 1, width: int = 1000) -> int:
        return memory.needed(info, side, batch=batch, streams=streams, width=width)

    assert needed() > 192**2 * 1000 + 3 * 4 * 16 * 192 * 1000
    assert needed(side=96) < needed() / 2
    assert min(needed(batch=2), needed(streams=2)) > needed() + 192**2 * 1000
    assert needed(width=9000) > needed() + 3 * 4 * 16 * 192 * 8000


@pytest.mark.parametrize(
    ("tile", "stride", "overlap", "smaller"),
    [(192, 8, 16, 96), (96, 8, 16, 64), (64, 8, 16, None), (192, 8, 60, 128), (128, 8, 60, None), (192, 48, 16, 96)],
)
def test_halving_ends_where_the_overlap_needs_the_tile(
    tile: int, stride: int, overlap: int, smaller: int | None
) -> None:
    assert memory.halved(tile, stride, overlap) == smaller


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_engines_know_what_a_tile_takes(backend: str, nearest: Path) -> None:
    pytest.importorskip(backend)
    info = runtime.load(nearest, backend=backend, tile=32).info
    # 48 channels of a convolution and as much after the shuffle, float32
    assert info.bytes_per_pixel >= 2 * 48 * 4
    assert info.bytes_per_pixel == runtime.load(nearest, backend=backend, tile=64).info.bytes_per_pixel


def test_a_batch_fills_the_device() -> None:
    info = base.EngineInfo("x", "torch", "1", "cuda:0", "fp32", 4, 8, 0, (192, 192), "", bytes_per_pixel=1000.0)
    small, large = memory.batch_for(info, 2_000 * MEGABYTE), memory.batch_for(info, 80_000 * MEGABYTE)
    assert 1 < small < large == memory.LARGEST_BATCH
    assert memory.batch_for(info, None) == 1


# ---- what a shortage changes


@pytest.mark.parametrize(
    "text",
    [
        "std::bad_alloc",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "Failed to allocate memory for requested buffer of size 1",
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "OpenCV(4.11.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes",
        "could not create a memory object",
    ],
)
def test_libraries_say_it_in_many_ways(text: str) -> None:
    assert base.lacks_memory(RuntimeError(text))
    assert not base.lacks_memory(BackendError("it failed", why=(text,)))  # which may be a guess of ours


def test_other_failures_are_none() -> None:
    assert not base.lacks_memory(RuntimeError("shapes do not fit"))
    assert base.lacks_memory(MemoryError())
    assert base.lacks_memory(OutOfMemory("x"))


def test_an_engine_says_out_of_memory_and_goes_on() -> None:
    engine = Hungry(limit=32 * 32)
    with pytest.raises(OutOfMemory, match="not enough memory to run hungry on 2 tiles of 32×32"):
        engine.run(np.zeros((2, 3, 32, 32), np.float32))
    assert engine.run(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 3, 128, 128)


def test_first_the_batch_is_made_smaller_then_the_tile() -> None:
    limits = memory.Limits(Options(batch=4))
    info = Hungry(limit=0, tile=192).info
    assert "4 tiles at a time" in limits.lower(192, 4, info)
    assert limits.lower(192, 4, info) == ""  # another picture met the same shortage
    assert (limits.batch(), limits.tile(192)) == (2, 192)
    limits.lower(192, 2, info)
    assert limits.lower(192, 1, info) == "memory does not suffice for tiles of 192×192: goes on with 96×96"
    assert (limits.batch(), limits.tile(192), limits.tile(64)) == (1, 96, 64)
    limits.lower(96, 1, info)
    with pytest.raises(OutOfMemory, match="64×64"):
        limits.lower(64, 1, info)


def test_an_engine_with_one_tile_names_the_command_for_a_smaller_one() -> None:
    limits = memory.Limits(Options())
    info = base.EngineInfo("x", "tensorrt", "10", "cuda:0", "fp16", 4, 8, 0, (128, 128), "")
    fixed = type(info)(**{**vars(info), "rebuild": "bfsr-edge build-engine --model edge --tile 128 --batch 1,4,8"})
    with pytest.raises(OutOfMemory) as caught:
        limits.lower(128, 1, fixed)
    assert caught.value.fix == "bfsr-edge build-engine --model edge --tile 64 --batch 1,4,8"


class Hungry(base.Engine):
    """Nearest neighbours, by a run that asks numpy for far too much where a batch has more than so many pixels."""

    def __init__(self, limit: int, tile: int = 32, *, bright: float = 0.0) -> None:
        super().__init__(base.EngineInfo("hungry", "none", "1", "cpu", "fp32", 4, 1, 1, (tile, tile), ""))
        self.limit, self.bright, self.closed = limit, bright, False

    def _infer(self, batch: base.Batch) -> base.Batch:
        if len(batch) * batch[0, 0].size > self.limit and batch.mean() >= self.bright:
            np.empty(1 << 60, np.float32)
        return batch.repeat(4, 2).repeat(4, 3)

    def close(self) -> None:
        self.closed = True


def restored(folder: Path, out: Path, options: Options, engine_for: Callable[[int], Any]) -> tuple[list[Any], str]:
    """The outcomes of a run, and what was said."""
    tasks, outcomes = plan.decide(find([str(folder)], out).jobs, options, "0" * 64)
    notes = [step.note for step in pipeline.run(tasks, options, engine_for) if step.note]
    return outcomes, "\n".join(notes)


def test_a_picture_begins_anew_with_smaller_tiles_and_the_others_stay_with_them(tmp_path: Path, photo: Photo) -> None:
    for seed in range(5):
        images.write(tmp_path / "in" / f"{seed}.png", photo(300, 200, seed=seed))
    engines: dict[int, Hungry] = {}

    def engine_for(tile: int) -> Hungry:
        return engines.setdefault(tile, Hungry(100 * 100, tile))

    outcomes, said = restored(tmp_path / "in", tmp_path / "out", Options(), engine_for)
    assert [outcome.status for outcome in outcomes] == ["restored"] * 5
    assert said.count("goes on with 96×96") == 1  # once for each change, not for each picture
    assert sorted(engines) == [96, 192]
    assert engines[192].closed
    assert not engines[96].closed
    for seed in range(5):
        source = images.read(tmp_path / "in" / f"{seed}.png").pixels
        np.testing.assert_array_equal(
            images.read(tmp_path / "out" / f"{seed}.png").pixels, source.repeat(4, 0).repeat(4, 1)
        )


def test_a_picture_that_fits_in_no_way_fails_alone(tmp_path: Path, photo: Photo) -> None:
    for name, brightness in (("a", 0), ("b", 200), ("c", 0)):
        images.write(tmp_path / "in" / f"{name}.png", np.full((90, 70, 3), brightness, np.uint8))
    outcomes, said = restored(
        tmp_path / "in", tmp_path / "out", Options(batch=2), lambda tile: Hungry(0, tile, bright=0.5)
    )
    assert [outcome.status for outcome in outcomes] == ["restored", "failed", "restored"]
    assert "there is not enough memory for tiles of 64×64" in outcomes[1].reason
    assert outcomes[1].fix
    assert said.count("goes on with") == 2  # batch 1, tiles of 64
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_blending_that_runs_out_of_memory_begins_anew_too(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.write(tmp_path / "in" / "a.png", photo(300, 200))
    finish = array.finish

    def short(results: Any, image: Any, layout: Any, *rest: Any, **more: Any) -> Any:
        if layout.rows.tile > 100:
            np.empty(1 << 60, np.float32)
        return finish(results, image, layout, *rest, **more)

    monkeypatch.setattr(pipeline, "finish", short)
    outcomes, said = restored(tmp_path / "in", tmp_path / "out", Options(), lambda tile: Hungry(1 << 30, tile))
    assert outcomes[0].status == "restored"
    assert "goes on with 96×96" in said


def test_tiles_are_chosen_to_fit_and_that_is_said(
    tmp_path: Path, photo: Photo, nearest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.write(tmp_path / "in" / "a.png", photo(300, 200))
    words = ["restore", str(tmp_path / "in"), "--model", str(nearest), "--faces", "off", "--verbose", "--out"]
    monkeypatch.setattr(memory, "free", lambda info=None: 64 * MEGABYTE)
    done = CliRunner().invoke(main, [*words, str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "instead of 192, as 64 MB of memory are free" in done.stderr
    # made again where there is enough: the recipe is the same, so a result made with less memory counts
    monkeypatch.setattr(memory, "free", lambda info=None: 64_000 * MEGABYTE)
    again = CliRunner().invoke(main, [*words, str(tmp_path / "out"), "--json"])
    assert '"skipped": 1' in again.stdout
    # a size that was asked for is not changed beforehand
    monkeypatch.setattr(memory, "free", lambda info=None: MEGABYTE)
    asked = CliRunner().invoke(main, [*words, str(tmp_path / "other"), "--tile", "192"])
    assert asked.exit_code == 0
    assert "instead of" not in asked.stderr


LIMITED = """
import sys
import cv2, numpy, onnx, openvino, PIL.Image
from bfsr_edge.cli import main
limit = int(sys.argv.pop(1))
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    main(sys.argv[1:])
finally:
    print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmPeak")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited and read as Linux does")
def test_a_real_shortage_gives_the_result_of_the_smaller_tile(tmp_path: Path, photo: Photo, convolutions: Path) -> None:
    images.write(tmp_path / "a.png", photo(560, 530))

    def run(tile: int, limit: int) -> tuple[int, str, npt.NDArray[Any]]:
        out = tmp_path / f"{tile}-{limit}"
        words = ["restore", str(tmp_path / "a.png"), "--out", str(out), "--model", str(convolutions), "--faces", "off"]
        # without overlap what is next to a tile's edge tells the tile
        words += ["--reduce", "1", "--tile", str(tile), "--overlap", "0", "--threads", "1"]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), *words],
            capture_output=True,
            text=True,
            # threads reserve address space of their own for what they allocate
            env={**os.environ, "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split("peak")[1]) * 1024, done.stderr, images.read(out / "a.png").pixels

    small_peak, _, small = run(512, 0)
    large_peak, said, large = run(1024, 0)
    assert "memory" not in said
    assert large_peak > small_peak + 300 * MEGABYTE
    _, said, limited = run(1024, (small_peak + large_peak) // 2)
    assert "memory does not suffice for tiles of 1024×1024: goes on with 512×512" in said
    np.testing.assert_array_equal(limited, small)
    assert np.any(small != large)
