"""A campaign: inputs by a seed, checked in batches by worker processes; failures traced to single inputs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import select
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import made, mutations, networks, real

ROOT = Path(__file__).resolve().parents[2]
SHARES = {
    "picture": 600, "exif": 100, "recipe": 40, "plan": 20, "profile": 20, "suite": 20, "calibration": 30, "sidecar": 40,
    "safetensors": 40, "published": 20, "graph": 50, "faces": 20,
}  # fmt: skip
"""Inputs of each kind among a thousand."""
NEED_TORCH = ("recipe", "safetensors", "published")
EXTENSIONS = {"safetensors": "safetensors", "published": "pth", "graph": "onnx", "faces": "tar", "exif": "exif",
              "calibration": "json", "sidecar": "engine.json"}  # fmt: skip
BATCH = {"picture": 20, "graph": 10}
DRAWN = 0.3
"""Part of the pictures that hypothesis makes; the others are damaged real files."""
SECONDS_A_BATCH, SECONDS_ALONE = 120.0, 60.0
MEMORY = 2_500_000_000
"""Bytes that a worker may reach, its libraries included."""
OPTIONS = (
    (), ("--scale", "1"), ("--scale", "2"), ("--format", "png"), ("--format", "jpeg"), ("--format", "webp"),
    ("--format", "tiff", "--scale", "1"), ("--format", "bmp", "--scale", "2"), ("--strip-metadata",),
    ("--quality", "60", "--scale", "2"),
)  # fmt: skip
SENTINELS = ("intact-1.png", "intact-2.jpg")


@dataclass(frozen=True)
class Input:
    """One file."""

    kind: str
    name: str
    content: bytes


@dataclass(frozen=True)
class Failure:
    """A property that did not hold for some inputs."""

    inputs: tuple[Input, ...]
    what: str
    options: tuple[str, ...] = ()


# ---- inputs


def corpus(seed: int, count: int) -> list[Input]:
    """So many inputs of every kind that can be read here; the same for the same seed and versions."""
    kinds = {
        kind: share for kind, share in SHARES.items() if kind not in NEED_TORCH or importlib.util.find_spec("torch")
    }
    total, inputs = sum(kinds.values()), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on what it is asked to write
        for kind, share in kinds.items():
            number = max(1, round(count * share / total))
            for index, (stem, extension, content) in enumerate(_contents(kind, seed, number)):
                inputs.append(Input(kind, f"{kind}-{index:04}-{stem}.{extension}", content))
    return inputs


def corpus_hash(inputs: Sequence[Input]) -> str:
    """sha256 over every name and content."""
    digest = hashlib.sha256()
    for entry in inputs:
        digest.update(f"{entry.name}\0{len(entry.content)}\0".encode("utf-8", "surrogatepass") + entry.content)
    return digest.hexdigest()


def _contents(kind: str, seed: int, count: int) -> Iterator[tuple[str, str, bytes]]:
    """Stem, extension and content."""
    random_ = random.Random(f"{seed} {kind}")
    if kind == "picture":
        # more than are needed, as no format takes every mode
        rendered = ((drawing.name, drawing.render()) for drawing in made.drawn(made.drawings(), seed, count))
        drawn = [(name, content) for name, content in rendered if content][: int(DRAWN * count)]
        for name, content in drawn:
            yield name.rpartition(".")[0], name.rpartition(".")[2], content
        whole = sorted(real.pictures().items())
        contents = [content for _, content in whole]
        for _ in range(count - len(drawn)):
            name, content = random_.choice(whole)
            extension = name.rpartition(".")[2]
            yield name.split(".")[0], extension, mutations.mutate(content, extension, contents, random_)
        return
    makers: dict[str, Callable[[random.Random], bytes]] = {
        "graph": networks.onnx_file, "safetensors": networks.safetensors_file, "published": networks.published_file,
        "faces": networks.tar_file,
    }  # fmt: skip
    extension = EXTENSIONS.get(kind, "toml")
    if kind in makers:
        yield from (("made", extension, makers[kind](random_)) for _ in range(count))
    elif kind == "exif":
        half = count // 2
        yield from (("drawn", extension, content) for content in made.drawn(made.exifs(), seed, half))
        for _ in range(count - half):
            content = random_.choice((mutations.tiff, *mutations.BYTES))(real.exif(order=random_.choice("<>")), random_)
            yield "real", extension, content
    elif extension.endswith("json"):
        whole_json = networks.calibration() if kind == "calibration" else networks.sidecar()
        yield from (("drawn", extension, content) for content in made.drawn(made.jsons(whole_json), seed, count))
    else:
        stage = {"recipe": "train", "plan": "calibrate", "profile": "engines", "suite": "benchmarks"}[kind]
        documents = made.drawn(made.tomls(stage, made.keys_of(stage)), seed, count)
        yield from (("drawn", extension, content) for content in documents)


# ---- checking


class Worker:
    """A process of ``tests.fuzz.worker``, begun anew whenever it ended."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "worker.log"
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[list[dict[str, str]], str]:
        """Findings; or why there was no answer: it crashed, hung or took too much memory."""
        process = self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # seen below
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else ""
        if line:
            answer = json.loads(line)
            found = answer["findings"]
            if answer["peak"] > MEMORY:
                found.append({"name": "", "what": f"it took {answer['peak'] / 1e6:.0f} MB of memory"})
                self.close()
            return found, ""
        self.close()
        if not ready:
            return [], f"no answer within {seconds:.0f} s"
        last = self._log.read_text("utf-8", "replace").splitlines()[-12:]
        return [], f"the process ended with {process.returncode}: {' | '.join(last)}"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None

    def _begin(self) -> subprocess.Popen[str]:
        if self._process is None:
            with open(self._log, "w") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.fuzz.worker"],
                    cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                )  # fmt: skip
        return self._process


