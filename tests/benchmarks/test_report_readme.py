"""README's benchmark table and the Pareto picture come from benchmarks/results, and are fresh."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bfsr_edge.benchmarks.results import EngineRow, write_table

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "readme_numbers.py"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=None)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A README with markers, and results of two engines, a peer and one that did not run."""
    (tmp_path / "README.md").write_text(f"# A project\n\n{BEGIN}\n{END}\n\nThe end.\n", "utf-8")
    rows = [
        EngineRow("edge-int8-openvino", "ours", "edge", "int8", "openvino", "2026.4", n_images=100, psnr_mean=29.09,
                  drop_mean=0.0097, latency_median_ms=9.04, ratio_to_reference=0.5),
        EngineRow("edge-fp32-openvino", "ours", "edge", "fp32", "openvino", "2026.4", n_images=100, psnr_mean=29.1,
                  latency_median_ms=17.1, ratio_to_reference=1.0),
        EngineRow("animevideo-fp32-ncnn", "peer", "animevideo", "fp32", "ncnn", "1", n_images=8, psnr_mean=27.63,
                  latency_median_ms=1190.0, ratio_to_reference=66.0),
        EngineRow("edge-fp16-tensorrt", "ours", "edge", "fp16", "tensorrt", note="no GPU"),
    ]  # fmt: skip
    for row in rows:
        name = f"{row.network}-{row.precision}-{row.backend}-epyc-2026-11-22.csv"
        write_table(tmp_path / "benchmarks" / "results" / name, [row], EngineRow)
    return tmp_path


def test_this_repository_is_fresh() -> None:
    checked = run(ROOT, "--check")
    assert checked.returncode == 0, checked.stderr


def test_writes_table_and_picture(checkout: Path) -> None:
    assert run(checkout, "--check").returncode == 1
    written = run(checkout)
    assert written.returncode == 0, written.stderr
    assert written.stdout.split() == ["wrote", "README.md", "wrote", "assets/pareto.svg"]
    readme = (checkout / "README.md").read_text("utf-8")
    assert readme.startswith("# A project\n\n")
    assert readme.endswith("\n\nThe end.\n")
    assert "| **`edge-int8-openvino`** | **OpenVINO 2026.4** | **29.09 dB (100 pictures)** |" in readme
    assert "| 1.19 s | 132× |" in readme
    assert "| *not run here* |" in readme
    assert "epyc, 2026-11-22." in readme
    picture = (checkout / "assets" / "pareto.svg").read_text("utf-8")
    assert "edge INT8" in "".join(ElementTree.fromstring(picture).itertext())
    assert "prefers-color-scheme" in picture
    assert run(checkout, "--check").returncode == 0
    assert run(checkout).stdout == ""


@pytest.mark.parametrize("change", ["number", "readme", "picture"])
def test_stale_is_noticed(checkout: Path, change: str) -> None:
    assert run(checkout).returncode == 0
    path = {
        "number": checkout / "benchmarks" / "results" / "edge-int8-openvino-epyc-2026-11-22.csv",
        "readme": checkout / "README.md",
        "picture": checkout / "assets" / "pareto.svg",
    }[change]
    text = path.read_text("utf-8")
    path.write_text(text.replace("29.09", "29.95").replace("edge INT8", "edge INT4"), "utf-8")
    assert path.read_text("utf-8") != text
    checked = run(checkout, "--check")
    assert checked.returncode == 1
    assert "is stale\n  next: python tools/readme_numbers.py" in checked.stderr


def test_the_newest_day_of_a_machine_counts_and_other_tables_do_not(checkout: Path) -> None:
    results = checkout / "benchmarks" / "results"
    old = EngineRow(
        "edge-int8-openvino", "ours", "edge", "int8", "openvino", "1999", latency_median_ms=1.0, psnr_mean=40.0
    )
    write_table(results / "edge-int8-openvino-epyc-2026-01-01.csv", [old], EngineRow)
    (results / "throughput.csv").write_text("date,machine\n2026,x\n", "utf-8")
    assert run(checkout).returncode == 0
    assert "1999" not in (checkout / "README.md").read_text("utf-8")


def test_without_markers_nothing_is_touched(checkout: Path) -> None:
    (checkout / "README.md").write_text("# A project\n", "utf-8")
    assert run(checkout, "--check").returncode == 0
    assert "nothing to do" in run(checkout).stdout
    assert not (checkout / "assets").exists()


@pytest.mark.parametrize(("text", "told"), [(f"{END}{BEGIN}", "needs both"), (BEGIN, "needs both")])
def test_markers_that_do_not_match(checkout: Path, text: str, told: str) -> None:
    (checkout / "README.md").write_text(text, "utf-8")
    checked = run(checkout, "--check")
    assert checked.returncode == 1
    assert told in checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_place_without_results(checkout: Path) -> None:
    for path in (checkout / "benchmarks" / "results").iterdir():
        path.unlink()
    checked = run(checkout, "--check")
    assert checked.returncode == 1
    assert "no engine's CSV" in checked.stderr
