"""``--precision auto``: what stays, and when it is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.engines import auto
from bfsr_edge.engines.auto import build_auto, decide
from bfsr_edge.engines.profile import load_profile
from bfsr_edge.engines.request import Request
from bfsr_edge.engines.target import look
from bfsr_edge.errors import UsageError
from bfsr_edge.runtime import load, sidecar
from bfsr_edge.weights import resolve
from tests.engines import helpers


@pytest.mark.parametrize(
    ("speedup", "drop", "keeps", "reason"),
    [
        (1.5, 0.01, True, "inside"),
        (1.10, 0.03, True, "inside"),
        (1.09, 0.01, False, "1.10 is asked for"),
        (1.5, 0.031, False, "the budget is 0.03"),
        (1.5, None, False, "nobody has measured"),
        (0.8, 0.0, False, "0.80 times"),
    ],
)
def test_decide(speedup: float, drop: float | None, keeps: bool, reason: str) -> None:
    kept, why = decide(speedup, drop, 0.03)
    assert kept == keeps
    assert reason in why


@pytest.fixture
def tiny(tmp_path: Path) -> Request:
    path = helpers.network(tmp_path / "tiny.onnx")
    helpers.calibration(path)
    return Request(resolve(path), load_profile("cpu"), out=tmp_path / "out", tile=(32, 32))


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"dla_core": 0}, "--dla-core takes none"), ({"frontend": "torch-tensorrt"}, "--frontend takes none")],
)
def test_int8_has_to_be_possible(tiny: Request, changes: dict[str, Any], told: str) -> None:
    """Said at once, not behind the first of two builds."""
    with pytest.raises(UsageError, match=told):
        build_auto(dataclasses.replace(tiny, **changes), helpers.machine(), budget=0.03)


@pytest.mark.parametrize(("times", "winner"), [((0.3, 0.1), "int8"), ((0.1, 0.1), "fp32")])
def test_one_stays(tiny: Request, monkeypatch: pytest.MonkeyPatch, times: tuple[float, float], winner: str) -> None:
    monkeypatch.setattr(auto, "compare", lambda first, second, batch: times)
    here = dataclasses.replace(look(), cpu_features=("avx512_vnni",))
    done = build_auto(tiny, here, budget=0.03)
    assert done.sidecar is not None
    assert done.sidecar.precision == winner
    assert [path.name for path in sorted(tiny.out.glob("*.engine"))] == [done.path.name]
    assert done.sidecar.options["auto"]["int8_ms"] == pytest.approx(100)
    assert sidecar.read(done.path) == done.sidecar
    assert done.notes[-1].startswith(f"auto: fp32 {times[0] * 1e3:.1f} ms, int8 100.0 ms")
    load(done.path)


def test_real_times(tiny: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "SECONDS", 0.0)
    here = dataclasses.replace(look(), cpu_features=("avx512_vnni",))
    done = build_auto(tiny, here, budget=0.03)
    assert done.sidecar is not None
    assert min(done.sidecar.options["auto"][key] for key in ("floating_ms", "int8_ms")) > 0


def test_ctrl_c_works_after_timing(tiny: Request) -> None:
    """Two OpenVINO engines freed oldest first leave the thread a signal stack that is gone: the next signal crashes."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from bfsr_edge.engines import auto\n"
        "auto.SECONDS = 0.0\n"
        "auto.compare(Path(sys.argv[1]), Path(sys.argv[1]), 1)\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    command = [sys.executable, "-c", code, str(tiny.model.path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout == "interrupted\n", run.stderr


def test_without_vnni_int8_is_out(tiny: Request) -> None:
    lines: list[str] = []
    here = dataclasses.replace(look(), cpu_features=("avx2",))
    done = build_auto(tiny, here, budget=0.03, announce=lines.append)
    assert done.sidecar is not None
    assert done.sidecar.precision == "fp32"
    assert any("INT8 is out" in line for line in lines)


def test_nothing_can_be_timed_for_another_gpu(tiny: Request) -> None:
    request = dataclasses.replace(tiny, profile=load_profile("rtx-40"))
    with pytest.raises(UsageError, match="no GPU here runs engines for rtx-40"):
        build_auto(request, helpers.machine(rtx="1.7.1"), budget=0.03)


def test_the_bundle_holds_both(tiny: Request) -> None:
    request = dataclasses.replace(tiny, profile=load_profile("jetson-orin-nx"))
    folder = build_auto(request, helpers.machine(), budget=0.03).path
    assert {"tiny.fp16.32x32.onnx", "tiny.int8.32x32.onnx"} <= {path.name for path in folder.iterdir()}
    assert "--precision auto --target jetson-orin-nx" in (folder / "README.txt").read_text("utf-8")
