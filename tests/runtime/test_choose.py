"""Which file runs, and by what: engines by path, engines that were built for a model, and what is said otherwise."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.runtime import choose, load, machine, sidecar
from bfsr_edge.weights import sha256_of
from tests.runtime.engine_files import Bench, described, with_fields, write_engine

Write = Callable[..., Path]
Noise = Callable[..., NDArray[np.float32]]

pytestmark = pytest.mark.usefixtures("empty_places")


@pytest.fixture
def onnx(write: Write) -> Path:
    return write()


def build_for(onnx: Path, folder: Path, name: str = "tiny.engine", **different: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_engine(folder / name, "10.3.0", onnx_sha256=sha256_of(onnx), **different)


class TestByPath:
    def test_on_the_first_gpu(self, tmp_path: Path, bench: Bench) -> None:
        path = write_engine(tmp_path / "tiny.engine", "10.3.0")
        for device in ("auto", "cuda", "cuda:0"):
            choice = choose(path, device=device)
            assert (choice.backend, choice.device, choice.fixed_tile) == ("tensorrt", "cuda:0", (32, 32))
        assert choose(path, device="cuda:1").device == "cuda:1"
        assert choose(path, backend="tensorrt").backend == "tensorrt"

    def test_not_on_the_cpu_and_not_by_another_backend(self, tmp_path: Path, bench: Bench) -> None:
        path = write_engine(tmp_path / "tiny.engine", "10.3.0")
        with pytest.raises(UsageError, match="for NVIDIA GPUs and does not run on the CPU"):
            choose(path, device="cpu")
        with pytest.raises(BackendError, match="an engine for tensorrt, which backend openvino does not run"):
            choose(path, backend="openvino")
        with pytest.raises(UsageError, match="threads"):
            choose(path, threads=2, device="cuda")

    def test_tampered(self, tmp_path: Path, bench: Bench) -> None:
        path = write_engine(tmp_path / "tiny.engine", "10.3.0")
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(ModelError, match="is not the plan"):
            choose(path)
        sidecar.path_of(path).unlink()
        with pytest.raises(ModelError, match="has no sidecar"):
            choose(path)


class TestFound:
    @pytest.mark.parametrize("folder", ["engines", "checkout/engines", "cache/engines", "engines/deeper"])
    def test_an_engine_of_the_model(self, onnx: Path, folder: str, tmp_path: Path, bench: Bench, noise: Noise) -> None:
        engine = build_for(onnx, tmp_path / folder)
        for device in ("auto", "cuda"):
            choice = choose(onnx, device=device)
            assert choice.model.path.resolve() == engine
            assert (choice.model.name, choice.note) == (onnx.name, "")
        batch = noise(2, 3, 32, 32)
        np.testing.assert_array_equal(load(onnx).run(batch), batch.repeat(4, 2).repeat(4, 3))

    def test_the_cpu_stays_the_cpu(self, onnx: Path, tmp_path: Path, bench: Bench) -> None:
        build_for(onnx, tmp_path / "engines")
        assert choose(onnx, device="cpu").backend == "openvino"
        # a wish that the engine does not fulfil
        assert choose(onnx, threads=1).backend == "openvino"
        assert choose(onnx, precision="fp32").backend == "openvino"
        assert choose(onnx, backend="onnxruntime").backend == "onnxruntime"

    @pytest.mark.parametrize(
        "different",
        [{"sm": ("8.6",)}, {"flavour_version": "10.7.0"}, {"system": "plan9-mips"}, {"onnx_sha256": "1" * 64}],
    )
    def test_engines_for_others_are_passed_over(
        self, onnx: Path, tmp_path: Path, bench: Bench, different: dict[str, Any]
    ) -> None:
        with_fields(build_for(onnx, tmp_path / "engines"), **different)
        choice = choose(onnx)
        assert (choice.backend, choice.device) == ("openvino", "cpu")
        assert "Fake GPU 0 is here, but no engine of tiny.onnx for it" in choice.note
        assert f"bfsr-edge build-engine --model {onnx}" in choice.note

    def test_the_newest(self, onnx: Path, tmp_path: Path, bench: Bench) -> None:
        build_for(onnx, tmp_path / "engines", "a.engine", created="2026-01-01T00:00:00Z")
        build_for(onnx, tmp_path / "engines", "b.engine", created="2026-03-01T00:00:00Z")
        build_for(onnx, tmp_path / "engines", "c.engine", created="2026-02-01T00:00:00Z")
        assert choose(onnx).model.path.name == "b.engine"

    def test_another_tile_is_said(self, onnx: Path, tmp_path: Path, bench: Bench) -> None:
        build_for(onnx, tmp_path / "engines")
        assert choose(onnx, tile=32).backend == "tensorrt"
        choice = choose(onnx, tile=64)
        assert choice.backend == "openvino"
        assert "tiles of 32×32" in choice.note

    def test_no_gpu_nothing_to_say(self, onnx: Path, bench: Bench) -> None:
        bench.see_gpus(0)
        assert choose(onnx).note == ""

    def test_load_says_it_too(self, onnx: Path, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "bfsr_edge"):
            assert load(onnx).info.device == "cpu"
        assert "no engine of tiny.onnx" in caplog.text

    def test_cuda_without_an_engine(self, onnx: Path, bench: Bench) -> None:
        """What was asked for by name is not replaced by the CPU."""
        choice = choose(onnx, device="cuda:1")
        assert (choice.backend, choice.device) == ("onnxruntime", "cuda:1")
        with pytest.raises(
            BackendError, match=r"backend tensorrt runs engines, and there is none of tiny\.onnx"
        ) as caught:
            choose(onnx, backend="tensorrt")
        assert "build-engine" in caught.value.fix

    def test_cuda_without_an_engine_and_without_torch(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(BackendError, match="no engine of edge for cuda:0, and torch") as caught:
            choose("edge", device="cuda")
        assert caught.value.fix.startswith("bfsr-edge build-engine --model edge")


class TestOpenvinoEngines:
    """An ONNX file with a sidecar, run by openvino with its compiled form kept."""

    @pytest.fixture
    def engine(self, write: Write, tmp_path: Path) -> Path:
        path = tmp_path / "tiny.engine"
        write().rename(path)
        self.describe(path)
        return path

    @staticmethod
    def describe(path: Path, **different: Any) -> None:
        import openvino

        fields = {"flavour": "openvino", "flavour_version": openvino.__version__.split("-")[0], "precision": "fp32"}
        fields |= {"tile": (16, 24), "batch": (1, 1, 8), "sm": (), "target": "cpu"}
        sidecar.write(path, described(path, **{**fields, **different}))

    def test_runs_as_its_onnx_does(self, engine: Path, write: Write, noise: Noise) -> None:
        batch = noise(3, 3, 16, 24)
        expected = load(write(), device="cpu").run(batch)
        for _ in range(2):  # compiled, then read from the cache
            loaded = load(engine)
            assert (loaded.info.backend, loaded.info.device, loaded.info.precision) == ("openvino", "cpu", "fp32")
            assert (loaded.info.tile, loaded.info.sha256) == ((16, 24), sha256_of(engine))
            np.testing.assert_allclose(loaded.run(batch), expected, atol=1e-6)
        assert [path.suffix for path in engine.with_name("tiny.engine.cache").iterdir()] == [".blob"]

    def test_a_damaged_cache_is_made_anew(self, engine: Path, noise: Noise) -> None:
        batch = noise(1, 3, 16, 24)
        expected = load(engine).run(batch)
        (blob,) = engine.with_name("tiny.engine.cache").iterdir()
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes()[:100])
        np.testing.assert_allclose(load(engine).run(batch), expected, atol=1e-6)

    def test_a_folder_that_cannot_be_written(
        self, engine: Path, tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine.with_name("tiny.engine.cache").write_text("a file is in the way")
        load(engine).run(noise(1, 3, 16, 24))
        assert list((tmp_path / "cache" / "openvino").glob("*.blob"))
        (tmp_path / "other").write_text("")
        monkeypatch.setenv("BFSR_EDGE_CACHE", str(tmp_path / "other"))
        load(engine).run(noise(1, 3, 16, 24))

    def test_other_tiles(self, engine: Path, noise: Noise) -> None:
        assert choose(engine).fixed_tile is None
        assert load(engine, tile=32).run(noise(1, 3, 32, 32)).shape == (1, 3, 128, 128)

    def test_what_it_does_not_do(self, engine: Path) -> None:
        with pytest.raises(UsageError, match="for CPUs and does not run on cuda:0"):
            load(engine, device="cuda")
        with pytest.raises(BackendError, match="which backend onnxruntime does not run") as caught:
            load(engine, backend="onnxruntime")
        assert "--backend openvino" in caught.value.fix
        with pytest.raises(UsageError, match="built for fp32, and bf16"):
            load(engine, precision="bf16")
        with_fields(engine, system="linux-mips")
        with pytest.raises(ModelError, match="cannot run on this machine"):
            load(engine)

    @pytest.mark.parametrize("features", [("avx2", "avx512f"), ()])
    def test_int8_on_a_cpu_that_computes_it_wrongly(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...]
    ) -> None:
        path = tmp_path / "tiny.engine"
        write(quantized=True).rename(path)
        command = "bfsr-edge build-engine --model tiny.onnx --int8 --target cpu --calibration 'a b.json' --tile 16x24"
        self.describe(path, precision="int8", rebuild=command)
        monkeypatch.setattr(machine, "cpu_features", lambda: features)
        with pytest.raises(ModelError, match="would give wrong pictures on this CPU") as caught:
            load(path)
        assert caught.value.fix.endswith("build-engine --model tiny.onnx --target cpu --tile 16x24 --fp32")

    def test_quantized_and_threads(
        self, write: Write, tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "tiny.engine"
        write(quantized=True).rename(path)
        self.describe(path, precision="int8")
        monkeypatch.setattr(machine, "cpu_features", lambda: ("avx512_vnni",))
        for precision in ("auto", "fp32"):
            loaded = load(path, precision=precision, threads=1)
            assert "int8" in loaded.info.precision
            assert np.isfinite(loaded.run(noise(1, 3, 16, 24))).all()

    def test_uint8(self, tmp_path: Path, noise: Noise) -> None:
        """8-bit pixels in and out, in both backends that read ONNX files."""
        import onnx
        from onnx import TensorProto, helper

        path = tmp_path / "tiny.onnx"
        nodes = [
            helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest"),
        ]
        scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 4, 4])
        ends = [
            helper.make_tensor_value_info("input", TensorProto.UINT8, ["N", 3, 16, 24]),
            helper.make_tensor_value_info("output", TensorProto.UINT8, ["N", 3, 64, 96]),
        ]
        graph = helper.make_graph(nodes, "nearest", ends[:1], ends[1:], [scales])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
        batch = noise(2, 3, 16, 24)
        rounded = np.rint(batch * 255) / np.float32(255)
        for backend in ("openvino", "onnxruntime"):
            pytest.importorskip(backend)
            result = load(path, backend=backend).run(batch)
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, rounded.repeat(4, 2).repeat(4, 3), atol=1e-6)
            batch[0, 0, 0, 0] = np.nan
            with pytest.raises(BackendError, match="NaN or Inf in 1 of 2 tiles"):
                load(path, backend=backend).run(batch)
            batch = noise(2, 3, 16, 24)


class TestMachine:
    def test_system(self) -> None:
        name, _, architecture = machine.system().partition("-")
        assert name
        assert architecture not in ("", "amd64", "arm64")

    def test_cache_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert machine.cache_folder() == tmp_path / "cache"
        monkeypatch.delenv("BFSR_EDGE_CACHE")
        assert machine.cache_folder().name == "bfsr-edge"

    @pytest.mark.parametrize(
        ("text", "release"),
        [
            ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n", "36.4.3"),
            ("something else\n", "unknown"),
            (None, ""),
        ],
    )
    def test_tegra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, release: str) -> None:
        path = tmp_path / "nv_tegra_release"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(machine, "_TEGRA_RELEASE", path)
        assert machine.tegra_release() == release

    @pytest.mark.parametrize(
        "line",
        [
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:19:34 UTC 2025",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)",
        ],
    )
    def test_driver(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
        path = tmp_path / "version"
        path.write_text(f"{line}\nGCC version:  gcc version 12.2.0\n")
        monkeypatch.setattr(machine, "_NVIDIA_PROC", path)
        assert machine.driver_version() == "580.65.06"

    def test_cpu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text("processor : 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni amx_tilex\n")
        monkeypatch.setattr(machine, "_CPUINFO", path)
        assert machine.cpu_name() == "A CPU"
        assert machine.cpu_features() == ("avx2", "avx512_vnni")
        path.write_text("processor : 0\nFeatures\t: fp asimd asimddp\n")
        assert machine.cpu_features() == ("asimd", "asimddp")

    def test_files_and_packages_that_are_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "odd").write_bytes(b" on\xff\n")
        assert machine.read_text(tmp_path / "odd") == "on\ufffd"
        assert machine.read_text(tmp_path / "none") == machine.read_text(tmp_path) == ""
        assert machine.version("numpy")
        assert machine.version("no-such-distribution") == ""

    def test_gpus_of_a_driver(self) -> None:
        """What the driver is asked, on a Jetson and beside a card."""
        attributes = [{75: 8, 76: 7, 18: 1, 16: 8}, {75: 8, 76: 9, 18: 0, 16: 128}]

        def put(place: Any, value: int) -> int:
            place._obj.value = value
            return 0

        driver = types.SimpleNamespace(
            cuDriverGetVersion=lambda number: put(number, 12060),
            cuInit=lambda flags: 0,
            cuDeviceGetCount=lambda number: put(number, 2),
            cuDeviceGet=put,
            cuDeviceGetName=lambda name, length, device: setattr(name, "value", (b"Orin", b"RTX 4090")[device.value]),
            cuDeviceTotalMem_v2=lambda memory, device: put(memory, 8 << 30),
            cuDeviceGetAttribute=lambda value, which, device: put(value, attributes[device.value][which]),
        )
        version, (orin, card) = machine._ask(driver)
        assert version == "12.6"
        assert orin == machine.Gpu(0, "Orin, 8 SMs", "8.7", 8 << 30, True)
        assert (card.name, card.sm, card.integrated) == ("RTX 4090", "8.9", False)

    def test_gpus_of_this_machine(self) -> None:
        """Whatever this machine has, asking is safe."""
        for gpu in machine.gpus():
            assert gpu.name
            assert gpu.memory > 0
            assert all(part.isdigit() for part in gpu.sm.split("."))
        assert bool(machine.gpus()) <= bool(machine.cuda_version())
