"""Many small photographs: how much longer ``restore`` takes than its parts, and whether its memory stays flat.

    python benchmarks/photographs.py                           # 200 JPEGs of 160×120 to 640×480, made from samples/
    python benchmarks/photographs.py --count 2000 --faces auto
    python benchmarks/photographs.py --megapixels 12 --count 1

The parts are decoding, the network on the same tiles, and encoding, each timed alone, one after the other, on pictures
spread over the whole set; the goal is wall ≤ 1.10 × (their core-seconds) / cores. Core-seconds are processor time, so
other work on the machine spoils the wall clock alone; "held" counts the network's wall clock times cores instead, as
``bfsr-edge benchmark`` does: while it runs alone it holds them all, busy or not. "busy" is the processor time that
restoring took, start-up left out: it cannot exceed wall × cores. With --faces other than off, finding and restoring
faces comes on top, and shows as the difference to a run without.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bfsr_edge import images, runtime
from bfsr_edge.benchmarks.photographs import make_photograph
from bfsr_edge.errors import BfsrError
from bfsr_edge.restore.array import plan_for
from bfsr_edge.restore.options import Options
from bfsr_edge.runtime import machine
from bfsr_edge.tiling import cut

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "gt"
SIZES = ((160, 120), (240, 180), (320, 240), (400, 300), (480, 360), (640, 480))
SAMPLED = 60
"""Pictures whose parts are timed."""


@dataclass
class Parts:
    """Core-seconds of a picture's parts, each alone."""

    decode: float = 0.0
    network: float = 0.0
    held: float = 0.0
    """The network's wall clock times cores."""
    encode: float = 0.0

    @property
    def total(self) -> float:
        return self.decode + self.network + self.encode


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    seconds: float
    """Wall clock from the first picture that was looked at to the last result."""
    busy: float
    """Processor time."""
    rss: tuple[int, ...]
    """Resident memory in bytes at a quarter, half, three quarters and all of the results."""


