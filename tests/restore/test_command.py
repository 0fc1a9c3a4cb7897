"""``bfsr-edge restore`` from end to end, on real files with a tiny network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from bfsr_edge import images
from bfsr_edge.cli import main

Photo = Callable[..., npt.NDArray[Any]]
Restore = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path, photo: Photo) -> Path:
    folder = tmp_path / "photos"
    images.write(folder / "a.png", photo())
    images.write(folder / "b.jpg", photo(70, 90))
    images.write(folder / "sub" / "c.tif", photo(20, 30, 1, np.uint16))
    images.write(folder / "sub" / "d.webp", photo(20, 30, 4))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def account(result: Result) -> dict[str, str]:
    return {Path(entry["source"]).name: entry["status"] for entry in json.loads(result.stdout)["files"]}


def test_a_folder_is_restored(photos: Path, restore: Restore) -> None:
    out = photos.parent / "out"
    result = restore(photos, "--out", out)
    assert result.exit_code == 0, result.output
    assert files(out) == ["a.png", "b.jpg", "sub/c.tif", "sub/d.webp"]
    source, made = images.read(photos / "a.png").pixels, images.read(out / "a.png").pixels
    np.testing.assert_array_equal(made, source.repeat(4, 0).repeat(4, 1))
    assert images.probe(out / "sub/c.tif") == images.Header("tiff", 120, 80, 1, 16)
    assert images.probe(out / "sub/d.webp").channels == 4
    assert result.stdout.startswith("4 restored, ")
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize("scale", [1, 2])
def test_other_scales(scale: int, photos: Path, restore: Restore) -> None:
    out = photos.parent / "out"
    # else a smooth picture is reduced first, and what nearest neighbours make of it is not itself
    assert restore(photos / "a.png", "-o", out, "--scale", scale, "--reduce", 1).exit_code == 0
    source = images.read(photos / "a.png").pixels
    np.testing.assert_array_equal(images.read(out / "a.png").pixels, source.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff"])
def test_a_second_run_skips_what_is_made(name: str, photos: Path, restore: Restore) -> None:
    out = photos.parent / "out"
    arguments = (photos / "a.png", photos / "b.jpg", "-o", out, "--format", name, "--json")
    assert set(account(restore(*arguments)).values()) == {"restored"}
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = restore(*arguments)
    assert again.exit_code == 0
    assert account(again) == {"a.png": "skipped", "b.jpg": "skipped"}
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    forced = restore(*arguments, "--overwrite")
    assert set(account(forced).values()) == {"restored"}


def test_other_options_or_weights_redo_the_result(photos: Path, restore: Restore, convolutions: Path) -> None:
    out = photos.parent / "out"
    restore(photos / "a.png", "-o", out)
    other = restore(photos / "a.png", "-o", out, "--scale", 2, "--json")
    assert account(other) == {"a.png": "restored"}
    assert images.probe(out / "a.png").width == 112
    weights = restore(photos / "a.png", "-o", out, "--scale", 2, "--json", model=convolutions)
    assert account(weights) == {"a.png": "restored"}


def test_what_was_not_made_from_this_input_is_kept(photos: Path, restore: Restore, photo: Photo) -> None:
    out = photos.parent / "out"
    images.write(out / "a.png", photo(5, 5))
    (out / "b.jpg").write_bytes(b"not even a picture")
    result = restore(photos / "a.png", photos / "b.jpg", "-o", out, "--json")
    assert result.exit_code == 1
    assert account(result) == {"a.png": "kept", "b.jpg": "kept"}
    assert "--overwrite" in result.stderr
    assert images.probe(out / "a.png").width == 5
    assert (out / "b.jpg").read_bytes() == b"not even a picture"


def test_a_changed_input_is_named(photos: Path, restore: Restore, photo: Photo) -> None:
    out = photos.parent / "out"
    restore(photos / "a.png", "-o", out)
    images.write(photos / "a.png", photo(seed=1))
    assert account(restore(photos / "a.png", "-o", out, "--json")) == {"a.png": "kept"}


def test_bad_files_are_reported_and_the_rest_go_on(photos: Path, restore: Restore) -> None:
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:1500])
    (photos / "empty.png").touch()
    out = photos.parent / "out"
    result = restore(photos, "-o", out, "--json")
    assert result.exit_code == 1
    assert account(result) == {
        "a.png": "restored", "b.jpg": "failed", "c.tif": "restored", "d.webp": "restored", "empty.png": "failed",
    }  # fmt: skip
    assert files(out) == ["a.png", "sub/c.tif", "sub/d.webp"]
    assert "Traceback" not in result.output
    assert "b.jpg" in result.stderr


def test_a_network_that_fails_writes_nothing(photos: Path, restore: Restore, broken: Path) -> None:
    out = photos.parent / "out"
    result = restore(photos / "a.png", photos / "b.jpg", "-o", out, "--json", model=broken)
    assert account(result) == {"a.png": "failed", "b.jpg": "failed"}
    assert "NaN" in result.stderr
    assert files(out) == []


def test_a_format_that_cannot_hold_it_is_refused_before_the_work(photos: Path, restore: Restore, photo: Photo) -> None:
    images.write(photos / "wide.png", photo(1, 4100))
    out = photos.parent / "out"
    result = restore(photos / "wide.png", photos / "sub/c.tif", "-o", out, "--format", "webp")
    assert result.exit_code == 1
    assert "16,383" in result.stderr
    assert "--format jpeg or png or tiff" in result.stderr
    assert "16 bits" in result.stderr
    assert not out.exists()


def test_a_dry_run_writes_nothing(photos: Path, restore: Restore) -> None:
    out = photos.parent / "out"
    result = restore(photos, "-o", out, "--dry-run", "--json")
    assert result.exit_code == 0
    assert set(account(result).values()) == {"planned"}
    assert json.loads(result.stdout)["files"][0]["result_size"] == [224, 160]
    assert not out.exists()


def test_quiet_and_verbose(photos: Path, restore: Restore) -> None:
    out = photos.parent / "out"
    assert restore(photos / "a.png", "-o", out, "--quiet").output == ""
    assert "a.png" in restore(photos, "-o", out, "--verbose").stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "no photographs"),
        (("photos",), "--out is missing"),
        (("nowhere", "-o", "out"), "nowhere"),
        (("photos", "-o", "out", "--scale", "3"), "scale 3"),
        (("photos", "-o", "out", "--overlap", "99"), "overlap of 99"),
        (("photos", "-o", "out", "--batch", "0"), "batch 0"),
        (("photos", "-o", "out", "--quality", "101"), "quality 101"),
        (("photos", "-o", "out", "--format", "gif"), "gif"),
        (("photos", "-o", "out", "-q", "-v"), "--quiet and --verbose"),
        (("photos", "-o", "photos"), "would replace"),
        (("photos", "-o", "photos/a.png"), "a.png"),
        (("photos", "-o", "out", "--model", "none.onnx"), "none.onnx"),
        (("photos", "-o", "out", "--backend", "none"), "none"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: tuple[str, ...], word: str, photos: Path, nearest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    model = () if "--model" in arguments else ("--model", str(nearest))
    result = CliRunner().invoke(main, ["restore", *arguments, *model])
    assert result.exit_code == 2, result.output
    assert word in result.output
    assert not (photos.parent / "out").exists()


def test_models_are_listed_without_input() -> None:
    from bfsr_edge.weights import list_models

    result = CliRunner().invoke(main, ["restore", "--list-models"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [entry.name for entry in list_models()]


def test_help_shows_an_example_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bfsr_edge.cli import main\nmain(['restore', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'openvino', 'onnxruntime', 'onnx', 'cv2', 'PIL', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bfsr-edge restore photos/ --out results/" in done.stdout


def _listen_to_interruptions() -> None:
    """A shell starts background jobs with SIGINT ignored, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(os.name == "nt", reason="signals differ there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_only_whole_pictures(
    number: signal.Signals, photos: Path, convolutions: Path, photo: Photo
) -> None:
    for copy in range(200):
        shutil.copy(photos / "b.jpg", photos / f"copy{copy:03}.jpg")
    out = photos.parent / "out"
    words = [str(photos), "-o", str(out), "--model", str(convolutions), "--json", "--tile", "32", "--overlap", "4"]
    command = [sys.executable, "-m", "bfsr_edge.cli", "restore", *words]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_listen_to_interruptions
    )
    deadline = time.monotonic() + 30
    while not (out.exists() and len(files(out)) > 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    told = json.loads(stdout)
    assert told["interrupted"] > 0
    assert told["restored"] == len(files(out))
    assert len(told["files"]) == 204
    for path in out.rglob("*.jpg"):
        images.read(path)
