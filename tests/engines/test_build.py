"""Engines with their sidecars: what is written, used again, refused; two processes; Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bfsr_edge.engines import builder, files, openvino
from bfsr_edge.engines.auto import build_auto
from bfsr_edge.engines.build import build
from bfsr_edge.engines.builder import Built
from bfsr_edge.engines.profile import load_profile
from bfsr_edge.engines.request import Request, command_of
from bfsr_edge.engines.target import Here, look
from bfsr_edge.errors import BackendError, BfsrError, ModelError, UsageError
from bfsr_edge.runtime import load, machine, sidecar, trt
from bfsr_edge.weights import resolve, sha256_of
from tests.engines import helpers

CLI = [sys.executable, "-m", "bfsr_edge.cli"]
NANO = helpers.machine(
    gpu="Orin", sm="8.7", board="NVIDIA Jetson Orin Nano Developer Kit", tensorrt="10.3.0", cpu=("asimddp",)
)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """This machine, as if its CPU had VNNI: tiny networks do not saturate without it either."""
    monkeypatch.setattr(machine, "cpu_features", lambda: ("avx2", "avx512_vnni"))
    return look()


@pytest.fixture
def request_for(tmp_path: Path) -> Any:
    """A request for the tiny network."""
    path = helpers.network(tmp_path / "tiny.onnx")
    helpers.calibration(path)

    def make(name: str = "cpu", **changes: Any) -> Request:
        settings: dict[str, Any] = {"precision": "fp32", "tile": (32, 32), "out": tmp_path / "out"}
        return Request(resolve(path), load_profile(name), **settings | changes)

    return make


def test_cpu_engine_is_the_network(request_for: Any, here: Here, tmp_path: Path) -> None:
    done = build(request_for(), here)
    assert done.path == tmp_path / "out" / "tiny-cpu-fp32-32x32.engine"
    made = sidecar.read(done.path)
    assert made == done.sidecar
    assert (made.flavour, made.precision, made.tile, made.scale, made.stride) == ("openvino", "fp32", (32, 32), 4, 8)
    assert made.plan_sha256 == sha256_of(done.path)
    assert made.onnx_sha256 == sha256_of(tmp_path / "tiny.onnx")
    assert (made.name, made.target, made.io, made.sm, made.psnr_drop) == ("tiny", "cpu", "float32", (), None)
    batch = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    expected = load(tmp_path / "tiny.onnx", backend="openvino", tile=32).run(batch)
    np.testing.assert_allclose(load(done.path).run(batch), expected, atol=1e-5)


def test_int8_engine_executes_int8(request_for: Any, here: Here) -> None:
    done = build(request_for(precision="int8"), here)
    assert done.sidecar is not None
    assert done.sidecar.options["built"]["convolutions"]["int8"] == 1
    assert done.sidecar.psnr_drop == 0.01
    assert len(done.sidecar.calibration_sha256) == 64
    assert load(done.path).info.precision == "fp32+int8"


def test_fp16_on_a_cpu_is_named_or_refused(request_for: Any, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    if openvino.half_precision():
        done = build(request_for(precision="fp16"), here, announce=lines.append)
        assert done.sidecar is not None
        assert done.sidecar.precision == openvino.half_precision()
        assert f"--fp16 on this CPU is {done.sidecar.precision}" in lines
        assert load(done.path).info.precision.startswith(done.sidecar.precision)
    monkeypatch.setattr(openvino, "half_precision", lambda: "")
    with pytest.raises(UsageError, match="--fp16 is nothing that this CPU has"):
        build(request_for(precision="fp16"), here)


def test_without_vnni(request_for: Any, here: Here) -> None:
    old = dataclasses.replace(here, cpu_features=("avx2",))
    lines: list[str] = []
    done = build(request_for(precision=""), old, announce=lines.append)
    assert done.sidecar is not None
    assert done.sidecar.precision == "fp32"
    assert "INT8 saturates" in lines[0]
    with pytest.raises(UsageError, match="--int8 on this CPU would give wrong pictures"):
        build(request_for(precision="int8"), old)


def test_uint8_pixels(request_for: Any, here: Here) -> None:
    done = build(request_for(uint8_io=True), here)
    assert done.sidecar is not None
    assert done.sidecar.io == "uint8"
    assert done.path.name == "tiny-cpu-fp32-32x32-uint8.engine"
    result = load(done.path).run(np.full((1, 3, 32, 32), 0.5, np.float32))
    assert result.min() >= 0


# ---- the cache


def test_an_equal_engine_is_used_again(request_for: Any, here: Here) -> None:
    first = build(request_for(), here)
    written = first.path.stat().st_mtime_ns
    second = build(request_for(), here)
    assert (second.reused, second.sidecar) == (True, first.sidecar)
    assert second.path.stat().st_mtime_ns == written
    assert not build(request_for(force=True), here).reused


@pytest.mark.parametrize("change", ["batch", "calibration", "weights", "version"])
def test_anything_else_is_built_anew(request_for: Any, here: Here, tmp_path: Path, change: str) -> None:
    build(request_for(precision="int8"), here)
    request = request_for(precision="int8")
    lines: list[str] = []
    if change == "batch":
        request = request_for(precision="int8", batch=(1, 1, 2))
    elif change == "calibration":
        helpers.calibration(tmp_path / "tiny.onnx", scale=5 / 127)
    elif change == "weights":
        helpers.calibration(helpers.network(tmp_path / "tiny.onnx", seed=8))
        request = request_for(precision="int8")
        helpers.calibration(helpers.network(tmp_path / "tiny.onnx", seed=9))
        request = dataclasses.replace(request, model=resolve(tmp_path / "tiny.onnx"))
    elif change == "version":
        engine = tmp_path / "out" / "tiny-cpu-int8-32x32.engine"
        content = json.loads(sidecar.path_of(engine).read_text())
        content["options"]["key"] = "0"
        sidecar.path_of(engine).write_text(json.dumps(content))
    done = build(request, here, announce=lines.append)
    assert not done.reused
    assert "is replaced" in lines[0]


@pytest.mark.parametrize("damage", ["plan", "sidecar"])
def test_a_damaged_engine_is_said_and_built_anew(request_for: Any, here: Here, damage: str) -> None:
    first = build(request_for(), here)
    if damage == "plan":
        content = bytearray(first.path.read_bytes())
        content[-1] ^= 1
        first.path.write_bytes(content)
        with pytest.raises(ModelError, match="is not the plan"):
            load(first.path)
    else:
        sidecar.path_of(first.path).unlink()
    lines: list[str] = []
    second = build(request_for(), here, announce=lines.append)
    assert not second.reused
    assert "built anew" in lines[0]
    load(second.path)


# ---- folders that cannot be written to


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """A folder in which nothing can be made: a file stands in its way, which stops root too."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    return blocked / "folder"