def batches(inputs: Sequence[Input]) -> list[list[Input]]:
    """Inputs of a kind together, so many as a run takes."""
    found: list[list[Input]] = []
    for entry in inputs:
        if not found or found[-1][0].kind != entry.kind or len(found[-1]) >= BATCH.get(entry.kind, 40):
            found.append([])
        found[-1].append(entry)
    return found


def run(inputs: Sequence[Input], *, jobs: int = 2, tell: Callable[[str], None] = lambda line: None) -> list[Failure]:
    """Check every input; each failure named with the inputs that it needs, one wherever possible."""
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="bfsr-edge-fuzz-") as name, ThreadPoolExecutor(jobs) as pool:
        folder = Path(name)
        model = folder / "nearest.onnx"
        model.write_bytes(networks.nearest().SerializeToString())
        work = list(enumerate(batches(inputs)))
        lanes = [pool.submit(_lane, work[lane::jobs], folder / str(lane), model, tell) for lane in range(jobs)]
        for lane in lanes:
            failures += lane.result()
    return failures


def _lane(
    work: Sequence[tuple[int, list[Input]]], folder: Path, model: Path, tell: Callable[[str], None]
) -> list[Failure]:
    folder.mkdir()
    worker = Worker(folder)
    failures: list[Failure] = []
    try:
        for index, batch in work:
            options = OPTIONS[index % len(OPTIONS)] if batch[0].kind == "picture" else ()
            found = _check(worker, batch, folder, model, options, SECONDS_A_BATCH)
            if any(len(failure.inputs) != 1 for failure in found) and len(batch) > 1:
                alone = [
                    failure
                    for entry in batch
                    for failure in _check(worker, [entry], folder, model, options, SECONDS_ALONE)
                ]
                found = alone or found
            for failure in found:
                tell(f"{', '.join(entry.name for entry in failure.inputs[:3])} {' '.join(options)}: {failure.what}")
            failures += found
    finally:
        worker.close()
    return failures


def _check(
    worker: Worker, batch: Sequence[Input], folder: Path, model: Path, options: Sequence[str], seconds: float
) -> list[Failure]:
    """Findings of one batch; those that no input is named for carry them all."""
    source, out = folder / "in", folder / "out"
    for place in (source, out):
        shutil.rmtree(place, ignore_errors=True)
    source.mkdir()
    for entry in batch:
        (source / entry.name).write_bytes(entry.content)
    request: dict[str, Any] = {"kind": batch[0].kind, "folder": str(source), "names": [entry.name for entry in batch]}
    if batch[0].kind == "picture":
        for name, content in zip(SENTINELS, (real.pictures()["ours.png"], real.pictures()["turned.jpg"]), strict=True):
            (source / name).write_bytes(content)
        if not options:  # something else lies where every third result goes
            out.mkdir()
            for entry in batch[::3]:
                (out / entry.name).write_bytes(entry.content[::-1])
        request |= {"out": str(out), "model": str(model), "options": list(options), "sentinels": SENTINELS}
    found, died = worker.ask(request, seconds)
    if died:
        return [Failure(tuple(batch), died, tuple(options))]
    failures = []
    for finding in found:
        named = tuple(entry for entry in batch if entry.name == finding["name"]) or tuple(batch)
        failures.append(Failure(named, finding["what"], tuple(options)))
    return failures
