from __future__ import annotations

from pathlib import Path

import pytest

from bfsr_edge import resources
from bfsr_edge.errors import UsageError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as a wheel lays it out, with two recipes."""
    package = tmp_path / "site-packages" / "bfsr_edge"
    (package / "data" / "train").mkdir(parents=True)
    for name in ("edge", "baseline"):
        (package / "data" / "train" / f"{name}.toml").write_text("")
    monkeypatch.setattr(resources, "PACKAGE", package)
    return package


def test_name_in_a_wheel(wheel: Path) -> None:
    assert resources.list_tomls("train") == ["baseline", "edge"]
    assert resources.find_toml("train", "edge") == wheel / "data" / "train" / "edge.toml"
    assert resources.find_toml("train", "edge.toml") == wheel / "data" / "train" / "edge.toml"


def test_checkout_comes_first(wheel: Path) -> None:
    (wheel.parent / "setup.py").write_text("")
    (wheel.parent / "train").mkdir()
    (wheel.parent / "train" / "mine.toml").write_text("")
    assert resources.list_tomls("train") == ["mine"]
    assert resources.find_toml("train", "mine") == wheel.parent / "train" / "mine.toml"


def test_path_beats_name(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge").write_text("")
    assert resources.find_toml("train", "edge") == Path("edge")


def test_unknown_name_lists_the_known(wheel: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)edgy is neither.*baseline, edge"):
        resources.find_toml("train", "edgy")


def test_no_names_at_all(wheel: Path) -> None:
    with pytest.raises(UsageError, match="give the path of a TOML file"):
        resources.find_toml("engines", "orin")


def test_unknown_stage(wheel: Path) -> None:
    with pytest.raises(ValueError, match="none of the stages"):
        resources.find_toml("recipes", "edge")
