"""``bfsr-edge doctor``: probes that stand alone, advice from what they find, and a self-test that can fail."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bfsr_edge import doctor, selftest, weights
from bfsr_edge.cli import main
from bfsr_edge.errors import BackendError
from bfsr_edge.runtime import built, load, machine, sidecar
from tests.runtime.engine_files import Bench, described, write_engine


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BFSR_EDGE_CACHE", str(tmp_path / "cache"))


def program(folder: Path, name: str, text: str, *, seconds: float = 0, code: int = 0) -> None:
    """Put a program that prints a text into a folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nsleep {seconds}\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_this_machine() -> None:
    """As a user runs it."""
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "bfsr_edge.cli", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    found = json.loads(run.stdout)
    assert seconds < 20  # 1 s on an idle machine
    assert found["python"]["version"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["system"]["kind"] == machine.system()
    assert found["cpu"]["cores"] >= 1
    assert found["backends"]["openvino"]["version"][0].isdigit()
    assert all({"version", "error"} & set(entry) for entry in found["backends"].values())
    assert not [section for section in found.values() if isinstance(section, dict) and "error" in section]


def test_text_holds_every_finding() -> None:
    report = doctor.examine()
    text = report.text()
    for section, found in report.sections.items():
        assert f"\n{section}\n" in f"\n{text}"
        for key in found:
            assert f"  {key}" in text
    assert "advice" in text


def test_a_probe_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, Any]:
        raise ZeroDivisionError("no such thing")

    for name in ("_python", "_cpu", "_memory", "_gpu", "_jetson", "_backends", "_engines", "_disk"):
        monkeypatch.setattr(doctor, name, fail)
    report = doctor.examine()
    assert report.sections["gpu"] == {"error": "ZeroDivisionError: no such thing"}
    assert "bfsr-edge" in report.sections
    assert "no such thing" in report.text()
    json.dumps(report.as_json())


