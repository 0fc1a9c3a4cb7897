"""tools/draw_curves.py: a run's scores under the faces that it had seen."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib, of the train extra")

TOOL = Path(__file__).resolve().parents[2] / "tools" / "draw_curves.py"


@pytest.mark.parametrize(("batch", "faces"), [((), "580"), (("--batch", "16"), "660")])
def test_faces_are_counted_with_the_runs_batch(
    batch: tuple[str, ...], faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.spec_from_file_location("draw_curves", TOOL)
    assert found is not None
    assert found.loader is not None
    tool = importlib.util.module_from_spec(found)
    found.loader.exec_module(tool)
    curves, log = tmp_path / "edge-curves.csv", tmp_path / "log.csv"
    curves.write_text("part,faces,val_psnr\n1,500,20.000\n")
    log.write_text("iteration,val_psnr\n5,\n10,21.5\n")
    monkeypatch.setattr(tool, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["draw_curves", "--append", "2", str(log), "--after", "500", *batch])
    tool.main()
    assert curves.read_text().splitlines()[1:] == ["1,500,20.000", f"2,{faces},21.500"]
    assert (tmp_path / "edge-curves.png").stat().st_size > 1000
