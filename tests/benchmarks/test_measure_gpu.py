"""An engine of TensorRT on the fake GPU of the runtime's tests: both clocks, and the device's memory."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from bfsr_edge.benchmarks.subjects import Subject
from bfsr_edge.benchmarks.worker import Worker
from tests.runtime.engine_files import Bench, write_engine


@pytest.mark.parametrize("implementation", ["cuda-python", "pycuda"])
def test_a_gpu_engine_is_timed_by_both_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    bench = Bench(monkeypatch, "10.3.0", implementation)
    engine = write_engine(tmp_path / "tiny.engine", bench.release)
    worker = Worker()
    subject = Subject("tiny-int8-tensorrt", "ours", "tiny", model=str(engine), device="cuda:0")
    opened = worker.open(dataclasses.asdict(subject), tile=32, threads=1)
    assert (opened["backend"], opened["device"], opened["precision"]) == ("tensorrt", "cuda:0", "fp16+int8")
    assert isinstance(opened["device_mb"], float)
    timed = worker.time(seconds=60.0, runs=4, wake=1)
    assert len(timed["ms"]) == 4
    assert timed["device_ms"] == [1.5] * 4  # what the fake says between two events that were made for timing
    assert timed["runs"] == 5


def test_what_a_library_prints_does_not_get_between_the_answers() -> None:
    code = (
        "import os\n"
        "from bfsr_edge.benchmarks import worker\n"
        "def noisy(self):\n"
        "    os.write(1, b'a library says hello\\n')\n"
        "    return {'ok': True}\n"
        "worker.Worker.noisy = noisy\n"
        "worker.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input='{"do": "noisy"}\n{"do": "unknown"}\n', capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == '{"ok": true}'
    assert "unknown" in second
    assert "hello" in done.stderr