def make(folder: Path, count: int, megapixels: float | None) -> list[Path]:
    """JPEGs of all sizes in turn, each another part of a sample; or photographs of one size."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    if megapixels is not None:
        for path in paths:
            make_photograph(path, megapixels)
        return paths
    sources = [images.read(path).pixels for path in sorted(SAMPLES.glob("*.png"))]
    random = np.random.default_rng(0)
    for number, path in enumerate(paths):
        width, height = SIZES[number % len(SIZES)]
        source = sources[number % len(sources)]
        rows, columns = source.shape[:2]
        share = random.uniform(0.5, 1)
        part_height = int(share * min(rows, columns * height / width))
        part_width = int(part_height * width / height)
        top, left = random.integers(rows - part_height + 1), random.integers(columns - part_width + 1)
        part = source[top : top + part_height, left : left + part_width]
        made = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        images.write(path, made, quality=90)
    return paths


def command(folder: Path, out: Path, given: argparse.Namespace, faces: str) -> list[str]:
    words = ["restore", str(folder), "--out", str(out), "--model", given.model, "--json", "--quiet", "--faces", faces]
    words += ["--reduce", "1"]  # as the parts see them
    return [sys.executable, "-m", "bfsr_edge.cli", *words]


def run(words: list[str], out: Path, count: int) -> Ran:
    """Run it, and look at its memory while it goes on."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*words, "--dry-run"], check=True, capture_output=True)
    dry = resource.getrusage(resource.RUSAGE_CHILDREN)
    rss: list[int] = []
    with tempfile.TemporaryFile() as account:
        process = subprocess.Popen(words, stdout=account)
        while process.poll() is None:
            made = sum(1 for entry in os.scandir(out) if entry.name.endswith(".jpg")) if out.is_dir() else 0
            status = Path(f"/proc/{process.pid}/status")
            text = status.read_text("utf-8") if status.exists() else ""
            resident = [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS")]
            while resident and len(rss) < 4 and made >= (len(rss) + 1) * count // 4:
                rss += resident
            time.sleep(0.05 if count < 1000 else 0.3)
        account.seek(0)
        told = json.load(account)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode or told["restored"] != count:
        raise SystemExit(f"photographs: {told['restored']} of {count} pictures were restored")
    start = dry.ru_utime + dry.ru_stime - before.ru_utime - before.ru_stime
    return Ran(told["seconds"], after.ru_utime + after.ru_stime - dry.ru_utime - dry.ru_stime - start, tuple(rss))


def parts(paths: list[Path], out: Path, model: str, cores: int) -> Parts:
    """Of all pictures, from a sample of them."""
    cv2.setNumThreads(1)
    sampled = paths[:: max(1, len(paths) // SAMPLED)]
    options, engines, sums = Options(), {}, Parts()
    for number, path in enumerate([sampled[0], *sampled]):  # the first one is the warm-up
        begin = time.process_time()
        pixels = images.read(path).pixels
        decode = time.process_time() - begin
        height, width = pixels.shape[:2]
        tile = options.tile_for(height, width)
        if tile not in engines:
            engines[tile] = runtime.load(model, device="cpu", tile=tile)
            engines[tile].run(np.zeros((1, 3, tile, tile), np.float32))
        plan = plan_for(engines[tile].info, height, width, scale=4, overlap=options.overlap)
        batches = [
            np.ascontiguousarray(cut(pixels, plan, top, left).transpose(2, 0, 1)[None], np.float32) / np.float32(255)
            for top, left in plan.positions()
        ]
        begin, clock = time.process_time(), time.perf_counter()
        for batch in batches:
            engines[tile].run(batch)
        network, held = time.process_time() - begin, cores * (time.perf_counter() - clock)
        result = images.read(out / path.name)
        begin = time.process_time()
        images.write(out.parent / "encoded.jpg", result.pixels, metadata=result.metadata)
        encode = time.process_time() - begin
        if number:
            sums.decode, sums.network, sums.encode = sums.decode + decode, sums.network + network, sums.encode + encode
            sums.held += held
    share = len(paths) / len(sampled)
    return Parts(sums.decode * share, sums.network * share, sums.held * share, sums.encode * share)


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--count", type=int, default=200)
    reader.add_argument("--megapixels", type=float, help="photographs of this size instead of small ones")
    reader.add_argument("--model", default="edge", metavar="NAME|FILE", help="what runs on the CPU")
    reader.add_argument("--faces", default="off", help="as restore takes it")
    given = reader.parse_args()
    cores = machine.cores()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch, "photos"), Path(scratch, "out")
        try:
            paths = make(folder, given.count, given.megapixels)
            off = run(command(folder, out, given, "off"), out, given.count)
            alone = parts(paths, out, given.model, cores)
            faces_out = Path(scratch, "faces")
            faces = None
            if given.faces != "off":
                faces = run(command(folder, faces_out, given, given.faces), faces_out, given.count)
        except BfsrError as error:
            print(f"photographs: {error}", file=sys.stderr)
            return error.exit_code
    print(f"{given.count} pictures, {cores} cores, load {os.getloadavg()[0]:.1f}, model {given.model}")
    print(
        f"alone, core-seconds: decode {alone.decode:.2f}, network {alone.network:.2f} (held {alone.held:.2f}), "
        f"encode {alone.encode:.2f}"
    )
    for name, ran in (("--faces off", off), (f"--faces {given.faces}", faces)):
        if ran is not None:
            print(
                f"{name}: wall {ran.seconds:.2f} s ({given.count / ran.seconds:.1f} pictures/s), "
                f"busy {ran.busy:.2f} s; "
                f"wall / (parts / cores) = {ran.seconds * cores / alone.total:.2f}, "
                f"{ran.seconds * cores / (alone.total - alone.network + alone.held):.2f} of held, "
                f"busy / parts = {ran.busy / alone.total:.2f}; "
                f"RSS at each quarter {', '.join(f'{size / 1e6:.0f}' for size in ran.rss)} MB"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
