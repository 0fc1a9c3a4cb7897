"""How much memory there is, and which tiles fit into it.

What a run takes beyond the decoded pictures is the network's working memory, which grows with the tile's area, and the
rows of the result that are blended, which grow with the tile's side and the picture's width. The first comes from the
engine (``EngineInfo.bytes_per_pixel``), the second is what ``tiling`` and the pipeline allocate. Free memory is the
least of what the system, the control group and the process's own limit leave; a system that tells none of them leaves
tiles as they are, and so does an engine that does not know what it takes.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from bfsr_edge.errors import OutOfMemory
from bfsr_edge.restore.options import Options
from bfsr_edge.runtime.base import EngineInfo
from bfsr_edge.runtime.machine import cores, read_text

LEAST_TILE = 64
"""Smaller tiles would be mostly overlap."""
ALIGNMENT = 32
"""Sides of tiles chosen here are multiples of it, or of the network's stride where that is larger."""
SHARE = 0.8
"""Of the free memory so much is used: other programs want some, and the estimates are not exact."""
RESULTS = 10
"""Results of the network that are held at a time, for each stream and beyond: computed, waiting, being blended."""
MOST_STREAMS = 8
"""Each needs working memory of its own; with more cores than this, streams have several threads."""
LARGEST_BATCH = 64
"""Beyond it a GPU gains nothing."""
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63


