"""--against: ratios of constructed results, and what the command says and returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.benchmarks import regression, results
from bfsr_edge.benchmarks.results import EngineRow
from bfsr_edge.errors import UsageError

HERE = "amd-epyc-2"


def row(precision: str, ratio: float | None, median: float = 1.0, **changes: str) -> EngineRow:
    values: dict[str, Any] = {
        "id": f"edge-{precision}-openvino",
        "network": "edge",
        "backend": "openvino",
        "device": "cpu",
        "machine": HERE,
        **changes,
    }
    return EngineRow(
        kind="ours", precision=precision, tile="128x128", batch=1, latency_median_ms=median, ratio_to_reference=ratio,
        **values,
    )  # fmt: skip


def test_only_ratios_count() -> None:
    before = [row("fp32", 1.0, 20.0), row("fp32+int8", 0.25, 5.0)]
    slower_machine = [row("fp32", 1.0, 80.0), row("fp32+int8", 0.25, 20.0)]
    assert not any(change.slower for change in regression.compare(before, slower_machine, HERE))
    worse = [row("fp32", 1.0, 10.0), row("fp32+int8", 0.3, 3.0)]
    changes = {change.id: change for change in regression.compare(before, worse, HERE)}
    assert changes["edge-fp32+int8-openvino"].factor == pytest.approx(1.2)
    assert changes["edge-fp32+int8-openvino"].slower
    assert not changes["edge-fp32-openvino"].slower


def test_the_threshold_itself_passes() -> None:
    (change,) = regression.compare([row("fp32", 1.0)], [row("fp32", 1.15)], HERE, 1.15)
    assert not change.slower
    (change,) = regression.compare([row("fp32", 1.0)], [row("fp32", 1.16)], HERE, 1.15)
    assert change.slower
    assert "slower than 1.15" in regression.table([change])


def test_another_engine_is_not_compared() -> None:
    with pytest.raises(UsageError, match="no engine of this run"):
        regression.compare([row("fp32", 1.0)], [row("fp32", 9.0, backend="onnxruntime")], HERE)


def test_another_kind_of_machine_is_not_compared() -> None:
    """INT8 may be three times as fast as FP32 on one and hardly faster on the other: no regression."""
    before = [row("fp32+int8", 0.2, machine="intel-xeon-2"), row("fp32", 1.0, machine="intel-xeon-2")]
    with pytest.raises(UsageError, match="were not measured on amd-epyc-2") as caught:
        regression.compare(before, [row("fp32+int8", 0.5)], HERE)
    assert "intel-xeon-2" in caught.value.why[0]
    (change,) = regression.compare([*before, row("fp32+int8", 0.5)], [row("fp32+int8", 0.5)], HERE)
    assert change.factor == 1


def test_the_machine_of_a_run_folder_is_read_beside_it(tmp_path: Path) -> None:
    results.write_table(tmp_path / "engines.csv", [row("fp32", 1.0, machine="")], EngineRow)
    results.write_json(tmp_path / results.MACHINE, {"name": HERE})
    assert [each.machine for each in regression.read_before([tmp_path])] == [HERE]


def test_kept_results_are_named_and_read_again(tmp_path: Path) -> None:
    rows = [row("fp32", 1.0), row("fp32+int8", 0.25), row("bf16", None)]
    written = regression.keep(rows, tmp_path, HERE, "2026-11-22T10:00:00+00:00")
    assert [path.name for path in written] == [
        "edge-fp32-openvino-amd-epyc-2-2026-11-22.csv",
        "edge-fp32+int8-openvino-amd-epyc-2-2026-11-22.csv",
    ]
    assert {each.id for each in regression.read_before([tmp_path])} == {each.id for each in rows[:2]}
    assert regression.read_before([written[1]]) == [rows[1]]


def test_results_without_a_ratio_or_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no result to compare with"):
        regression.read_before([tmp_path / "none.csv"])
    path = tmp_path / "a.csv"
    results.write_table(path, [row("fp32", None)], EngineRow)
    with pytest.raises(UsageError, match="ratio"):
        regression.read_before([path])
