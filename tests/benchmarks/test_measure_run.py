"""The command on a tiny network: every table against the others and against what is computed here again."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bfsr_edge.benchmarks import results, stats
from bfsr_edge.benchmarks.results import EngineRow, Run
from bfsr_edge.metrics import psnr, ssim, to_8bit
from bfsr_edge.runtime import load
from tests.benchmarks.helpers import TILE, benchmark, command, make_model, make_pairs, make_suite

pytest.importorskip("onnxruntime")

REFERENCE = "edge-fp32-openvino"
FP32, INT8, OTHER = "mini-fp32-openvino", "mini-int8-openvino", "mini-int8-onnxruntime"


@dataclass(frozen=True)
class Done:
    """One finished run."""

    folder: Path
    out: Path
    model: Path
    arguments: tuple[object, ...]
    printed: str

    @property
    def run(self) -> Run:
        return Run.load(self.out)

    def row(self, identity: str) -> EngineRow:
        (found,) = [row for row in self.run.engines if row.id == identity]
        return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("benchmark")
    model = make_model(folder)
    lq, gt = make_pairs(folder)
    out = folder / "run"
    arguments = (
        *("--suite", make_suite(folder, model), "--lq", lq, "--gt", gt, "--out", out, "--threads", 1),
        *("--keep", folder / "kept"),
    )
    finished = benchmark(*arguments, cwd=folder)
    assert finished.returncode == 0, finished.stderr
    return Done(folder, out, model, arguments, finished.stdout + finished.stderr)


def picture(path: Path) -> npt.NDArray[np.uint8]:
    read = cv2.imread(str(path))
    assert read is not None
    return np.asarray(read[:, :, ::-1], np.uint8)


def test_there_is_a_row_for_each_engine(done: Done) -> None:
    ids = [row.id for row in done.run.engines]
    peer = "realesr-animevideov3-x4-fp32-ncnn"
    assert ids == [REFERENCE, FP32, INT8, OTHER, "mini-fp32-torch", "bicubic-opencv", peer]
    assert [row.kind for row in done.run.engines] == ["ours"] * 5 + ["baseline", "peer"]
    for name in ("report.md", "report.html"):
        assert (done.out / name).is_file()
    assert not (done.out / "work").exists()


def test_the_executed_precision_stands_in_every_row_that_ran(done: Done) -> None:
    assert done.row(FP32).precision == "fp32"
    assert done.row(INT8).precision == "fp32+int8"
    assert done.row(OTHER).precision == "fp32+int8"


def test_an_engine_that_cannot_run_says_why(done: Done) -> None:
    row = done.row("mini-fp32-torch")
    assert row.latency_median_ms is None
    assert row.psnr_mean is None
    assert "ONNX" in row.note


def test_scores_are_those_of_the_engine(done: Done) -> None:
    engine = load(done.model, backend="openvino", device="cpu", tile=TILE, threads=1)
    rows = [row for row in done.run.images if row.id == FP32]
    assert [row.image for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        low, truth = (picture(done.folder / side / row.image) for side in ("lq", "gt"))
        batch = np.ascontiguousarray(low.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        result = to_8bit(engine.run(batch)[0].transpose(1, 2, 0))
        assert row.psnr == pytest.approx(psnr(result, truth), abs=1e-3)
        assert row.ssim == pytest.approx(ssim(result, truth), abs=1e-5)
    found = done.row(FP32)
    assert found.psnr_mean == pytest.approx(np.mean([row.psnr for row in rows]), abs=1e-4)
    assert found.psnr_worst == pytest.approx(min(row.psnr for row in rows), abs=1e-4)
    assert found.n_images == 3
    assert found.drop_mean is None


def test_bicubic_is_opencv_s(done: Done) -> None:
    rows = [row for row in done.run.images if row.id == "bicubic-opencv"]
    assert len(rows) == 3
    for row in rows:
        low, truth = (picture(done.folder / side / row.image) for side in ("lq", "gt"))
        larger = cv2.resize(low, (4 * TILE, 4 * TILE), interpolation=cv2.INTER_CUBIC)
        assert row.psnr == pytest.approx(psnr(np.asarray(larger, np.uint8), truth), abs=1e-3)


def test_a_drop_is_what_is_lost_against_fp32_on_the_same_picture(done: Done) -> None:
    before = {row.image: row.psnr for row in done.run.images if row.id == FP32}
    rows = [row for row in done.run.images if row.id == INT8]
    drops = [before[row.image] - row.psnr for row in rows]
    assert [row.drop for row in rows] == pytest.approx(drops, abs=2e-4)
    assert any(drop for drop in drops)
    assert done.row(INT8).drop_mean == pytest.approx(np.mean(drops), abs=2e-4)
    assert done.row(INT8).drop_worst == pytest.approx(max(drops), abs=2e-4)


def test_latency_figures_are_those_of_the_runs(done: Done) -> None:
    for identity in (FP32, INT8, "bicubic-opencv"):
        rows = [row for row in done.run.latency if row.id == identity]
        assert {row.round for row in rows} == set(range(max(row.round for row in rows) + 1))
        expected, found = stats.latency([row.ms for row in rows]), done.row(identity)
        assert found.latency_n == len(rows) >= 12 or sum(row.ms for row in rows) >= 200
        assert found.latency_median_ms == pytest.approx(expected.median, rel=1e-4)
        assert found.latency_p99_ms == pytest.approx(expected.p99, rel=1e-4)
        assert found.latency_cv == pytest.approx(expected.variation, rel=1e-3)
    assert done.row(REFERENCE).ratio_to_reference == 1.0
    # three small convolutions against a whole network
    assert 0 < (done.row(FP32).ratio_to_reference or 0) < 0.9


def test_costs_and_the_rest_are_there(done: Done) -> None:
    macs = (3 * 16 + 16 * 16 + 16 * 48) * 9 * TILE * TILE
    for identity in (FP32, INT8):
        row = done.row(identity)
        assert row.gmacs == pytest.approx(macs / 1e9, rel=1e-5)
        assert row.gmacs_per_s == pytest.approx(macs / 1e6 / (row.latency_median_ms or 0), rel=1e-3)
        assert (row.roofline_compute or 0) > 0
        assert (row.roofline_memory or 0) > 0
        assert 0.05 < (row.cold_start_s or 0) < 120
        assert 20 < (row.peak_rss_mb or 0) < 3000
        assert (row.threads, row.tile, row.batch) == (1, "32x32", 1)
    throughput = {(row.id, row.batch): row.faces_per_s for row in done.run.throughput}
    assert {(FP32, 1), (FP32, 2), (INT8, 2), ("bicubic-opencv", 1)} <= set(throughput)
    assert ("bicubic-opencv", 2) not in throughput
    assert all(math.isfinite(rate) and rate > 0 for rate in throughput.values())


def test_a_photograph_was_restored_end_to_end_and_in_parts(done: Done) -> None:
    (row,) = done.run.sizes
    assert row.id == INT8
    assert row.megapixels == pytest.approx(0.05, rel=0.02)
    assert min(row.wall_s, row.decode_s, row.network_s, row.encode_s) > 0
    assert row.peak_rss_mb > 20


def test_the_gallery_shows_the_worst_drops(done: Done) -> None:
    worst = sorted((row for row in done.run.images if row.id == INT8), key=lambda row: -(row.drop or 0))[:2]
    assert [(row.n, row.image, row.id) for row in done.run.gallery] == [
        (number, row.image, INT8) for number, row in enumerate(worst, start=1)
    ]
    for shown in done.run.gallery:
        names = ("input", "fp32", "int8", "diff8")
        low, fp32, int8, difference = (picture(done.out / "gallery" / f"{shown.n:02}-{name}.png") for name in names)
        truth = picture(done.folder / "gt" / shown.image)
        assert np.array_equal(low, picture(done.folder / "lq" / shown.image))
        assert psnr(fp32, truth) == pytest.approx(shown.psnr_fp32, abs=1e-3)
        assert psnr(int8, truth) == pytest.approx(shown.psnr_int8, abs=1e-3)
        assert np.array_equal(difference, np.clip(128 + 8 * (int8.astype(int) - fp32), 0, 255))


def test_the_machine_is_described_without_paths_of_it(done: Done) -> None:
    machine = done.run.machine
    assert machine["threads"] == 1
    assert machine["versions"]["openvino"]
    assert {"before", "after", "cpu", "memory", "energy", "peaks", "warnings"} <= set(machine)
    assert str(done.folder) not in (done.out / results.MACHINE).read_text("utf-8")


def test_unsteady_engines_are_warned_of_with_advice_that_is_only_printed(done: Done) -> None:
    restless = [row.id for row in done.run.engines if (row.latency_cv or 0) > 0.02]
    assert bool(restless) == bool(done.run.machine["warnings"])
    for identity in restless:
        assert identity in done.run.machine["warnings"][0]
        assert identity in done.printed


def test_results_are_kept_by_name(done: Done) -> None:
    kept = {path.name for path in (done.folder / "kept").iterdir()}
    day = done.run.machine["date"][:10]
    assert f"mini-fp32-openvino-{done.run.machine['name']}-{day}.csv" in kept
    timed = [row for row in Run.load(done.out).engines if row.latency_median_ms is not None]
    assert len(kept) == len(timed), "peers and baselines too"


def test_a_complete_run_is_not_measured_again(done: Done) -> None:
    before = (done.out / "engines.csv").read_bytes()
    again = benchmark(*done.arguments, cwd=done.folder)
    assert again.returncode == 0, again.stderr
    assert "nothing is measured again" in again.stderr
    assert (done.out / "engines.csv").read_bytes() == before


def test_other_settings_do_not_go_on_in_the_same_folder(done: Done) -> None:
    other = benchmark(*done.arguments, "--peers", "none", cwd=done.folder)
    assert other.returncode == 2
    assert "other models, pictures or settings" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (0.5, 1)])
def test_against_an_earlier_run(done: Done, tmp_path: Path, factor: float, code: int) -> None:
    rows = [
        dataclasses.replace(
            row,
            ratio_to_reference=row.ratio_to_reference * (factor if row.id == INT8 else 1),
            machine=done.run.machine["name"],
        )
        for row in done.run.engines
        if row.ratio_to_reference
    ]
    results.write_table(tmp_path / "before.csv", rows, EngineRow)
    compared = benchmark(*done.arguments, "--against", tmp_path / "before.csv", cwd=done.folder)
    assert compared.returncode == code, compared.stderr
    assert INT8 in compared.stdout
    assert ("slower than" in compared.stdout) == bool(code)


# ---- interruption


def test_ctrl_c_keeps_what_was_measured_and_the_run_goes_on(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    lq, gt = make_pairs(tmp_path)
    suite = make_suite(
        tmp_path, model, engines='["openvino-fp32", "onnxruntime-fp32"]', peers="[]", megapixels="[]", seconds="0.5",
        runs="1000000",
    )  # fmt: skip
    out = tmp_path / "run"
    arguments = ("--suite", suite, "--lq", lq, "--gt", gt, "--out", out, "--threads", 1)
    running = subprocess.Popen(
        command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not (out / "engines.csv").is_file() and time.monotonic() < until and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    printed, told = running.communicate(timeout=60)
    assert running.returncode == 1, told
    assert "Traceback" not in told
    assert f"--out {out}" in told
    assert "to go on" in told
    assert "report" in printed
    kept = Run.load(out)
    assert REFERENCE in [row.id for row in kept.engines]
    assert len(kept.engines) < 4
    # what an engine that was being measured left behind, as a kill would
    results.append(out / "latency.csv", [results.LatencyRow("mini-fp32-onnxruntime", 0, 1.0)])

    finished = benchmark(*arguments, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    run = Run.load(out)
    assert [row.id for row in run.engines] == [REFERENCE, FP32, "mini-fp32-onnxruntime", "bicubic-opencv"]
    assert run.engines[: len(kept.engines)] == kept.engines
    for row in run.engines:
        assert row.latency_n == sum(timed.id == row.id for timed in run.latency)


# ---- wrong usage


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--peers", "nobody"), "no peer"),
        (("--suite", "slow"), "neither a file nor a name known for benchmarks"),
        (("--model", "nothing.onnx", "--out", "run"), "no file nothing.onnx"),
        (("--lq", "lq", "--out", "run"), "belong together"),
        (("--against", "none.csv"), "no result to compare with"),
        (("--out", "full"), "something else"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    done = benchmark(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_pairs_of_another_size_are_left_out_and_counted(tmp_path: Path) -> None:
    from bfsr_edge.benchmarks import pictures

    lq, gt = make_pairs(tmp_path / "pairs", 3)
    other_lq, other_gt = make_pairs(tmp_path / "other", 1, 40)
    shutil.copy(other_lq / "0.png", lq / "larger.png")
    shutil.copy(other_gt / "0.png", gt / "larger.png")
    said: list[str] = []
    chosen = pictures.choose(lq, gt, tmp_path, TILE, 0, said.append)
    assert [pair.name for pair in chosen.pairs] == ["0.png", "1.png", "2.png"]
    assert "1 of another size left out" in chosen.source
    assert os.fspath(tmp_path) not in chosen.source


def test_a_model_without_calibration_has_no_int8_row_but_its_reason(tmp_path: Path) -> None:
    from bfsr_edge.benchmarks import prepare
    from bfsr_edge.benchmarks.suite import load_suite

    model = make_model(tmp_path)
    model.with_name("mini.calibration.json").unlink()
    suite = load_suite(str(make_suite(tmp_path, model, peers="[]", baselines="[]")))
    files = prepare.collect(str(model), tmp_path / "work", lambda line: None)
    found = {subject.id: subject for subject in prepare.subjects([files], suite, tmp_path / "work", lambda line: None)}
    assert not found[FP32].missing
    for identity in (INT8, OTHER):
        assert "calibration" in found[identity].missing
        assert "bfsr-edge calibrate" in found[identity].missing
    assert next(iter(found)) == REFERENCE