def free(info: EngineInfo | None = None, root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken where the network runs, ``None`` where nobody tells.

    Parameters
    ----------
    info
        Of a network on a GPU the GPU's free memory counts, else the machine's.
    root
        Where ``proc`` and ``sys`` are; for tests.
    """
    if info is not None and info.device.startswith("cuda"):
        return _free_on_gpu(int(info.device.partition(":")[2] or 0))
    return min(_limits(root), default=None)


def told(amount: int | None) -> str:
    """Bytes for people."""
    if amount is None:
        return "an unknown amount"
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def _limits(root: Path) -> Iterator[int]:
    """What each limit that binds this process leaves, in bytes."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    if found:
        yield int(found[1]) * 1024
    yield from _group_limits(root)
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = read_text(root / "proc/self/statm").split()
        if limit != resource.RLIM_INFINITY and pages:
            yield max(0, limit - int(pages[0]) * resource.getpagesize())


def _group_limits(root: Path) -> Iterator[int]:
    """What the control groups of this process leave: version 2 and 1, its own group and those above it."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            base, most, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, cache = "sys/fs/cgroup/memory", "total_inactive_file"
            most, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inside = Path(path.lstrip("/"))
        # in a container the path is that of the host, and its own group is mounted at the base
        for group in {inside, *inside.parents, Path()}:
            folder = root / base / group
            with contextlib.suppress(ValueError):  # "max", or no such file
                limit = int(read_text(folder / most))
                # files that were read are counted as used, and given up when memory is asked for
                reclaimable = re.search(rf"^{cache} (\d+)", read_text(folder / "memory.stat"), re.MULTILINE)
                if limit < _UNLIMITED:
                    yield max(0, limit - int(read_text(folder / used)) + (int(reclaimable[1]) if reclaimable else 0))


def _free_on_gpu(index: int) -> int | None:
    torch = sys.modules.get("torch")
    if torch is not None:
        with contextlib.suppress(Exception):  # a torch without CUDA, a driver that went away
            available, _ = torch.cuda.mem_get_info(index)
            # what torch holds for itself and does not use is free for it
            return int(available) + int(torch.cuda.memory_reserved(index)) - int(torch.cuda.memory_allocated(index))
    from bfsr_edge.errors import BackendError
    from bfsr_edge.runtime import cuda

    try:
        gpu = cuda.open_device(index)
    except BackendError:
        return None
    try:
        with gpu.active():
            return gpu.free_memory()[0]
    except BackendError:
        return None
    finally:
        gpu.close()


def streams_for(device: str, threads: int | None) -> int:
    """Runs of the network at a time: on a CPU one for each thread, as a core that is taken away holds up one alone."""
    if device != "cpu":
        return 1
    return max(1, min(MOST_STREAMS, cores() if threads is None else threads))


def needed(info: EngineInfo, side: int, *, batch: int, streams: int, width: int) -> int:
    """Bytes that restoring a picture takes with tiles of that side, beyond the decoded picture.

    Parameters
    ----------
    info
        Of the network.
    side
        Of a tile, in input pixels.
    batch, streams
        Tiles in a run, and runs at a time.
    width
        Of the picture, in input pixels.
    """
    channels, size = 3, 4  # float32
    pixel = channels * size * info.scale**2
    network = info.bytes_per_pixel * side**2 * batch * streams
    results = pixel * side**2 * batch * (RESULTS + streams)
    # rows that are blended, and as many of 8 bits that wait for being written
    rows = pixel * side * max(width, side) * 1.25
    return round(network + results + rows)


def halved(tile: int, stride: int = 1, overlap: int = 0) -> int | None:
    """Half the tile, as far as the network and the overlap allow; ``None`` where it cannot be smaller."""
    step = max(ALIGNMENT, stride)
    step -= step % stride
    least = max(LEAST_TILE, 2 * overlap + stride)
    least = -(-least // step) * step
    smaller = max(least, tile // 2 // step * step)
    return smaller if smaller < tile else None


def batch_for(info: EngineInfo, available: int | None) -> int:
    """Tiles in a run that fill an eighth of a GPU's memory, enough to keep it busy; 1 where it is not known."""
    height, width = info.tile
    tile = height * width * (info.bytes_per_pixel + 4 * 3 * (info.scale**2 + 1))
    if available is None or not info.bytes_per_pixel:
        return 1
    return max(1, min(LARGEST_BATCH, int(available / 8 / tile)))


def smaller_build(rebuild: str, tile: int) -> str:
    """The command that builds an engine, with another tile."""
    words = shlex.split(rebuild)
    if "--tile" in words:
        words[words.index("--tile") + 1] = str(tile)
    else:
        words += ["--tile", str(tile)]
    return shlex.join(words)


class Limits:
    """What a run has learned about how large batches and tiles may be. Not for several threads at a time."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tile: int | None = None
        self._batch = options.batch
        self._ran: set[int] = set()

    def tile(self, wanted: int) -> int:
        """The side to use where ``wanted`` was asked for."""
        return wanted if self._tile is None else min(wanted, self._tile)

    def batch(self) -> int:
        """Tiles in a run."""
        return self._batch

    def fitting(self, wanted: int, info: EngineInfo, streams: int, width: int) -> int:
        """That side, or the largest half, quarter… of it that free memory has room for.

        Only where the user asked for no size, and once for each: what a network has taken already is not free.
        """
        if self._options.tile is not None or wanted in self._ran or info.rebuild:
            return wanted
        self._ran.add(wanted)
        available = free(info)
        if available is None or not info.bytes_per_pixel:
            return wanted
        side = wanted
        while needed(info, side, batch=self._batch, streams=streams, width=width) > SHARE * available:
            smaller = halved(side, info.stride, self._options.overlap)
            if smaller is None:
                break
            side = smaller
        if side < wanted:
            self._tile = side
        return side

    def lower(self, tile: int, batch: int, info: EngineInfo | None) -> str:
        """After a shortage with that tile and batch: what is changed, empty where that has happened already.

        Raises
        ------
        OutOfMemory
            There is nothing smaller.
        """
        if batch > self._batch or self.tile(tile) < tile:
            return ""
        if batch > 1:
            self._batch = batch // 2
            return f"memory does not suffice for {batch} tiles at a time: goes on with {self._batch}"
        stride = info.stride if info is not None else ALIGNMENT
        smaller = halved(tile, stride, self._options.overlap)
        rebuild = info.rebuild if info is not None else ""
        if smaller is None or rebuild:
            raise OutOfMemory(
                f"there is not enough memory for tiles of {tile}×{tile} pixels",
                why=("the engine has no others",) if rebuild else ("smaller ones are not used",),
                fix=smaller_build(rebuild, smaller or LEAST_TILE) if rebuild else "free some, or use less --overlap",
            )
        self._tile = smaller
        return f"memory does not suffice for tiles of {tile}×{tile}: goes on with {smaller}×{smaller}"