def test_unwritable_out(request_for: Any, here: Here, read_only: Path) -> None:
    for name in ("cpu", "jetson-orin-nano"):
        with pytest.raises(ModelError, match="cannot write") as raised:
            build(request_for(name, out=read_only), here)
        assert "--out" in raised.value.fix


def test_unwritable_cache(request_for: Any, read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the build and not behind it."""
    monkeypatch.setenv("BFSR_EDGE_CACHE", str(read_only))
    monkeypatch.setattr(trt, "load_api", lambda flavour: None)
    monkeypatch.setattr(builder, "build", lambda *_: pytest.fail("built before it looked"))
    with pytest.raises(ModelError, match="cannot write") as raised:
        build(request_for("jetson-orin-nano"), NANO)
    assert "BFSR_EDGE_CACHE" in raised.value.fix


def test_a_failed_build_leaves_nothing(request_for: Any, here: Here, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise BackendError("no")

    monkeypatch.setattr(openvino, "prove", fail)
    with pytest.raises(BackendError):
        build(request_for(), here)
    assert not list((tmp_path / "out").iterdir())


def test_a_crash_between_the_two_renames_is_refused(request_for: Any, here: Here, monkeypatch: Any) -> None:
    """A new plan with an old sidecar: their hashes differ."""
    first = build(request_for(), here)
    replace = os.replace

    def crash(source: Any, target: Any) -> None:
        if str(target).endswith(".engine.json") and not Path(target).name.startswith("."):
            raise OSError("power cut")
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(BfsrError):
        build(request_for(batch=(1, 2, 2), force=True, precision="fp32", uint8_io=False, tile=(32, 32)), here)
    monkeypatch.undo()
    assert sidecar.read(first.path) == first.sidecar
    assert sorted(path.suffix for path in first.path.parent.iterdir()) == [".cache", ".engine", ".json"]


# ---- TensorRT on a Jetson, with a builder that is not there


def test_what_a_jetson_build_is_told(request_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BFSR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt, "load_api", lambda flavour: flavour)
    monkeypatch.setattr(machine, "cuda_version", lambda: "12.6")
    monkeypatch.setattr(machine, "driver_version", lambda: "540.4.0")
    orders: list[Any] = []

    def stand_in(api: Any, order: Any, progress: Any) -> Built:
        orders.append((api, order))
        return Built(b"plan", True, {"weights_bytes": 7}, ("careful",))

    monkeypatch.setattr(builder, "build", stand_in)
    done = build(request_for("jetson-orin-nano", precision="int8", tile=None), NANO)
    (api, order), made = orders[0], done.sidecar
    assert made is not None
    assert api == "tensorrt"
    assert (order.workspace_mib, order.tactic_dram_mib, order.optimization_level) == (512, 1024, 2)
    assert (order.tile, order.batch, order.quantized) == ((128, 128), (1, 2, 2), True)
    assert order.timing_cache == tmp_path / "cache" / "timing" / "tensorrt-10.3.0-sm8.7.cache"
    assert (made.sm, made.gpu, made.cuda, made.driver) == (("8.7",), "Orin", "12.6", "540.4.0")
    assert (made.flavour, made.flavour_version, made.system) == ("tensorrt", "10.3.0", "linux-aarch64")
    assert made.weakly_typed
    assert made.options["optimization_level"] == 2
    assert [note.split(":")[0] for note in done.notes] == [
        "the builder warns",
        "built weakly typed, so layers may run in other precisions than the graph says",
    ]
    assert build(request_for("jetson-orin-nano", precision="int8", tile=None), NANO).reused
    assert not build(request_for("jetson-orin-nano", precision="int8", tile=None, optimization_level=4), NANO).reused


def test_another_module_or_power_mode_is_another_build(
    request_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT chooses kernels by their time, which depends on both."""
    monkeypatch.setenv("BFSR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt, "load_api", lambda flavour: flavour)
    orders: list[Any] = []

    def stand_in(api: Any, order: Any, progress: Any) -> Built:
        orders.append(order)
        return Built(b"plan", False, {}, ())

    monkeypatch.setattr(builder, "build", stand_in)
    (gpu,) = NANO.gpus
    larger = dataclasses.replace(NANO, gpus=(dataclasses.replace(gpu, name="Orin, 16 SMs"),))
    for here in (NANO, larger, dataclasses.replace(NANO, power_mode="15W (0)")):
        assert not build(request_for("jetson-orin-nano"), here).reused
        assert build(request_for("jetson-orin-nano"), here).reused
    names = [order.timing_cache.name for order in orders]
    assert names == ["tensorrt-10.3.0-sm8.7.cache", "tensorrt-10.3.0-sm8.7.cache", "tensorrt-10.3.0-sm8.7-15W-0.cache"]


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("jetson-orin-nano", {"dla_core": 0}, "has no DLA cores"),
        ("jetson-agx-orin", {"dla_core": 2, "precision": "fp16"}, "has 2 DLA cores"),
        ("jetson-agx-orin", {"dla_core": 0}, "has no FP32"),
        ("jetson-agx-orin", {"dla_core": 0, "precision": "int8", "batch": (1, 1, 1)}, "without Q/DQ nodes only"),
        ("jetson-agx-orin", {"dla_core": 0, "precision": "fp16"}, "add --batch 1,1,1"),
        ("cpu", {"calibration": Path("x.json")}, "--calibration belongs to --int8"),
        ("cpu", {"frontend": "torch-tensorrt"}, "the target runs openvino"),
        ("datacenter", {"frontend": "torch-tensorrt"}, "the model is an ONNX file"),
        ("datacenter", {"frontend": "torch-tensorrt", "precision": "int8"}, "INT8 needs the Q/DQ graph"),
        ("cpu", {"tile": (30, 32)}, "does not fit this network"),
    ],
)
def test_contradictions(request_for: Any, here: Here, name: str, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        build(request_for(name, **changes), here)


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (helpers.machine(tensorrt="10.3.0"), "found is none"),
        (helpers.machine(gpu="Quadro P400", sm="6.1", tensorrt="10.3.0"), "P400"),
        (helpers.machine(), "tensorrt is not installed here"),
    ],
)
def test_torch_tensorrt_needs_the_target(request_for: Any, tmp_path: Path, machine: Here, reason: str) -> None:
    """It builds for the GPU that it finds, and a bundle would hold an ONNX file."""
    request = request_for("datacenter", frontend="torch-tensorrt", checkpoint=tmp_path / "mine.safetensors")
    with pytest.raises(BackendError, match="--frontend torch-tensorrt cannot build for datacenter here") as raised:
        build(request, machine)
    assert reason in raised.value.why[0]
    assert not (tmp_path / "out").exists()


