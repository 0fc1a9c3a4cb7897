"""What is told of the exceptions of libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bfsr_edge.cli import main
from bfsr_edge.errors import first_line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "RuntimeError"),
        (" \n\n", "RuntimeError"),
        ("\n\n  it failed \nframe 1\nframe 2", "it failed"),
        ("Exception from src/inference/core.cpp:93:\nCheck 'shape' failed at src/shape.cpp:7:\nno shape\n", "no shape"),
        ("Exception from src/inference/core.cpp:93:\n", "Exception from src/inference/core.cpp:93:"),
    ],
)
def test_first_line(text: str, told: str) -> None:
    assert first_line(RuntimeError(text)) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["restore", "", "--out", "results"], "an argument is empty"),
        (["restore", "photos", "--out", ""], "--out is empty"),
        (["restore", "photos", "--out=", "--suffix", ""], "--out is empty"),
        (["restore", "photos", "--out", "results", "--report", ""], "--report is empty"),
        (["train", "--faces", ""], "--faces is empty"),
    ],
)
def test_empty_words_are_no_paths(words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the shell without a value would mean the folder that one stands in."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert told in done.output
    assert not list(tmp_path.iterdir())


def test_an_empty_suffix_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["--suffix", ""], ["--suffix="]):
        done = CliRunner().invoke(main, ["restore", "photos", "--out", "results", *words])
        assert "there is no file or folder photos" in done.output
