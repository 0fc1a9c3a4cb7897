"""What must hold whatever comes in: checked in a process of their own, as decoders may end it.

``pictures`` runs the real command over a folder. The others call what reads a file of their kind; an error of ours is
an answer, any other exception is a failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bfsr_edge import image_metadata, images
from bfsr_edge.cli import main
from bfsr_edge.errors import BfsrError

STATUSES = ("restored", "skipped", "kept", "failed")
PIXEL_LIMIT = "2"
"""Megapixels of a fuzzed picture: so that a header that claims half a gigapixel, which is allowed, takes no hours."""


@dataclass(frozen=True)
class Finding:
    """A property that did not hold."""

    name: str
    """The input, empty where it is not known which."""
    what: str
    """A sentence."""


# ---- the command


def run(words: Sequence[Any]) -> Result:
    """``bfsr-edge WORDS`` in this process."""
    return CliRunner().invoke(main, list(map(str, words)))


def broken(result: Result) -> str:
    """What is wrong with how a command ended, empty where nothing is."""
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        return f"{type(error).__name__}: {str(error)[:200]}{where}"
    if result.exit_code not in (0, 1, 2):
        return f"exit code {result.exit_code}"
    return "a traceback was printed" if "Traceback" in result.output else ""


def pictures(folder: Path, out: Path, model: Path, options: Sequence[str], sentinels: Sequence[str]) -> list[Finding]:
    """Restore a folder twice; ``sentinels`` are intact pictures in it. What lies in ``out`` before must stay."""
    inputs = {path.name: _hash(path) for path in folder.iterdir()}
    there = {path.name: _hash(path) for path in out.iterdir()} if out.is_dir() else {}
    words: list[Any] = ["restore", folder, "--out", out, "--model", model, "--tile", "32", "--overlap", "4", "--json"]
    words += ["--max-megapixels", PIXEL_LIMIT, *options]
    first = run(words)
    if wrong := broken(first):
        return [Finding("", wrong)]
    found = list(_accounted(first, inputs, out))
    told = {Path(entry["source"]).name: entry for entry in json.loads(first.stdout)["files"]} if not found else {}
    found += [
        Finding(name, "an intact picture was not restored") for name in sentinels if _status(told, name) != "restored"
    ]
    found += list(_results(told, out, there))
    if {path.name: _hash(path) for path in folder.iterdir()} != inputs:
        found.append(Finding("", "an input was changed, lost or added"))
    return found or list(_again(words, told, out))


def _accounted(result: Result, inputs: dict[str, str], out: Path) -> Iterator[Finding]:
    told = json.loads(result.stdout)
    names = [Path(entry["source"]).name for entry in told["files"]]
    yield from (Finding(name, "it is accounted for twice") for name in names if names.count(name) > 1)
    missing = sorted(set(inputs) - set(names))
    if len(missing) != told["passed_over"]:
        yield Finding("", f"{missing} are not accounted for, {told['passed_over']} were passed over")
    if sum(told[status] for status in STATUSES) != len(names):
        yield Finding("", "the counts do not add up")
    if result.exit_code != int(told["failed"] + told["kept"] > 0):
        yield Finding("", f"exit code {result.exit_code} with {told['failed']} failed and {told['kept']} kept")
    for entry in told["files"]:
        name, reason = Path(entry["source"]).name, str(entry["reason"])
        if entry["status"] not in STATUSES:
            yield Finding(name, f"its status is {entry['status']}")
        if reason.startswith("unexpected"):
            yield Finding(name, reason)
        if entry["status"] in ("failed", "kept") and (not reason or name not in result.stderr):
            yield Finding(name, f"it is {entry['status']}, and that is not said on stderr with a reason")


def _results(told: dict[str, dict[str, Any]], out: Path, there: dict[str, str]) -> Iterator[Finding]:
    expected = set(there)
    for name, entry in told.items():
        if entry["status"] != "restored":
            continue
        target = Path(entry["result"])
        expected.add(target.name)
        if target.name in there:
            yield Finding(name, "what lay at its result's place was replaced")
        try:
            shape = images.read(target).pixels.shape
        except (BfsrError, OSError) as error:
            yield Finding(name, f"its result cannot be read: {error}")
            continue
        if [shape[1], shape[0]] != entry["result_size"]:
            yield Finding(name, f"its result is {shape[1]}×{shape[0]}, not {entry['result_size']}")
    found = {path.name for path in out.rglob("*")} if out.is_dir() else set()
    if found != expected:
        yield Finding("", f"in the result folder: missing {sorted(expected - found)}, left {sorted(found - expected)}")
    yield from (
        Finding(name, "a file that was there was changed") for name in there if _hash(out / name) != there[name]
    )


def _again(words: Sequence[Any], told: dict[str, dict[str, Any]], out: Path) -> Iterator[Finding]:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")} if out.is_dir() else {}
    threads = threading.active_count()  # after the first run: libraries keep pools of their own
    second = run(words)
    if wrong := broken(second):
        yield Finding("", f"the second run: {wrong}")
        return
    again = {Path(entry["source"]).name: entry["status"] for entry in json.loads(second.stdout)["files"]}
    for name, entry in told.items():
        # BMP holds no record, so what is there is kept
        wanted = {"restored": "kept" if str(entry["result"]).endswith((".bmp", ".dib")) else "skipped"}
        if again.get(name) != wanted.get(entry["status"], entry["status"]):
            yield Finding(name, f"{entry['status']} in the first run, {again.get(name)} in the second")
    if before != ({path: path.stat().st_mtime_ns for path in out.rglob("*")} if out.is_dir() else {}):
        yield Finding("", "the second run wrote files")
    if threading.active_count() > threads:
        yield Finding("", f"threads were left: {[thread.name for thread in threading.enumerate()]}")


def _status(told: dict[str, dict[str, Any]], name: str) -> str:
    return str(told[name]["status"]) if name in told else "lost"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- what reads one file


def exif(path: Path) -> None:
    """EXIF is changed in place or refused by ValueError, and nothing else happens."""
    content = path.read_bytes()
    with contextlib.suppress(ValueError):
        image_metadata.orientation(content)
        changed = image_metadata.upright(content)
        assert len(changed) == len(content), "its length changed"
        assert image_metadata.orientation(changed) == 1, "it is not upright"
        assert image_metadata.upright(changed) == changed, "a second time changes it again"
        assert len(image_metadata.with_size(changed, 40, 30)) == len(content), "its length changed with the size"


def recipe(path: Path) -> None:
    from bfsr_edge.train.recipe import load_recipe

    load_recipe(path)


def plan(path: Path) -> None:
    from bfsr_edge.calibrate.plan import load_plan

    load_plan(path)


def profile(path: Path) -> None:
    from bfsr_edge.engines.profile import load_profile

    load_profile(str(path))


def suite(path: Path) -> None:
    from bfsr_edge.benchmarks.suite import load_suite

    load_suite(str(path))


def calibration(path: Path) -> None:
    from bfsr_edge import quantization
    from bfsr_edge.calibration import Calibration

    found = Calibration.load(path)
    quantization.place(quantization.read(Path(quantization.__file__).parent / "weights" / "edge.onnx"), found)


def sidecar(path: Path) -> None:
    """As every command meets it that looks for engines, and as ``inspect`` does."""
    from bfsr_edge.runtime import built, choose, sidecar

    engine = path.with_suffix("")
    engine.write_bytes(b"a plan")
    for _, described in built.engines([path.parent]):
        sidecar.differences(described, sidecar.Here("openvino", "2026.1.0", cuda="", driver=""))
    choose(engine)


def safetensors(path: Path) -> None:
    from bfsr_edge.models import load_checkpoint

    load_checkpoint(path)


published = safetensors


def graph(path: Path) -> None:
    """Through the command, with one picture, as far as it comes."""
    picture = path.with_suffix(".png")
    images.write(picture, __import__("numpy").full((20, 24, 3), 90, "uint8"))
    wrong = broken(run(["restore", picture, "-o", path.parent / path.stem, "--model", path, "--tile", "32", "-q"]))
    assert not wrong, wrong
    wrong = broken(run(["inspect", path]))
    assert not wrong, f"inspect: {wrong}"


def faces(path: Path) -> None:
    """As ``train`` and ``calibrate`` take a tar: found, looked at, decoded; nothing is written."""
    from bfsr_edge import faceset

    listing = sorted(path.parent.rglob("*"))
    for face in faceset.find_faces([path]):
        with contextlib.suppress(BfsrError):
            faceset.decode_face(face, 16)
    assert sorted(path.parent.rglob("*")) == listing, "something was unpacked"


READERS: dict[str, Callable[[Path], None]] = {
    "exif": exif, "recipe": recipe, "plan": plan, "profile": profile, "suite": suite, "calibration": calibration,
    "sidecar": sidecar, "safetensors": safetensors, "published": published, "graph": graph, "faces": faces,
}  # fmt: skip
"""Kind of input to what reads it."""


def read(kind: str, path: Path) -> list[Finding]:
    """Read a file of a kind: nothing, or how it went wrong."""
    try:
        READERS[kind](path)
    except BfsrError as error:
        if not error.what or not str(error).strip():
            return [Finding(path.name, "its error says nothing")]
    except AssertionError as error:
        return [Finding(path.name, str(error))]
    except BaseException as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else "nowhere"
        return [Finding(path.name, f"{type(error).__name__}: {str(error)[:200]} at {where}")]
    return []
