"""The two commands as a user types them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bfsr_edge.cli import main
from bfsr_edge.runtime import sidecar, trt
from bfsr_edge.weights import list_models
from tests.engines import helpers

Run = Callable[..., Result]
CALIBRATED = "calibration" in list_models()[0].files
MINUTE = 60.0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


def needs_rtx() -> None:
    if not trt.is_version(trt.importable()["tensorrt-rtx"]):
        pytest.skip("the builder comes with: pip install 'bfsr-edge[rtx]'")


@pytest.mark.parametrize(
    ("arguments", "precision", "name"),
    [
        (("--fp32", "--target", "cpu"), "fp32", "edge-cpu-fp32"),
        (("--int8",), "int8", "edge-cpu-int8"),
        (("--int8", "--target", "rtx-40"), "int8", "edge-rtx-40-int8"),
        (("--fp16", "--target", "rtx-30"), "fp16", "edge-rtx-30-fp16"),
        (("--fp16", "--target", "rtx-50"), "fp16", "edge-rtx-50-fp16"),
    ],
)
def test_the_shipped_default(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], precision: str, name: str
) -> None:
    if precision == "int8" and not CALIBRATED:
        pytest.skip("the default ships no calibration yet")
    if "rtx" in name:
        needs_rtx()
    monkeypatch.setattr("bfsr_edge.runtime.machine.gpus", list)
    monkeypatch.setattr("bfsr_edge.runtime.machine.cpu_features", lambda: ("avx512_vnni",))
    started = time.monotonic()
    done = run("build-engine", *arguments)
    assert done.exit_code == 0, done.output
    assert time.monotonic() - started < MINUTE
    made = sidecar.read(Path("engines") / f"{name}.engine")
    assert made.precision == precision
    assert f"engines/{name}.engine" in done.output
    assert made.rebuild.startswith("bfsr-edge build-engine --model edge")
    if precision == "int8":
        assert made.options["mac_shares"]["int8"] >= 0.8
        assert made.psnr_drop is not None
    assert "there already" in run("build-engine", *arguments).output


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_bundle_for_the_nano(run: Run, precision: str) -> None:
    if precision == "int8" and not CALIBRATED:
        pytest.skip("the default ships no calibration yet")
    done = run("build-engine", f"--{precision}", "--target", "jetson-orin-nano")
    assert done.exit_code == 0, done.output
    assert "no engine was built" in done.output
    assert f"run there: bfsr-edge build-engine --model edge.onnx --{precision} --target jetson-orin-nano" in done.output
    folder = Path("engines") / f"edge-jetson-orin-nano-{precision}.bundle"
    assert (folder / "edge.onnx").stat().st_size > 4_000_000  # its weights are inside


def test_no_target_says_which(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bfsr_edge.runtime.machine.gpus", list)
    helpers.network(Path("tiny.onnx"))
    done = run("build-engine", "--model", "tiny.onnx", "--fp32", "--tile", "32")
    assert "building for cpu: no NVIDIA GPU was found" in done.output
    assert done.exit_code == 0


def test_targets_are_listed(run: Run) -> None:
    done = run("build-engine", "--list-targets")
    assert [line.split()[0] for line in done.output.splitlines()][:2] == ["cpu", "datacenter"]
    assert "SM 12.0" in done.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--int8 --fp16", "--fp16 and --int8 contradict each other"),
        ("--int8 --precision auto", "contradict"),
        ("--tile 12q", "--tile 12q is no size"),
        ("--batch 4,1,8", "--batch 4,1,8 is no range"),
        ("--batch 1,2", "is no range"),
        ("--target rtx-99", "neither a file nor a name known for engines"),
        ("--model nothing.onnx", "there is no file nothing.onnx"),
        ("--fp32 --target cpu --frontend torch-tensorrt", "the target runs openvino"),
    ],
)
def test_wrong_usage(run: Run, arguments: str, complaint: str) -> None:
    done = run("build-engine", *arguments.split())
    assert done.exit_code == 2
    assert complaint in done.output
    assert "Traceback" not in done.output


def test_an_engine_is_an_engine_already(run: Run) -> None:
    Path("it.engine").write_bytes(b"")
    assert "is an engine already" in run("build-engine", "--model", "it.engine").output


def test_no_calibration_says_how_to_make_one(run: Run) -> None:
    helpers.network(Path("tiny.onnx"))
    done = run("build-engine", "--model", "tiny.onnx", "--int8", "--target", "rtx-40")
    assert done.exit_code == 2
    assert "next: bfsr-edge calibrate --faces DIR --model tiny.onnx" in done.output


def test_a_checkpoint_is_exported_first(run: Run) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from bfsr_edge.models import create, save_checkpoint

    network = create("edge-unet", widths=[4, 4, 8, 8], encoder=[0, 0, 0, 1], decoder=[1, 0, 0])
    save_checkpoint(Path("mine.safetensors"), network)
    arguments = ("build-engine", "--model", "mine.safetensors", "--fp32", "--target", "cpu", "--tile", "32")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "exporting mine.safetensors to engines/mine.onnx" in done.output
    assert Path("engines/mine-cpu-fp32-32x32.engine").is_file()
    again = run(*arguments)
    assert "exporting" not in again.output
    assert "there already" in again.output


def test_an_unwritable_folder_is_said_before_the_export(run: Run) -> None:
    Path("mine.safetensors").write_bytes(b"never read")
    Path("blocked").write_text("a file")
    done = run("build-engine", "--model", "mine.safetensors", "--fp32", "--target", "cpu", "--out", "blocked/out")
    assert done.exit_code == 1
    assert "cannot write blocked/out/mine.onnx" in done.output


def test_torch_tensorrt_is_a_clear_error_here(run: Run) -> None:
    """Written against its documentation; where it is installed with a GPU this is the place to run it."""
    pytest.importorskip("torch")
    from bfsr_edge.engines import torch_frontend
    from bfsr_edge.errors import BackendError
    from bfsr_edge.models import create, save_checkpoint

    save_checkpoint(Path("mine.safetensors"), create("msrresnet", blocks=1))
    with pytest.raises(BackendError, match="torch-tensorrt"):
        torch_frontend.convert(Path("mine.safetensors"), "fp16", (32, 32), (1, 1, 1), 3)


def test_inspect(run: Run) -> None:
    helpers.network(Path("tiny.onnx"))
    run("build-engine", "--model", "tiny.onnx", "--fp32", "--target", "cpu", "--tile", "32")
    engine = "engines/tiny-cpu-fp32-32x32.engine"
    text = run("inspect", engine).output
    assert "cpu, openvino" in text
    assert "largest, by ms:" in text
    assert json.loads(run("inspect", "--json", "tiny.onnx").output)["unit"] == "GMAC"
    Path(f"{engine}.json").unlink()
    done = run("inspect", engine)
    assert done.exit_code == 1
    assert "has no sidecar" in done.output
