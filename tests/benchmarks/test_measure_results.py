"""Tables of a run: what is written is read again, and what is damaged is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bfsr_edge.benchmarks import measure, results
from bfsr_edge.benchmarks.pictures import Pictures
from bfsr_edge.benchmarks.results import (
    EngineRow,
    GalleryRow,
    ImageRow,
    LatencyRow,
    LayerRow,
    Run,
    SizeRow,
    ThroughputRow,
)
from bfsr_edge.benchmarks.rooflines import Peaks
from bfsr_edge.benchmarks.suite import Suite
from bfsr_edge.errors import BfsrError, UsageError
from tests.benchmarks.helpers import save_run

CONTRACT = """
    id kind network precision backend backend_version device threads tile batch parameters gmacs mbytes n_images
    psnr_mean psnr_worst psnr_std ssim_mean ssim_worst drop_mean drop_worst drop_std perceptual_mean latency_min_ms
    latency_mean_ms latency_median_ms latency_p90_ms latency_p95_ms latency_p99_ms latency_cv latency_n
    ratio_to_reference cold_start_s peak_rss_mb device_mb energy_j gmacs_per_s roofline_compute roofline_memory note
"""


def whole_run() -> Run:
    return Run(
        machine={"date": "2026-01-02", "cpu": {"name": "ü"}},
        engines=(
            EngineRow("a-fp32-openvino", "ours", "a", threads=2, latency_median_ms=1.5, note='said "no", and went; on'),
            EngineRow("b", "peer", note="not installed"),
        ),
        images=(ImageRow("a-fp32-openvino", "1.png", 29.5, 0.875), ImageRow("x", "1.png", 29.0, 0.75, 0.5)),
        latency=(LatencyRow("a-fp32-openvino", 0, 1.25), LatencyRow("a-fp32-openvino", 1, 1.75)),
        throughput=(ThroughputRow("a-fp32-openvino", 4, 700.0),),
        sizes=(SizeRow("a-fp32-openvino", 1.0, 4, 2.5, 0.25, 3.5, 0.5, 300.0),),
        layers=(LayerRow("/head/Conv", 0.001, 1e6),),
        gallery=(GalleryRow(1, "1.png", "x", 29.5, 29.0),),
        curves={"edge": ({"iteration": "1", "loss": "0.5"}, {"iteration": "2", "loss": "0.25"})},
    )


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_run(whole_run(), tmp_path)
    assert Run.load(tmp_path) == whole_run()


def test_columns_are_those_agreed_on() -> None:
    found = results.columns(EngineRow)
    assert [name for name in found if name in CONTRACT.split()] == CONTRACT.split()


def test_appending_gives_the_file_that_saving_gives(tmp_path: Path) -> None:
    rows = whole_run().latency
    for row in rows:
        results.append(tmp_path / "a" / "latency.csv", [row])
    results.write_table(tmp_path / "b.csv", rows, LatencyRow)
    assert (tmp_path / "a" / "latency.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_columns_may_be_missing_moved_or_new(tmp_path: Path) -> None:
    path = tmp_path / "engines.csv"
    path.write_text("future,kind,id,latency_n\n7,peer,x,12\n", "utf-8")
    assert results.read_table(path, EngineRow) == [EngineRow("x", "peer", latency_n=12)]


@pytest.mark.parametrize(
    ("text", "told"),
    [("id,round,ms\na,0,1.5\na,one,2\n", "line 3"), ("id,round,ms\na,0,\n", "ms is empty"), ("id,round\na,0\n", "ms")],
)
def test_a_damaged_row_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "latency.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        results.read_table(path, LatencyRow)
    assert told in str(caught.value)


@pytest.mark.parametrize("finished", [True, False])
def test_rows_of_an_engine_that_was_not_finished_are_removed(tmp_path: Path, finished: bool) -> None:
    run = whole_run() if finished else dataclasses.replace(whole_run(), engines=())
    extra = dataclasses.replace(run, latency=(*run.latency, LatencyRow("x", 0, 1.0)))
    save_run(extra, tmp_path)
    if not finished:
        (tmp_path / "engines.csv").unlink()  # killed within the first engine
    bench = measure.Bench(
        Suite(), tmp_path, tmp_path / "work", Pictures((), ""), 1, Peaks(), lambda line: None, lambda *done: None
    )
    measure.run(bench, [])
    kept = [row.id for row in run.engines]
    for name, rows in (("images", run.images), ("latency", run.latency), ("throughput", run.throughput)):
        found = results.read_table(tmp_path / f"{name}.csv", results.TABLES[name])
        assert found == [row for row in rows if row.id in kept]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of a benchmark run"):
        Run.load(tmp_path)


def test_an_unwritable_place_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BfsrError, match="cannot write"):
        results.replace(tmp_path / "file" / "x.csv", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_rows_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineRow("a", "ours").id = "b"  # type: ignore[misc]
