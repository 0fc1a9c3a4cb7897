"""Whole photographs: what ``bfsr-edge restore`` takes from file to file, and what its parts take when timed alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.benchmarks.client import Client
from bfsr_edge.benchmarks.results import SizeRow
from bfsr_edge.benchmarks.subjects import Runner, Subject
from bfsr_edge.errors import BackendError

RESTORE_TILE, RESTORE_OVERLAP = 192, 16
"""What ``restore`` takes for photographs; told to it all the same, so that the parts are those of the same tiles."""
ASPECT = 3 / 2
BAND = 64
QUALITY = 95
# runs the command in that process and leaves behind how much memory it took
RESTORE = (
    "import atexit, sys\n"
    "from pathlib import Path\n"
    "from bfsr_edge.benchmarks.worker import peak_rss\n"
    "note = Path(sys.argv.pop(1))\n"
    "atexit.register(lambda: note.write_text(str(peak_rss() or '')))\n"
    "from bfsr_edge.cli import main\n"
    "main()\n"
)


def size_of(megapixels: float) -> tuple[int, int]:
    """Height and width of a photograph with that many pixels, 3:2, both even."""
    height = max(2, 2 * round((megapixels * 1e6 / ASPECT) ** 0.5 / 2))
    return height, max(2, 2 * round(megapixels * 1e6 / height / 2))


def make_photograph(path: Path, megapixels: float) -> tuple[int, int]:
    """Write a JPEG with edges, gradients and grain, the same every time; its height and width."""
    from bfsr_edge import images
    from bfsr_edge.selftest import pictures

    height, width = size_of(megapixels)
    motif = np.rint(pictures(1, 512, 512)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    row = np.tile(motif, (1, -(-width // 512), 1))[:, :width]
    with images.create(path, (height, width, 3), np.uint8, quality=QUALITY) as writer:
        for top in range(0, height, 512):
            # shifted, so that no band of the file is like the one before
            writer.write(np.ascontiguousarray(np.roll(row, 37 * top // 512, axis=1)[: min(512, height - top)]))
    return height, width


def restore(photograph: Path, folder: Path, model: str, scale: int, threads: int) -> tuple[float, float | None]:
    """Seconds that ``restore`` took once its network was loaded, and its peak memory in 10⁶ bytes.

    Raises
    ------
    BackendError
        It failed.
    """
    note = folder / "memory.txt"
    command = [
        sys.executable, "-c", RESTORE, str(note), "restore", str(photograph), "--out", str(folder / "restored"),
        "--model", model, "--device", "cpu", "--scale", str(scale), "--tile", str(RESTORE_TILE), "--overlap",
        str(RESTORE_OVERLAP), "--batch", "1", "--threads", str(threads), "--overwrite", "--json", "--quiet",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError((done.stderr.strip().splitlines() or ["restore failed"])[0].removeprefix("bfsr-edge: "))
    told = note.read_text("utf-8") if note.is_file() else ""
    return float(json.loads(done.stdout)["seconds"]), float(told) if told else None


def parts(runner: Runner, photograph: str, result: str, scale: int, threads: int, most_tiles: int) -> dict[str, Any]:
    """Core-seconds of decoding, of the network on the same tiles and of encoding, one after the other.

    Decoding and encoding count the processor time of one thread. The network fills all threads, so it counts wall clock
    times threads; beyond ``most_tiles`` the rest is taken to be as fast.
    """
    from bfsr_edge import images
    from bfsr_edge.tiling import cut, plan

    path, target = Path(photograph), Path(result)
    before = time.process_time()
    pixels = images.read(path).pixels
    decode = time.process_time() - before
    height, width = pixels.shape[:2]
    assert runner.engine is not None
    info = runner.engine.info
    tiles = plan(
        height, width, tile=info.tile, overlap=RESTORE_OVERLAP, stride=info.stride, receptive_field=info.receptive_field
    )
    places = list(tiles.positions())
    timed = places[:: max(1, len(places) // most_tiles)][:most_tiles]
    network = 0.0
    for number, (top, left) in enumerate([timed[0], *timed]):  # the first one is the warm-up
        tile = cut(pixels, tiles, top, left)
        batch = np.ascontiguousarray(tile.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        start = time.perf_counter()
        runner.run(batch)
        network += time.perf_counter() - start if number else 0.0
    encode = _encode(images.create, target, pixels, scale)
    return {
        "decode": decode,
        "network": network / len(timed) * len(places) * threads,
        "encode": encode,
        "tiles": len(places),
    }


def _encode(create: Callable[..., Any], target: Path, pixels: npt.NDArray[Any], scale: int) -> float:
    """Processor time of writing a picture ``scale`` times as large; making its pixels is left out."""
    import cv2

    cv2.setNumThreads(1)
    height, width = pixels.shape[:2]
    spent = 0.0
    before = time.process_time()
    with create(target, (scale * height, scale * width, 3), np.uint8, quality=QUALITY) as writer:
        spent += time.process_time() - before
        for top in range(0, height, BAND):
            band = pixels[top : top + BAND]
            larger = cv2.resize(band, (scale * width, scale * len(band)), interpolation=cv2.INTER_CUBIC)
            before = time.process_time()
            writer.write(np.asarray(larger, np.uint8))
            spent += time.process_time() - before
        before = time.process_time()
    return spent + time.process_time() - before


def measure(
    client: Client, subject: Subject, megapixels: float, scale: int, folder: Path, limits: tuple[int, int]
) -> SizeRow:
    """One photograph, end to end and in parts.

    Parameters
    ----------
    client
        A worker that holds the same network with tiles of ``RESTORE_TILE``.
    folder
        For the photograph and the results, which are removed when they were measured.
    limits
        Threads and tiles to be timed: ``(threads, most_tiles)``.
    """
    threads, most_tiles = limits
    folder.mkdir(parents=True, exist_ok=True)
    photograph, result = folder / f"{megapixels:g}.jpg", folder / "encoded.jpg"
    try:
        height, width = make_photograph(photograph, megapixels)
        wall, memory = restore(photograph, folder, subject.model, scale, threads)
        alone = client.ask(
            "photograph", photograph=str(photograph), result=str(result), scale=scale, threads=threads,
            most_tiles=most_tiles,
        )  # fmt: skip
    finally:
        for path in (photograph, result, folder / "restored" / photograph.name):
            path.unlink(missing_ok=True)
    return SizeRow(
        subject.id, height * width / 1e6, scale, wall, alone["decode"], alone["network"], alone["encode"], memory or 0.0
    )
