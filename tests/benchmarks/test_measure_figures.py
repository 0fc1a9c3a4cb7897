"""Statistics, costs, rooflines, energy: numbers against numbers found another way."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from bfsr_edge.benchmarks import costs, energy, photographs, rooflines, stats
from bfsr_edge.benchmarks.costs import Costs
from bfsr_edge.benchmarks.rooflines import Peaks
from bfsr_edge.calibration import Calibration
from bfsr_edge.errors import ModelError
from bfsr_edge.quantization import place
from tests.engines.helpers import calibration, network

# ---- statistics


def test_latency_of_known_samples() -> None:
    samples = [float(value) for value in np.random.default_rng(0).permutation(np.arange(1, 101))]
    found = stats.latency(samples)
    assert (found.minimum, found.mean, found.median, found.n) == (1.0, 50.5, 50.5, 100)
    # linear interpolation: place 0.9·99 = 89.1 behind the first of 1, 2, … 100
    assert found.p90 == pytest.approx(90.1)
    assert found.p95 == pytest.approx(95.05)
    assert found.p99 == pytest.approx(99.01)
    assert found.variation == pytest.approx(statistics.stdev(samples) / 50.5)


def test_latency_of_one_run_and_of_none() -> None:
    assert stats.latency([3.0]) == stats.Latency(3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 0.0, 1)
    with pytest.raises(ValueError, match="no run"):
        stats.latency([])


def test_a_ratio_does_not_mind_a_machine_that_slows_down() -> None:
    speeds = (1.0, 5.0, 2.0, 9.0)
    rounds = [([10 * s, 10 * s, 11 * s], [4 * s, 4 * s]) for s in speeds]
    assert stats.ratio(rounds) == pytest.approx(0.4)
    assert stats.ratio([([], [1.0])]) is None


def test_mean_worst_std() -> None:
    values = [1.0, 2.0, 6.0]
    assert stats.mean_worst_std(values) == pytest.approx((3.0, 1.0, float(np.std(values))))
    assert stats.mean_worst_std(values, "max")[1] == 6.0


# ---- costs

HEAD, BODY, TAIL = 3 * 16 * 9, 16 * 16 * 9, 16 * 48 * 9


def test_costs_of_a_float_graph(tmp_path: Path) -> None:
    found = costs.of_onnx(network(tmp_path / "tiny.onnx"), 48)
    pixels = 48 * 48
    assert found.parameters == HEAD + 16 + BODY + 16 + TAIL + 48
    assert found.macs == (HEAD + BODY + TAIL) * pixels
    assert found.int8_macs == 0
    values = HEAD + BODY + TAIL + pixels * ((3 + 16) + (16 + 16) + (16 + 48))
    assert found.moved("fp32") == 4 * values
    assert found.moved("bf16") == found.moved("fp16") == 2 * values
    assert found.moved("int8") is found.moved("fp16+int8") is None  # the file does not say which layers those are


def test_costs_of_an_int8_graph(tmp_path: Path) -> None:
    path = network(tmp_path / "tiny.onnx")
    graph = place(onnx.load(str(path)), Calibration.load(calibration(path)))
    onnx.save(graph, str(tmp_path / "int8.onnx"))
    plain, int8 = costs.of_onnx(path, 32), costs.of_onnx(tmp_path / "int8.onnx", 32)
    assert (int8.parameters, int8.macs) == (plain.parameters, plain.macs)
    assert int8.int8_macs == BODY * 32 * 32
    body = BODY + 32 * 32 * (16 + 16)
    rest = int8.moved("fp32+int8")
    assert rest is not None
    assert plain.moved("fp32") == rest + 3 * body
    assert int8.moved("fp16+int8") == body + (rest - body) / 2


def test_costs_of_a_network_of_ncnn(tmp_path: Path) -> None:
    param = tmp_path / "made.param"
    lines = [
        "7767517", "5 5", "Input data 0 1 data", "Convolution c1 1 1 data a 0=64 1=3 5=1 6=1728",
        "Interp up 1 1 a b 0=1 1=2.0 2=2.0", "Convolution c2 1 1 b c 0=12 1=3 5=1 6=6912",
        "PixelShuffle s 1 1 c d 0=2",
    ]  # fmt: skip
    param.write_text("\n".join(lines) + "\n", "utf-8")
    found = costs.of_ncnn(param, 10)
    assert found.parameters == 1728 + 64 + 6912 + 12
    assert found.macs == 1728 * 100 + 6912 * 400
    assert found.moved("fp32") == 4 * (1728 + 100 * (3 + 64) + 6912 + 400 * (64 + 12))


def test_costs_of_something_else_are_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError):
        costs.of_onnx(path, 32)
    with pytest.raises(ModelError):
        costs.of_ncnn(path, 32)


# ---- rooflines


def test_share_of_the_peaks() -> None:
    peaks = Peaks({"fp32": 100.0, "int8": 400.0}, copy=1000.0)
    spent = Costs(parameters=1, macs=100.0, int8_macs=80.0, int8_values=10.0, floating_values=10.0)
    compute, memory = rooflines.share(spent, peaks, "fp32+int8", 0.8)
    assert compute == pytest.approx((20 / 100 + 80 / 400) / 0.8)
    assert memory == pytest.approx(0.05 / 0.8)
    assert rooflines.share(spent, Peaks({"fp32": 100.0}), "fp32+int8", 0.8) == (None, None)


def test_measured_peaks_make_sense() -> None:
    peaks = rooflines.measure(1, 0.02)
    assert set(peaks.macs) >= {"fp32", "int8"}
    assert all(1e8 < rate < 1e15 for rate in peaks.macs.values())
    assert set(peaks.by) == set(peaks.macs)
    assert 1e8 < peaks.copy < 1e13


# ---- energy


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n", "ascii")


def rapl(folder: Path, *micro: int, most: int = 10**9) -> Path:
    for number, value in enumerate(micro):
        zone = folder / f"intel-rapl:{number}"
        write(zone / "name", f"package-{number}")
        write(zone / "energy_uj", value)
        write(zone / "max_energy_range_uj", most)
    write(folder / "intel-rapl:0:0" / "name", "core")  # part of package 0: not to be counted twice
    write(folder / "intel-rapl:0:0" / "energy_uj", 10**8)
    return folder


def test_rapl_counts_packages_and_survives_a_wrap(tmp_path: Path) -> None:
    source = energy.find("cpu", hwmon=tmp_path / "none", powercap=rapl(tmp_path / "cap", 1_000_000, 500_000))
    assert source is not None
    with energy.Meter(source) as meter:
        rapl(tmp_path / "cap", 3_000_000, 600_000)
    assert meter.joules == pytest.approx(2.1)
    (tmp_path / "one").mkdir()
    source = energy.find("cpu", hwmon=tmp_path / "none", powercap=rapl(tmp_path / "one", 999_000_000))
    with energy.Meter(source) as meter:
        rapl(tmp_path / "one", 1_000_000)
    assert meter.joules == pytest.approx(2.0)


def test_of_two_packages_one_counter_may_begin_anew(tmp_path: Path) -> None:
    source = energy.find("cpu", hwmon=tmp_path / "none", powercap=rapl(tmp_path / "cap", 990_000_000, 10_000_000))
    with energy.Meter(source) as meter:
        rapl(tmp_path / "cap", 20_000_000, 20_000_000)
    assert meter.joules == pytest.approx(40.0)


def test_jetson_counts_the_rail_that_feeds_the_board(tmp_path: Path) -> None:
    chip = tmp_path / "hwmon3"
    write(chip / "name", "ina3221")
    for number, label, milliampere in ((1, "VDD_IN", 2000), (2, "VDD_CPU_GPU_CV", 900)):
        write(chip / f"in{number}_label", label)
        write(chip / f"in{number}_input", 5000)
        write(chip / f"curr{number}_input", milliampere)
    source = energy.find("cuda:0", hwmon=tmp_path, powercap=tmp_path / "none")
    assert source is not None
    assert "VDD_IN" in source.name
    before = time.perf_counter()
    with energy.Meter(source) as meter:
        threading.Event().wait(0.25)
    # 10 W; the thread's own turns may take a little longer
    assert meter.joules == pytest.approx(10 * (time.perf_counter() - before), rel=0.15)


def test_a_chip_with_one_power_file(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0" / "name", "ina238")
    write(tmp_path / "hwmon0" / "power1_input", 7_000_000)
    source = energy.find("cpu", hwmon=tmp_path, powercap=tmp_path / "none")
    assert source is not None
    assert source.watts is not None
    assert source.watts() == pytest.approx(7.0)


def test_no_sensor_and_a_vanishing_one(tmp_path: Path) -> None:
    assert energy.find("cpu", hwmon=tmp_path, powercap=tmp_path) is None
    with energy.Meter(None) as meter:
        pass
    assert meter.joules is None
    source = energy.find("cpu", hwmon=tmp_path / "none", powercap=rapl(tmp_path / "cap", 5))
    with energy.Meter(source) as meter:
        (tmp_path / "cap" / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules is None


# ---- photographs


@pytest.mark.parametrize("megapixels", [0.05, 1, 12, 50])
def test_photographs_have_the_size_asked_for(megapixels: float) -> None:
    height, width = photographs.size_of(megapixels)
    assert height * width / 1e6 == pytest.approx(megapixels, rel=0.01)
    assert width / height == pytest.approx(1.5, rel=0.02)