class TestBackends:
    def test_a_module_that_crashes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "crashing_module.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        (tmp_path / "failing_module.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object')")
        (tmp_path / "talking_module.py").write_text("print('hello'); __version__ = '1.2.3'")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        assert doctor._import("crashing_module") == {"error": "importing it crashes (signal 11)"}
        assert "libnvinfer.so.10" in doctor._import("failing_module")["error"]
        told = doctor._import("talking_module")
        assert told == {"version": "1.2.3", "file": str(tmp_path / "talking_module.py")}
        assert doctor._import("no_such_module_at_all") == {"error": "No module named 'no_such_module_at_all'"}

    def test_a_module_that_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "hanging_module.py").write_text("import time; time.sleep(60)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(doctor, "IMPORT_SECONDS", 0.2)
        assert "takes more than" in doctor._import("hanging_module")["error"]

    @pytest.mark.parametrize(
        ("file", "origin"),
        [
            ("/usr/lib/python3.10/dist-packages/tensorrt/__init__.py", "JetPack or Debian"),
            ("/opt/venv/lib/python3.10/site-packages/tensorrt/__init__.py", "pip"),
            ("/usr/local/lib/python3.10/dist-packages/tensorrt/__init__.py", "pip"),
        ],
    )
    def test_origin(self, file: str, origin: str) -> None:
        assert doctor._origin(file) == origin


class TestJetson:
    @pytest.fixture
    def jetson(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        release = tmp_path / "nv_tegra_release"
        release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
        monkeypatch.setattr(machine, "_TEGRA_RELEASE", release)
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        program(folder, "nvpmodel", "NV Power Mode: 15W\n0")
        program(folder, "dpkg-query", "6.2+b77")
        return folder

    def test_what_it_is(self, jetson: Path) -> None:
        found = doctor._jetson()
        assert found["Jetson Linux"] == "36.4.3"
        assert found["JetPack"] == "6.2+b77"
        assert found["power mode"] == machine.power_mode() == "15W (0)"

    def test_programs_that_fail_or_hang(self, jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "COMMAND_SECONDS", 0.3)
        monkeypatch.setattr(machine, "COMMAND_SECONDS", 0.3)
        program(jetson, "nvpmodel", "never said", seconds=5)
        program(jetson, "dpkg-query", "an error", code=1)
        found = doctor._jetson()
        assert found["JetPack"] == "not installed"
        assert "not known" in found["power mode"]
        assert not [line for line in doctor._advice({"jetson": found}) if "power mode" in line]
        for text, code in (("NV Power Mode: 15W\n0", 1), ("no such thing", 0)):
            program(jetson, "nvpmodel", text, code=code)
            assert machine.power_mode() == ""

    def test_advice(self, jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = machine.Gpu(0, "Orin", "8.7", 8 << 30, True)
        monkeypatch.setattr(machine, "gpus", lambda: [gpu])
        monkeypatch.setattr(machine, "cuda_version", lambda: "12.6")
        sections: dict[str, dict[str, Any]] = {
            "jetson": doctor._jetson(),
            "backends": {"openvino": {"version": "2026.4"}, "tensorrt": {"error": "No module named 'tensorrt'"}},
        }
        advice = doctor._advice(sections)
        assert any("--system-site-packages" in line for line in advice)
        assert any(line.endswith("no CUDA layer: pip install 'cuda-python==12.6.*'") for line in advice)
        assert any("power mode" in line and "nvpmodel" in line for line in advice)
        sections["backends"] |= {"tensorrt": {"version": "10.3.0", "origin": "pip"}, "cuda-python": {"version": "12.6"}}
        program(jetson, "nvpmodel", "NV Power Mode: MAXN_SUPER\n2")
        sections["jetson"] = doctor._jetson()
        assert [line for line in doctor._advice(sections) if "free" not in line and "VNNI" not in line] == [
            "pip's tensorrt hides JetPack's: pip uninstall tensorrt (docs/jetson.md)"
        ]


def test_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "nvidia-smi", "580.65.06, 41, 2100 MHz, 2520 MHz, 60.1 W, 450.00 W, 512 MiB")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (state,) = doctor._gpu()["nvidia-smi"]
    assert state["temperature.gpu"] == "41"
    assert state["clocks.sm"] == "2100 MHz"


def test_both_opencvs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version", lambda name: "5.0" if name in doctor.OPENCV[:2] else "")
    backends = {"openvino": {"version": "1"}, "opencv": {"version": "5.0", "packages": list(doctor.OPENCV[:2])}}
    (line,) = [line for line in doctor._advice({"backends": backends}) if "overwrite" in line]
    assert "opencv-python and opencv-python-headless" in line


def test_engines_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built, "folders", lambda: [tmp_path])
    path = tmp_path / "tiny.engine"
    path.write_bytes(b"plan")
    sidecar.write(path, described(path))
    (tmp_path / "other.engine").write_bytes(b"without a sidecar")
    found = doctor._engines()
    assert found[str(path)] == "int8, tensorrt 10.3.0, rtx-40, 0.0 MiB"
    assert set(found) == {"cache", str(path)}
    assert "not made yet" in found["cache"]


class TestSelftest:
    def test_on_this_machine(self, tmp_path: Path) -> None:
        """The real thing: builds, runs, compares, times; what it prints can be put into an issue."""
        result = CliRunner().invoke(main, ["doctor", "--selftest", "--json"])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        test = found["selftest"]
        assert test["passed"] is True
        assert test["engine"]["system"] == machine.system()
        assert test["psnr"] is None or test["psnr"] > selftest.LEAST_PSNR[test["engine"]["precision"]]
        assert test["milliseconds"] > 0
        assert test["seconds_to_build"] > 0
        assert test["reference"].startswith(("onnxruntime", "openvino"))
        assert "python" in found["doctor"]

    def test_a_wrong_engine_fails(self, tmp_path: Path) -> None:
        """An engine of other weights is told by its picture."""
        import onnx
        from onnx import numpy_helper

        model = weights.resolve(weights.DEFAULT, kind="onnx")

        def build() -> Path:
            import openvino

            proto = onnx.load(str(model.path))
            for tensor in proto.graph.initializer:
                values = numpy_helper.to_array(tensor)
                if values.ndim == 4:
                    tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))
            path = tmp_path / "wrong.engine"
            path.write_bytes(proto.SerializeToString())
            fields = {"flavour": "openvino", "flavour_version": openvino.__version__.split("-")[0], "sm": ()}
            fields |= {"tile": (128, 128), "precision": "fp32"}
            sidecar.write(path, described(path, **fields))
            return path

        result = selftest.selftest(build, model.path)
        assert not result.passed
        assert result.step == "compare"
        assert "dB away from FP32" in result.error
        assert result.psnr is not None
        assert result.psnr < 40

    def test_nothing_to_compare_with(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where TensorRT engines alone run, a self-test is no failure, and says what it left out."""
        from bfsr_edge.commands import doctor as command

        path = write_engine(tmp_path / "tiny.engine", Bench(monkeypatch, "10.3.0").release)
        onnx = weights.resolve(weights.DEFAULT, kind="onnx").path
        for module in ("onnxruntime", "openvino"):
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr(selftest, "SECONDS_OF_RUNS", 0.0)
        result = selftest.selftest(lambda: path, onnx)
        assert (result.passed, result.psnr, result.reference) == (True, None, selftest.NOT_COMPARED), result
        assert result.milliseconds > 0
        assert "its picture not compared: neither onnxruntime nor openvino" in command._told(result)
        monkeypatch.setattr(selftest, "load", lambda file, **options: load(file, **options) if not options else fail())

        def fail() -> Any:
            raise BackendError("openvino executes bf16 here")

        result = selftest.selftest(lambda: path, onnx)
        assert (result.passed, result.step) == (False, "compare")

    def test_what_a_graph_replays_is_compared(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first run is plain, the second captures, and the third is the first of a CUDA graph."""
        bench = Bench(monkeypatch, "10.3.0")
        path = write_engine(tmp_path / "tiny.engine", bench.release)
        launched: list[int] = []

        def reference(onnx: Path, batch: Any) -> tuple[Any, str]:
            launched.append(bench.device.calls["launch"])
            return batch.repeat(4, 2).repeat(4, 3), "the fake's own"

        monkeypatch.setattr(selftest, "_reference", reference)
        monkeypatch.setattr(selftest, "SECONDS_OF_RUNS", 0.0)
        assert selftest.selftest(lambda: path, path).passed
        assert launched == [2], "two chunks of the best size; what remains is run plainly"

    @pytest.mark.parametrize("error", [BackendError("no builder", why=("no GPU",)), ZeroDivisionError("oh")])
    def test_a_build_that_fails(self, tmp_path: Path, error: Exception) -> None:
        def build() -> Path:
            raise error

        result = selftest.selftest(build, tmp_path / "none.onnx")
        assert (result.passed, result.step) == (False, "build")
        assert ("no builder; no GPU" in result.error) or ("ZeroDivisionError: oh" in result.error)

    def test_failure_is_exit_code_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bfsr_edge.commands import doctor as command

        monkeypatch.setattr(command, "_selftest", lambda: selftest.Selftest(step="run", error="a black picture"))
        monkeypatch.setattr(doctor, "examine", lambda: doctor.Report({"python": {"version": "3.10"}}, (), 0.1))
        for arguments in ([], ["--json"]):
            result = CliRunner().invoke(main, ["doctor", "--selftest", *arguments])
            assert result.exit_code == 1
            assert "a black picture" in result.output
            assert "Traceback" not in result.output


def test_pictures() -> None:
    made = selftest.pictures(3, 64, 96)
    assert made.shape == (3, 3, 64, 96)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1
    np.testing.assert_array_equal(made, selftest.pictures(3, 64, 96))
    assert made.std(axis=(1, 2, 3)).min() > 0.1
