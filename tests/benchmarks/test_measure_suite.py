"""Suites: what ships loads, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfsr_edge.benchmarks.suite import STAGE, Suite, load_suite
from bfsr_edge.errors import UsageError
from bfsr_edge.resources import list_tomls


def test_the_two_suites_keep_the_protocol() -> None:
    assert list_tomls(STAGE) == ["full", "quick"]
    for name in list_tomls(STAGE):
        suite = load_suite(name)
        assert suite.name == name
        assert suite.warm_seconds >= 0.2
        assert suite.warm_runs >= 20
        assert suite.seconds >= 3
        assert suite.runs >= 200
        assert suite.slow_runs == 3
        assert suite.slow_faces == 8
        assert suite.rounds >= 4
        assert suite.models == ("edge", "srresnet24")
        assert set(suite.peers) == {"ncnn", "realesr-animevideov3-x4", "realesrgan-x4plus"}
    assert load_suite("full").megapixels[0] == 1
    assert load_suite("full").megapixels[-1] == 50
    assert load_suite("full").pairs == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("surprise = 1", "surprise"),
        ("pairs = 'many'", "pairs"),
        ("batches = 4", "no list"),
        ("batches = [1, 'two']", "batches"),
        ("runs = 0", "runs"),
        ("peers = ['nobody']", "peers"),
        ("engines = ['openvino-int4']", "engines"),
        ("slow_faces = 1", "slow_faces"),
        ("pairs = ", "cannot be read"),
    ],
)
def test_a_wrong_suite_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + "\n", "utf-8")
    with pytest.raises(UsageError) as caught:
        load_suite(str(path))
    assert told in str(caught.value)


def test_an_unknown_suite_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="neither a file nor a name known for benchmarks") as caught:
        load_suite("fast")
    assert "quick" in caught.value.fix


def test_whole_numbers_are_seconds_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seconds = 4\nmegapixels = [1, 2.5]\n", "utf-8")
    suite = load_suite(str(path))
    assert suite == Suite(name="mine", seconds=4.0, megapixels=(1.0, 2.5))
    assert isinstance(suite.seconds, float)
