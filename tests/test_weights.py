"""Names to files: the manifest, the hashes, and what is said when nothing fits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge import weights
from bfsr_edge.errors import ModelError, UsageError

CONTENT = {"edge.onnx": b"a graph", "edge.safetensors": b"some weights", "flat.safetensors": b"other weights"}


def entry(name: str, *files: str) -> dict[str, Any]:
    return {
        "name": name,
        "summary": "for tests",
        "architecture": "edge-unet",
        "parameters": 12,
        "gmacs": 0.5,
        "licence": "CC0-1.0",
        "scores": {"val_psnr": 29.5},
        "files": {
            weights.KINDS[Path(file).suffix]: {"path": file, "sha256": hashlib.sha256(CONTENT[file]).hexdigest()}
            for file in files
        },
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up weights folder of two models."""
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    models = [entry("edge", "edge.safetensors", "edge.onnx"), entry("flat", "flat.safetensors")]
    (tmp_path / "manifest.json").write_text(json.dumps({"version": 1, "models": models}))
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_ships_is_whole() -> None:
    for shipped in weights.list_models():
        for kind in shipped.files:
            assert weights.resolve(shipped.name, kind=kind).kind == kind


def test_list(folder: Path) -> None:
    models = weights.list_models()
    assert [model.name for model in models] == ["edge", "flat"]
    assert models[0].scores == {"val_psnr": 29.5}
    assert models[0].files["onnx"].path == folder / "edge.onnx"


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("edge", None, "edge.onnx"),
        ("edge", "onnx", "edge.onnx"),
        ("edge", "checkpoint", "edge.safetensors"),
        ("flat", None, "flat.safetensors"),
    ],
)
def test_names(folder: Path, name: str, kind: str | None, file: str) -> None:
    model = weights.resolve(name, kind=kind)
    assert (model.name, model.path) == (name, folder / file)
    assert model.sha256 == hashlib.sha256(CONTENT[file]).hexdigest()


def test_paths(folder: Path) -> None:
    path = folder / "flat.safetensors"
    for given in (path, str(path)):
        model = weights.resolve(given)
        assert (model.name, model.path, model.kind) == ("flat.safetensors", path, "checkpoint")


def test_a_name_wins_over_a_file_of_that_name(folder: Path) -> None:
    (folder / "edge").write_bytes(b"")
    assert weights.resolve("edge").path == folder / "edge.onnx"
    with pytest.raises(UsageError, match="suffix is missing"):
        weights.resolve("./edge")


def test_a_damaged_file_is_refused(folder: Path) -> None:
    (folder / "edge.onnx").write_bytes(b"a grape")
    with pytest.raises(ModelError, match="is not what the manifest lists"):
        weights.resolve("edge")
    (folder / "edge.onnx").unlink()
    with pytest.raises(ModelError, match="cannot read"):
        weights.resolve("edge")


def test_a_kind_that_does_not_ship(folder: Path) -> None:
    with pytest.raises(ModelError, match="'flat' has no onnx"):
        weights.resolve("flat", kind="onnx")


@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        ("egde", "no model called 'egde'", "--model edge"),
        ("whatever", "no model called 'whatever'", "--list-models"),
        ("egde.onnx", "no file egde.onnx", "path of a file"),
        ("runs/edge", "no file runs/edge", "path of a file"),
    ],
)
def test_a_name_is_told_from_a_path(folder: Path, given: str, what: str, fix: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        weights.resolve(given)
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


def test_unknown_names_list_the_known(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        weights.resolve("big")
    assert "edge, flat" in str(caught.value)


def test_folders_and_other_files(folder: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        weights.resolve(folder)
    with pytest.raises(UsageError, match=r"suffix is \.json"):
        weights.resolve(folder / "manifest.json")


@pytest.mark.parametrize("content", [None, "", "[]", '{"version": 2, "models": []}', '{"version": 1, "models": [{}]}'])
def test_a_damaged_manifest(folder: Path, content: str | None) -> None:
    manifest = folder / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    with pytest.raises(ModelError, match="list of shipped models"):
        weights.list_models()
