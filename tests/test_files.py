"""Files whole or not at all, their hashes, and who is still alive."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from bfsr_edge import files
from bfsr_edge.errors import BfsrError, ModelError
from bfsr_edge.restore.record import digest_of
from bfsr_edge.weights import sha256_of


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "new" / "folder" / "a.csv"
    for content in (b"first, longer", b"second", b""):
        files.replace(path, content, sync=sync)
        assert path.read_bytes() == content
        assert [entry.name for entry in path.parent.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failing", [full, interrupted])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, step: str, failing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, failing)
    with pytest.raises((OSError, KeyboardInterrupt)):
        files.replace(path, b"new", sync=True)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"a.csv": b"old"}


def test_the_first_failure_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("second")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OSError, match="No space left"):
        files.replace(tmp_path / "a.csv", b"new")


def test_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: steps.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda *_: steps.append("replace"))
    files.replace(tmp_path / "a.csv", b"new")
    files.replace(tmp_path / "a.csv", b"new", sync=True)
    assert steps == ["replace", "fsync", "replace"]


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BfsrError) as caught, files.writing(tmp_path / "file" / "a.csv"):
        files.replace(tmp_path / "file" / "a.csv", b"")
    assert caught.value.what == f"cannot write {tmp_path / 'file' / 'a.csv'}"
    assert len(caught.value.why) == 1
    assert "--out" in caught.value.fix


@pytest.mark.parametrize("size", [0, 1, files.BLOCK, 2 * files.BLOCK + 3])
def test_sha256(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert files.sha256(tmp_path / "a") == sha256_of(tmp_path / "a") == digest_of(tmp_path / "a") == expected
    with pytest.raises(OSError, match="No such file"):
        files.sha256(tmp_path / "missing")


def test_a_large_model_is_hashed_in_little_memory(tmp_path: Path) -> None:
    with open(tmp_path / "large.onnx", "wb") as file:
        file.truncate(32 * files.BLOCK)
    tracemalloc.start()
    try:
        sha256_of(tmp_path / "large.onnx")
        assert tracemalloc.get_traced_memory()[1] < 4 * files.BLOCK
    finally:
        tracemalloc.stop()
    with pytest.raises(ModelError, match="cannot read"):
        sha256_of(tmp_path / "missing.onnx")


def test_who_runs() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not files.process_runs(gone.pid)
    for running in (os.getpid(), os.getppid(), 1):  # 1 is another user's, unless root asks
        assert files.process_runs(running)
    assert files.process_runs(10**30), "no system has that number, so nothing says that it is gone"


def test_who_runs_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a signal of 0 is Ctrl-C, which ends the process that it is sent to."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", interrupted)
        patch.setattr(os, "name", "nt")
        answers = files.process_runs(os.getpid()), files.process_runs(os.getppid())
    assert answers == (True, False)
