"""What ships: names to files, with their hashes.

``manifest.json`` beside this file lists every shipped model. A model has up to one file of each kind, a *checkpoint*
(safetensors, for torch) and an *onnx* (for the other backends), and every file's sha256 is checked before it is used.
The ONNX holds no weights: it names their places in the checkpoint (ONNX external data), which is checked with it.

``--model NAME|FILE`` of every command goes through ``resolve``.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bfsr_edge.errors import ModelError, UsageError
from bfsr_edge.files import sha256

DEFAULT = "edge"
FOLDER = Path(__file__).parent
MANIFEST_VERSION = 1
KINDS = {
    ".safetensors": "checkpoint",
    ".pth": "checkpoint",
    ".pt": "checkpoint",
    ".ckpt": "checkpoint",
    ".onnx": "onnx",
    ".engine": "engine",
    ".plan": "engine",
}
SHIPPED_KINDS = ("onnx", "checkpoint")
CALIBRATION = "calibration"
"""What turns a shipped ONNX into INT8; no model by itself, so it is found only by asking for it."""


@dataclass(frozen=True)
class ShippedFile:
    """One file of a shipped model."""

    path: Path
    """Where it lies."""
    sha256: str
    """What its content must hash to, 64 hexadecimal digits."""


@dataclass(frozen=True)
class ModelEntry:
    """One shipped model, as the manifest describes it."""

    name: str
    """What ``--model`` calls it."""
    summary: str
    """One line on what it is for."""
    architecture: str
    """Its name in ``bfsr_edge.models``."""
    parameters: int
    """How many weights it has."""
    gmacs: float
    """10⁹ multiply-accumulates for one 128×128 input."""
    files: Mapping[str, ShippedFile]
    """Kind ("checkpoint", "onnx" or "calibration") to file."""
    scores: Mapping[str, float]
    """What it reached, such as ``val_psnr`` in dB; the model card says on which pictures."""
    licence: str
    """The terms of the weights, which are not those of the code."""


@dataclass(frozen=True)
class Model:
    """One file that can be loaded."""

    name: str
    """The shipped name, or the file's name."""
    path: Path
    """The file."""
    kind: str
    """"checkpoint", "onnx", "engine" or "calibration"."""
    sha256: str
    """The hash of the file's content."""


def list_models() -> list[ModelEntry]:
    """Every shipped model, in the manifest's order, the default first by convention.

    Raises
    ------
    ModelError
        The manifest is missing or cannot be read: the installation is damaged.
    """
    manifest = FOLDER / "manifest.json"
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if content["version"] != MANIFEST_VERSION:
            raise ValueError(f"version {content['version']} is not {MANIFEST_VERSION}")
        return [_entry(entry) for entry in content["models"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the list of shipped models cannot be read: {manifest}",
            why=(f"the installation is damaged ({type(error).__name__}: {error})",),
            fix="pip install --force-reinstall bfsr-edge",
        ) from error


def resolve(name_or_path: str | os.PathLike[str], *, kind: str | None = None) -> Model:
    """The file behind ``--model``: a shipped model's name, or a path.

    Parameters
    ----------
    name_or_path
        A shipped name wins over a file of the same name in the working folder; write ``./edge`` for the file.
    kind
        Which file of a shipped model: "onnx" or "checkpoint". ``None`` takes the ONNX if there is one. A path has the
        kind that its suffix says, whatever stands here.

    Raises
    ------
    UsageError
        No such name, no such file, or a file whose suffix says nothing.
    ModelError
        A shipped file is missing or its hash differs from the manifest, or the model has no file of that kind.
    """
    text = os.fspath(name_or_path)
    entries = {entry.name: entry for entry in list_models()}
    if text in entries:
        return _shipped(entries[text], kind)
    path = Path(text)
    if path.is_dir():
        raise UsageError(f"{text} is a folder, not a model", fix="name the file inside it")
    if not path.exists():
        raise _not_there(text, list(entries))
    if path.suffix.lower() not in KINDS:
        raise UsageError(
            f"{text} does not look like a model: its suffix is {path.suffix or 'missing'}",
            fix=f"use a file that ends in {', '.join(KINDS)}",
        )
    return Model(path.name, path, KINDS[path.suffix.lower()], sha256_of(path))


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, 64 hexadecimal digits.

    Raises
    ------
    ModelError
        The file cannot be read.
    """
    try:
        return sha256(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}", why=(error.strerror or str(error),)) from error


def _entry(entry: Mapping[str, Any]) -> ModelEntry:
    files = {
        kind: ShippedFile(FOLDER / file["path"], file["sha256"])
        for kind, file in entry["files"].items()
        if kind in (*SHIPPED_KINDS, CALIBRATION)
    }
    return ModelEntry(
        name=entry["name"],
        summary=entry["summary"],
        architecture=entry["architecture"],
        parameters=int(entry["parameters"]),
        gmacs=float(entry["gmacs"]),
        files=files,
        scores={score: float(value) for score, value in entry["scores"].items()},
        licence=entry["licence"],
    )


def _shipped(entry: ModelEntry, kind: str | None) -> Model:
    wanted = [kind] if kind else [kind for kind in SHIPPED_KINDS if kind in entry.files]
    if kind == CALIBRATION and kind not in entry.files:
        raise ModelError(
            f"the shipped model {entry.name!r} has no calibration",
            fix=f"make one: bfsr-edge calibrate --model {entry.name} --faces DIR",
        )
    if not wanted or wanted[0] not in entry.files:
        raise ModelError(
            f"the shipped model {entry.name!r} has no {kind or 'file'}",
            why=(f"it ships as {', '.join(entry.files) or 'nothing'}",),
            fix="choose a backend that reads what ships: openvino and onnxruntime read onnx, torch reads checkpoints",
        )
    # the ONNX of a shipped model takes its weights out of the checkpoint beside it
    beside = [entry.files["checkpoint"]] if wanted[0] == "onnx" and "checkpoint" in entry.files else []
    for part in beside:
        _checked_hash(part)
    file = entry.files[wanted[0]]
    return Model(entry.name, file.path, wanted[0], _checked_hash(file))


def _checked_hash(file: ShippedFile) -> str:
    found = sha256_of(file.path)
    if found != file.sha256:
        raise ModelError(
            f"the shipped file {file.path} is not what the manifest lists",
            why=(
                "the download or the disk damaged it, or it was edited",
                f"its sha256 is {found[:16]}…, the manifest says {file.sha256[:16]}…",
            ),
            fix="pip install --force-reinstall bfsr-edge; a model of your own is given by its path",
        )
    return found


def _not_there(text: str, names: list[str]) -> UsageError:
    """A path that is not there is told from a name that nobody ships."""
    path = Path(text)
    if path.suffix.lower() in KINDS or path.name != text:
        return UsageError(
            f"there is no file {text}",
            why=("the path is misspelt, or relative to another folder than the current one",),
            fix="give the path of a file, or the name of a shipped model: bfsr-edge restore --list-models",
        )
    near = difflib.get_close_matches(text, names, n=1)
    return UsageError(
        f"there is no model called {text!r}",
        why=(f"the shipped models are: {', '.join(names) or 'none yet'}",),
        fix=f"--model {near[0]}" if near else "bfsr-edge restore --list-models, or give the path of a file",
    )
