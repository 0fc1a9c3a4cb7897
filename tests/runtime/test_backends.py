"""What is particular to one backend: the precision it executes, and how the three agree."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bfsr_edge import weights
from bfsr_edge.errors import BackendError, ModelError, OutOfMemory
from bfsr_edge.runtime import load, onnxruntime, openvino

Write = Callable[..., Path]
Noise = Callable[..., NDArray[np.float32]]


def test_modules_do_not_shadow_the_packages(backend: str, model: Path) -> None:
    ours, theirs = importlib.import_module(f"bfsr_edge.runtime.{backend}"), importlib.import_module(backend)
    assert ours is not theirs
    assert load(model, backend=backend).info.backend_version == theirs.__version__.split("-")[0]


def test_an_empty_result_of_openvino_is_a_lack_of_memory(write: Write, noise: Noise) -> None:
    """It comes in place of an error, once in a while: tests/restore/test_memory.py has met it."""
    engine = load(write(), backend="openvino", tile=16)
    assert isinstance(engine, openvino.Engine)
    real = engine._requests
    engine._requests = [SimpleNamespace(infer=lambda *_, **__: [np.empty((0, 3, 64, 64), np.float32)])]
    with pytest.raises(OutOfMemory, match="not enough memory to run"):
        engine.run(noise(1, 3, 16, 16))
    engine._requests = real
    assert engine.run(noise(1, 3, 16, 16)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_executed_or_refused(backend: str, model: Path, noise: Noise, precision: str) -> None:
    """Which it is depends on the CPU; what may never happen is another precision without a word."""
    batch = noise(1, 3, 16, 16)
    exact = load(model, backend=backend, tile=16).run(batch)
    try:
        engine = load(model, backend=backend, tile=16, precision=precision)
    except BackendError as error:
        refusal = error
    else:
        assert precision in engine.info.precision
        difference = np.abs(engine.run(batch) - exact).max() / np.abs(exact).max()
        assert 0 < difference < 0.03
        return
    assert precision in refusal.what
    assert "fp32" in refusal.fix


def test_damaged_weights_are_found_in_the_result(write: Write, noise: Noise) -> None:
    for backend in ("openvino", "onnxruntime"):
        pytest.importorskip(backend)
        engine = load(write(weight=1e38), backend=backend, tile=16)
        with pytest.raises(BackendError, match="NaN or Inf in 2 of 2 tiles"):
            engine.run(noise(2, 3, 16, 16))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_graph_no_backend_knows(write: Write, backend: str) -> None:
    import onnx

    pytest.importorskip(backend)
    path = write()
    proto = onnx.load(path)
    proto.graph.node[0].op_type = "Confolution"
    proto.graph.node[0].domain = "somebody.else"  # an operator of ONNX's own domain is refused before
    proto.opset_import.add(domain="somebody.else", version=1)
    onnx.save(proto, str(path))
    with pytest.raises(ModelError, match=f"{backend} cannot load") as caught:
        load(path, backend=backend)
    assert "Confolution" in str(caught.value)


class FakeCompiled:
    """An OpenVINO compiled model that says of itself what the test wants."""

    def __init__(self, hint: str, *layers: tuple[str, str]) -> None:
        self.hint, self.layers = hint, layers

    def get_property(self, name: str) -> Any:
        assert name == "INFERENCE_PRECISION_HINT"
        return SimpleNamespace(to_string=lambda: self.hint)

    def get_runtime_model(self) -> Any:
        def told(text: str) -> Any:
            return SimpleNamespace(astype=lambda _kind: text)

        infos = [{"layerType": told(kind), "runtimePrecision": told(precision)} for kind, precision in self.layers]
        return SimpleNamespace(get_ops=lambda: [SimpleNamespace(get_rt_info=lambda info=info: info) for info in infos])


class TestOpenVINO:
    @pytest.mark.parametrize(
        ("asked", "hint", "layers", "executed"),
        [
            ("fp32", "f32", [("Convolution", "f32"), ("Input", "bf16")], "fp32"),
            ("fp32", "f32", [("Convolution", "f32"), ("Convolution", "u8")], "fp32+int8"),
            ("bf16", "bf16", [("Convolution", "bf16"), ("Convolution", "f32")], "bf16+fp32"),
            ("fp32", "f32", [], "fp32"),
        ],
    )
    def test_executed(self, asked: str, hint: str, layers: list[tuple[str, str]], executed: str) -> None:
        assert openvino._executed(FakeCompiled(hint, *layers), asked) == executed

    @pytest.mark.parametrize(
        ("asked", "hint", "layer"), [("fp32", "bf16", "bf16"), ("bf16", "f32", "f32"), ("fp32", "f32", "bf16")]
    )
    def test_another_precision_is_an_error(self, asked: str, hint: str, layer: str) -> None:
        with pytest.raises(BackendError, match=f"not {asked}"):
            openvino._executed(FakeCompiled(hint, ("Convolution", layer)), asked)

    def test_quantized_graphs_run_in_int8(self, write: Write, noise: Noise) -> None:
        engine = load(write(quantized=True), backend="openvino", tile=16)
        assert "int8" in engine.info.precision
        assert np.isfinite(engine.run(noise(1, 3, 16, 16))).all()

    def test_threads(self, write: Write, noise: Noise) -> None:
        engine = load(write(), backend="openvino", threads=1)
        assert isinstance(engine, openvino.Engine)
        assert engine._requests[0].get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


class TestONNXRuntime:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("onnxruntime")

    def test_quantized_graphs_say_so(self, write: Write) -> None:
        assert load(write(quantized=True), backend="onnxruntime", tile=16).info.precision == "fp32+int8"

    def test_threads(self, write: Write) -> None:
        engine = load(write(), backend="onnxruntime", threads=1)
        assert isinstance(engine, onnxruntime.Engine)
        assert engine._session.get_session_options().intra_op_num_threads == 1

    def test_streams_share_the_cores_that_this_process_may_use(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3}, raising=False)
        engine = load(write(), backend="onnxruntime", streams=2)
        assert isinstance(engine, onnxruntime.Engine)
        assert engine._session.get_session_options().intra_op_num_threads == 2

    def test_cuda_that_falls_back_is_an_error(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        """The package offers CUDA, but a session made for it lands on the CPU: a library is missing."""
        import onnxruntime as package

        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(package, "get_available_providers", lambda: providers)
        session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
        given: dict[str, Any] = {}

        def made(*_args: Any, **options: Any) -> Any:
            given.update(options)
            return session

        monkeypatch.setattr(package, "InferenceSession", made)
        with pytest.raises(BackendError, match="CPUExecutionProvider, not on cuda:1"):
            load(write(), backend="onnxruntime", device="cuda:1")
        assert given["provider_options"] == [{"device_id": "1", "use_tf32": "0"}]


class TestTorch:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("torch")

    def test_threads_are_put_back(self, tmp_path: Path, noise: Noise, make_checkpoint: Write) -> None:
        import torch

        before = torch.get_num_threads()
        load(make_checkpoint(), threads=before + 1).run(noise(1, 3, 128, 128))
        assert torch.get_num_threads() == before

    def test_agreement(self, tmp_path: Path, noise: Noise, make_checkpoint: Write) -> None:
        """The three backends and both kinds of file give the same picture."""
        from bfsr_edge.export import export

        pytest.importorskip("onnxruntime")
        path = make_checkpoint()
        graph = export(path, tmp_path / "tiny.onnx", tile=32).path
        batch = noise(2, 3, 40, 24)
        expected = load(path, tile=(40, 24)).run(batch)
        for backend in ("openvino", "onnxruntime"):
            result = load(graph, backend=backend, tile=(40, 24)).run(batch)
            np.testing.assert_allclose(result, expected, atol=2e-5)

    def test_shipped_names(self, tmp_path: Path, make_checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        """auto takes the graph on a CPU; torch takes the checkpoint of the same name."""
        from bfsr_edge.export import export

        pytest.importorskip("onnxruntime")
        path = make_checkpoint()
        export(path, tmp_path / "tiny.onnx", tile=32)
        files = {
            kind: {"path": file, "sha256": weights.sha256_of(tmp_path / file)}
            for kind, file in (("checkpoint", path.name), ("onnx", "tiny.onnx"))
        }
        entry = {"name": "tiny", "summary": "", "architecture": "edge-unet", "parameters": 1, "gmacs": 1}
        entry |= {"files": files, "scores": {}, "licence": ""}
        (tmp_path / "manifest.json").write_text(json.dumps({"version": 1, "models": [entry]}))
        monkeypatch.setattr(weights, "FOLDER", tmp_path)
        assert load("tiny").info.backend == "openvino"
        assert load("tiny", backend="torch").info.sha256 == files["checkpoint"]["sha256"]
        assert load("tiny", backend="onnxruntime").info.model == "tiny"
        with pytest.raises(BackendError, match="torch cannot use cuda:98"):
            load("tiny", device="cuda:98")