# ---- bundles


@pytest.mark.parametrize("name", ["jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "datacenter"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_bundle(request_for: Any, tmp_path: Path, name: str, precision: str) -> None:
    request = request_for(name, precision=precision, tile=None)
    done = build(request, helpers.machine())
    again = build(request, helpers.machine())
    assert done == again
    assert done.sidecar is None
    assert "cannot build for" in done.notes[0]
    folder = tmp_path / "out" / f"tiny-{name}-{precision}.bundle"
    assert done.path == folder
    expected = {"README.txt", "tiny.onnx", f"tiny.{precision}.128x128.onnx", f"{name}.toml"}
    assert {path.name for path in folder.iterdir()} == expected | (
        {"tiny.calibration.json"} if precision == "int8" else set()
    )
    text = (folder / "README.txt").read_text("utf-8")
    assert f"bfsr-edge build-engine --model tiny.onnx --{precision} --target {name}" in text
    assert f"--model engines/tiny-{name}-{precision}.engine --device cuda:0" in text
    assert list((tmp_path / "out").iterdir()) == [folder]


def test_what_is_in_a_bundle_builds(request_for: Any, here: Here, tmp_path: Path) -> None:
    """As the device does it: from the bundle's own files, for a device that this machine can be."""
    folder = build(request_for("jetson-orin-nano", precision="int8"), helpers.machine()).path
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    (tmp_path / "tiny.onnx").unlink()
    (tmp_path / "tiny.calibration.json").unlink()
    request = Request(resolve(moved / "tiny.onnx"), load_profile("cpu"), precision="int8", out=moved, tile=(32, 32))
    done = build(request, here)
    assert done.shares["int8"] > 0.2


def test_a_bundle_names_the_engine_that_will_be(
    request_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Different engines are different bundles, and the device builds what the text names."""
    monkeypatch.setenv("BFSR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt, "load_api", lambda flavour: flavour)
    monkeypatch.setattr(builder, "build", lambda *_: Built(b"plan", False, {}, ()))
    changes: list[dict[str, Any]] = [{}, {"tile": None}, {"tile": (32, 48)}, {"uint8_io": True}]
    folders = []
    for change in changes:
        request = request_for("jetson-orin-nano", precision="fp16", **change)
        folder = build(request, helpers.machine()).path
        engine = build(request, NANO).path
        assert folder.stem == engine.stem
        assert f"--model engines/{engine.name} --device cuda:0" in (folder / "README.txt").read_text("utf-8")
        folders.append(folder)
    assert len(set(folders)) == len(changes)


def test_a_bundle_for_auto_leaves_the_engine_to_restore(request_for: Any) -> None:
    """Which one stays shows on the device."""
    request = request_for("jetson-orin-nano", precision="")
    folder = build_auto(request, helpers.machine(), budget=0.03).path
    text = (folder / "README.txt").read_text("utf-8")
    assert "bfsr-edge restore PHOTOS --model tiny.onnx --device cuda:0" in text
    assert "the calibration is here" in text


def test_a_profile_of_ones_own_travels_along(request_for: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("flavour = 'tensorrt'\nsm = ['8.7']\nboards = ['Orin Nano']\nsummary = 'mine'\n")
    request = dataclasses.replace(request_for(precision="fp16"), profile=load_profile(str(mine)), target=str(mine))
    folder = build(request, helpers.machine()).path
    assert (folder / "mine.toml").read_text() == mine.read_text()
    assert "--target ./mine.toml" in (folder / "README.txt").read_text("utf-8")


# ---- the command that builds it again


def test_rebuild_command_says_everything(request_for: Any, tmp_path: Path) -> None:
    request = request_for(
        "jetson-agx-orin",
        precision="fp16",
        tile=(32, 48),
        batch=(2, 2, 2),
        uint8_io=True,
        dla_core=1,
        optimization_level=5,
        calibration=Path("a b.json"),
    )
    words = shlex.split(command_of(request, "int8"))
    assert words == [
        "bfsr-edge", "build-engine", "--model", str(tmp_path / "tiny.onnx"), "--int8", "--target", "jetson-agx-orin",
        "--tile", "32x48", "--batch", "2,2,2", "--calibration", "a b.json", "--opt-level", "5", "--uint8-io",
        "--dla-core", "1", "--out", str(tmp_path / "out"),
    ]  # fmt: skip


# ---- more than one process


def test_two_processes_build_once(tmp_path: Path) -> None:
    """Both start before either is done, as the file's lock is held by a third until both wait."""
    helpers.network(tmp_path / "tiny.onnx", width=32)
    command = [*CLI, "build-engine", "--model", "tiny.onnx", "--fp32", "--target", "cpu", "--tile", "32"]
    engine = tmp_path / "engines" / "tiny-cpu-fp32-32x32.engine"
    with files.locked(engine, lambda: pytest.fail("nobody else should hold it")):
        both = [
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in both:
            assert process.stderr is not None
            assert "another process builds" in process.stderr.readline()
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("is there already" in output for output in outputs) == [False, True]
    assert sorted(path.name for path in engine.parent.iterdir() if path.is_file()) == [
        engine.name,
        engine.name + ".json",
    ]
    load(engine)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    target = tmp_path / "it.engine"
    code = (
        "import sys, time; from pathlib import Path; from bfsr_edge.engines.files import locked\n"
        f"with locked(Path({str(target)!r}), lambda: None): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    with files.locked(target, lambda: pytest.fail("the dead hold no locks")):
        pass
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    helpers.network(tmp_path / "tiny.onnx")
    code = (
        "import sys, time; from bfsr_edge.engines import openvino; from bfsr_edge.cli import main\n"
        "prove = openvino.prove\n"
        "def slow(*arguments, **more):\n    print('building', flush=True); time.sleep(30)\n"
        "openvino.prove = slow\n"
        "main(['build-engine', '--model', 'tiny.onnx', '--fp32', '--target', 'cpu', '--tile', '32'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "interrupted" in told
    assert "Traceback" not in told
    assert not list((tmp_path / "engines").iterdir())
